"""The progress bar of a run.

It shows frames, remaining time, throughput and returns. Without a terminal, it prints a line from
time to time.
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
    """The bar without a terminal: every update is a new line."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print the current line."""
        print(self, file=self.fp, flush=True)


class Progress(AgentCallback):
    """Shows the bar; the collection calls `advance`."""

    @checked_call
    def __init__(
        self,
        metrics: Metrics,
        *,
        total_frames: int,
        every_seconds: Annotated[
            Positive, doc("Interval between lines without a terminal.", unit="seconds")
        ],
    ):
        """`every_seconds` is the interval between lines without a terminal."""
        self._metrics = metrics
        self._total = total_frames
        self._mark = (0.0, 0)  # seconds, updates at the start of learning
        interactive = sys.stderr.isatty()
        self._bar = (tqdm if interactive else _Lines)(
            total=total_frames,
            unit="frame",
            unit_scale=True,
            dynamic_ncols=True,
            smoothing=0,  # show the mean rate since the start of learning
            delay=1e-9,  # otherwise it is drawn at once
            mininterval=0.5 if interactive else every_seconds,
            miniters=0,  # otherwise the next line waits for as many frames as the prefill
            leave=interactive,  # lines of a log need no line end from `close`
            bar_format="{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} frames "
            "[{elapsed} < {remaining}, {rate_fmt}{postfix}]",
        )
        self._bar.delay = 0
        self._bar.set_description_str("prefill", refresh=False)

    def advance(self, frames: int) -> None:
        """Set the bar to a frame count."""
        self._bar.update(min(frames, self._total) - self._bar.n)

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Restart the timing, without the prefill."""
        self._bar.set_description_str("learning", refresh=False)
        self._bar.initial = agent.frames
        now = time.time()
        # Set both: `close` writes no line end if the bar was last drawn before its start.
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
        self._bar.update(0)  # draws when it is due

    def close(self) -> None:
        """Leave the bar as it is, and end its line."""
        self._bar.close()
