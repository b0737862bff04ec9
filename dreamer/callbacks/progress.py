"""Shows the progress of a run: its phase, returns, speed and remaining time.

A terminal has one line, which is drawn anew; without a terminal, it is printed from time to time.
"""

import os
import sys
from collections import deque
from collections.abc import Mapping
from threading import Event, RLock, Thread
from time import monotonic
from typing import Annotated

import pytorch_lightning as pl
from rich.console import Console
from rich.live import Live
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.callbacks.frame import AgentCallback, Counter
from dreamer.callbacks.metrics import Metrics
from dreamer.callbacks.progress_line import ProgressLine, Snapshot, as_text
from dreamer.schema.types import Positive, doc
from dreamer.schema.validation import checked_call
from dreamer.types import Batch

WINDOW = 60.0  # seconds over which rates are averaged
SHORTEST = 3.0  # seconds after which a rate is known
DRAWN_PER_SECOND = 2


class Rate:
    """The mean rate of a count over the last seconds of a clock that may pause."""

    def __init__(self):
        self._marks: deque[tuple[float, int]] = deque()  # seconds and count
        self._latest = (0.0, 0)

    def add(self, seconds: float, count: int) -> None:
        """Add the present time and count; rates start from the first one."""
        self._latest = (seconds, count)
        if not self._marks or seconds - self._marks[-1][0] >= WINDOW / 100:
            self._marks.append(self._latest)
        while len(self._marks) > 2 and self._marks[1][0] <= seconds - WINDOW:
            self._marks.popleft()

    @property
    def value(self) -> float | None:
        """The rate per second; None in the first seconds, and as long as nothing is counted."""
        if not self._marks:
            return None
        seconds, count = (b - a for a, b in zip(self._marks[0], self._latest, strict=True))
        return count / seconds if seconds >= SHORTEST and count else None


class Progress(AgentCallback):
    """Shows the line; the collection, if there is one, calls `advance`.

    The rates of learning are those of this process, without the prefill, evaluations and
    checkpoints, and so is the remaining time.
    """

    @checked_call
    def __init__(
        self,
        metrics: Metrics,
        *,
        total: int,
        every_seconds: Annotated[
            Positive, doc("Interval between lines without a terminal.", unit="seconds")
        ],
        prefill_frames: int = 0,
        counter: Counter = "frames",
    ):
        """Prepare the line; it appears with the first count.

        Args:
            metrics: has the latest returns.
            total: length of the run, prefill included.
            every_seconds: interval between lines without a terminal.
            prefill_frames: length of the prefill.
            counter: what the length counts.
        """
        self._metrics = metrics
        self._total, self._prefill, self._counter = total, prefill_frames, counter
        self._every = every_seconds
        self._started = False  # whether the agent learns
        self._phases: list[str] = []  # that interrupt the prefill or learning
        self._count = 0
        self._began: float | None = None  # when the line appeared
        self._learning_seconds, self._resumed_at = 0.0, 0.0  # until the last pause; after it
        self._first = 0  # count at the start of learning
        self._rates = {"prefill": Rate(), "count": Rate(), "updates": Rate()}
        self._display: _Terminal | _Lines | None = None

    def advance(self, count: int) -> None:
        """Set the count."""
        self._count = count
        if self._display is None:
            self._began = monotonic()
            self._display = _Terminal(self) if _has_terminal() else _Lines(self, self._every)
        if not self._started:
            self._rates["prefill"].add(monotonic(), count)
        self._display.show_if_due()

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Begin to measure the rates of learning."""
        self._started = True
        self._first = self._now(agent)
        self._learning_seconds, self._resumed_at = 0.0, monotonic()
        self.advance(self._now(agent))
        if self._display is not None:
            self._display.show_phase()

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Measure the rates; the first update, which prepares much, does not count."""
        seconds = self._learned()
        self._rates["updates"].add(seconds, agent.updates)
        count = self._now(agent)
        if count > self._first:  # not while the agent learns without collecting
            self._rates["count"].add(seconds, count)
        self.advance(count)

    def on_phase(self, name: str | None) -> None:
        """Show the phase, and stop the clock of learning meanwhile."""
        if name is None:
            self._phases.pop()
        else:
            self._learning_seconds = self._learned()
            self._phases.append(name)
        self._resumed_at = monotonic()
        if self._display is not None:
            self._display.show_phase()

    def close(self) -> None:
        """Leave the last line as it is, and end it; the cursor is visible again."""
        if self._display is not None:
            self._display.close()

    def read(self) -> Snapshot:
        """Return the present numbers."""
        prefill = not self._started and self._count < self._prefill  # not in a resumed run
        phase = [("prefill" if prefill else "learning"), *self._phases][-1]
        total = self._prefill if prefill else self._total
        count = min(self._count, total)
        rate = self._rates["prefill" if prefill else "count"].value
        left = None
        if rate is not None and not prefill and count < total:
            left = (total - count) / rate
        latest = self._metrics.latest
        return Snapshot(
            phase,
            count,
            total,
            elapsed=monotonic() - (self._began or monotonic()),
            last_return=latest.get("collect/return"),
            best_return=latest.get("collect/best_return"),
            evaluation=latest.get("eval/return_mean"),
            updates_per_second=self._rates["updates"].value,
            frames_per_second=rate if self._counter == "frames" else None,
            seconds_left=left,
            counter=self._counter,
        )

    def _now(self, agent: DreamerAgent) -> int:
        return getattr(agent, self._counter)

    def _learned(self) -> float:
        """Return the seconds of learning in this process."""
        running = self._started and not self._phases
        return self._learning_seconds + (monotonic() - self._resumed_at if running else 0)


class _Terminal:
    """A line in a terminal. What the program prints meanwhile appears above it."""

    def __init__(self, progress: Progress):
        self._live = Live(
            ProgressLine(progress.read),
            console=Console(stderr=True),
            refresh_per_second=DRAWN_PER_SECOND,
            redirect_stdout=sys.stdout.isatty(),  # else it may be a file
        )
        self._live.start(refresh=True)

    def show_if_due(self) -> None:
        """Do nothing: a thread draws it."""

    def show_phase(self) -> None:
        """Draw a new phase at once."""
        self._live.refresh()

    def close(self) -> None:
        self._live.stop()


class _Lines:
    """Lines for a file. A thread prints them in long phases without updates, too."""

    def __init__(self, progress: Progress, every_seconds: float):
        self._progress, self._every = progress, every_seconds
        self._next = monotonic() + every_seconds
        self._printing, self._done = RLock(), Event()
        self._thread = Thread(target=self._follow, daemon=True)
        self._thread.start()

    def show_if_due(self) -> None:
        """Print the line if it is time."""
        with self._printing:
            if monotonic() >= self._next:
                self._print()

    def show_phase(self) -> None:
        """Print a new phase only if it is time."""
        self.show_if_due()

    def close(self) -> None:
        """Print the last line."""
        if not self._done.is_set():
            self._done.set()
            self._print()

    def _print(self) -> None:
        self._next = monotonic() + self._every
        print(as_text(self._progress.read()), file=sys.stderr, flush=True)

    def _follow(self) -> None:
        while not self._done.wait(max(self._next - monotonic(), 0.1)):
            self.show_if_due()


def _has_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
