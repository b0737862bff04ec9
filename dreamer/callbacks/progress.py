"""What the person at the terminal sees while a run goes on: one line.

A bar over frames with the remaining time, throughput and returns; where there is no terminal, a
line of text now and then.
"""

import sys
import time
from collections.abc import Mapping
from typing import Annotated

import pytorch_lightning as pl
from torch import Tensor
from tqdm import tqdm

from dreamer.agent import DreamerAgent
from dreamer.callbacks.frame import AgentCallback
from dreamer.callbacks.metrics import Metrics
from dreamer.schema.types import Positive, doc
from dreamer.schema.validation import checked_call
from dreamer.types import Batch


class _Lines(tqdm):
    """The bar where there is no terminal: a line below the other, each at its time."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print the line as it now is."""
        print(self, file=self.fp, flush=True)


class Progress(AgentCallback):
    """The bar; `advance` is given to whoever moves the clock."""

    @checked_call
    def __init__(
        self,
        metrics: Metrics,
        *,
        total_frames: int,
        every_seconds: Annotated[
            Positive, doc("From one line to the next without a terminal.", unit="seconds")
        ],
    ):
        """`every_seconds` is the time between two lines where there is no terminal."""
        self._metrics = metrics
        self._total = total_frames
        self._mark = (0.0, 0)  # seconds, updates when the learning started
        interactive = sys.stderr.isatty()
        self._bar = (tqdm if interactive else _Lines)(
            total=total_frames,
            unit="frame",
            unit_scale=True,
            dynamic_ncols=True,
            smoothing=0,  # the mean rate since the learning began
            delay=1e-9,  # else it would be drawn at once
            mininterval=0.5 if interactive else every_seconds,
            miniters=0,  # else a step as large as the prefill's would be waited for again
            leave=interactive,  # a line of a log has ended, and needs no end from `close`
            bar_format="{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} frames "
            "[{elapsed} < {remaining}, {rate_fmt}{postfix}]",
        )
        self._bar.delay = 0
        self._bar.set_description_str("prefill", refresh=False)

    def advance(self, frames: int) -> None:
        """Move the bar to a frame count."""
        self._bar.update(min(frames, self._total) - self._bar.n)

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Forget how fast the prefill was."""
        self._bar.set_description_str("learning", refresh=False)
        self._bar.initial = agent.frames
        now = time.time()
        # Both: `close` ends no line of a bar that was last drawn before its start.
        self._bar.start_t = self._bar.last_print_t = now
        self._mark = (now, agent.updates)

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Show throughput and returns; the bar decides when to draw."""
        seconds = time.time() - self._mark[0]
        rate = (agent.updates - self._mark[1]) / max(seconds, 1e-9)
        latest = self._metrics.latest
        shown = {"updates/s": f"{rate:.2f}"} | {
            name: f"{latest[key]:.1f}"
            for name, key in (
                ("return", "collect/return"),
                ("best", "collect/best_return"),
                ("eval", "eval/return_mean"),
            )
            if key in latest
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(0)  # draws, if it is time to

    def close(self) -> None:
        """Leave the bar as it stands, and end its line."""
        self._bar.close()
