"""Averages metrics of the agent, the collection and the evaluation, and writes them.

Other callbacks pass numbers to it; it passes them to the loggers. Tensors stay on their device
until they are written, so that no update waits for a number.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.callbacks.frame import EveryUpdates, FrameCallback
from dreamer.envs.faults import describe
from dreamer.loggers import log_metrics
from dreamer.replay.mixture import AnyReplay
from dreamer.schema.types import PositiveCount, doc
from dreamer.schema.validation import checked_call
from dreamer.types import Batch

PARTIAL = "_where_"  # in keys of averages over some steps, nan where a batch has no such step


class Metrics(FrameCallback):
    """The only writer of metrics."""

    @checked_call
    def __init__(
        self,
        replay: AnyReplay,
        *,
        every_frames: Annotated[
            PositiveCount, doc("Interval between lines of averages.", unit="frames")
        ],
        every_updates: EveryUpdates = None,
    ):
        """A line at every interval holds the averages since the last line."""
        super().__init__(every_frames, every_updates)
        self.latest: dict[str, float] = {}  # the latest value of every key
        self.written_at: dict[str, int] = {}  # count at the latest `write` of every key
        self._replay = replay
        self._sources: list[Callable[[], Mapping[str, float]]] = []
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int | Tensor] = {}
        self._totals: list[str] = []  # keys of `latest` that cover the whole run
        self._warned: set[tuple[str, type[BaseException]]] = set()  # failures that were reported
        self._mark = (0.0, 0, 0)  # seconds, frames, updates at the last line

    def observe(self, values: Mapping[str, Tensor | float]) -> None:
        """Add numbers to the next averages."""
        for key, value in values.items():
            value = torch.as_tensor(value)
            count: int | Tensor = 1
            if PARTIAL in key:
                count, value = (~value.isnan()).int(), value.nan_to_num()
            self._sums[key] = self._sums[key] + value if key in self._sums else value
            self._counts[key] = self._counts.get(key, 0) + count

    def count(self, key: str) -> None:
        """Add one to a count over the whole run, written with every line."""
        self._keep(key, self.latest.get(key, 0) + 1)

    def best(self, key: str, value: float) -> None:
        """Keep the highest value of the whole run, written with every line."""
        self._keep(key, max(self.latest.get(key, value), value))

    def fail(self, part: str, key: str, error: BaseException) -> None:
        """Count a failure of an optional part, and warn once for each part and kind of error.

        Args:
            part: For the warning, such as "the evaluation".
            key: Of the count.
            error: What it raised.
        """
        self.count(key)
        if (part, type(error)) not in self._warned:
            self._warned.add((part, type(error)))
            warnings.warn(
                f"{part} failed, and the run continues: {describe(error)}. `{key}` counts this; "
                "further warnings of the kind are left out.",
                stacklevel=2,
            )

    @contextmanager
    def tolerating(self, part: str, key: str) -> Iterator[None]:
        """Let an optional part fail; see `fail`."""
        try:
            yield
        except Exception as error:
            self.fail(part, key, error)

    def add_source(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Write what a function returns with every line."""
        self._sources.append(read)

    def _keep(self, key: str, value: float) -> None:
        self.latest[key] = value
        if key not in self._totals:
            self._totals.append(key)

    def write(self, trainer: pl.Trainer, count: int, values: Mapping[str, float]) -> None:
        """Write numbers at a count of frames, or updates in a run that collects nothing."""
        self.latest.update(values)
        self.written_at.update(dict.fromkeys(values, count))
        log_metrics(trainer.loggers, values, count)

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Start the clock."""
        super().on_start(trainer, agent)
        self._mark = (time.perf_counter(), agent.frames, agent.updates)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to write the same lines as an uninterrupted one."""
        return {
            "latest": self.latest,
            "totals": self._totals,
            "sums": {key: x.item() for key, x in self._sums.items()},
            "counts": {key: int(count) for key, count in self._counts.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the numbers; failures before the restart are counted, too."""
        early = {key: self.latest[key] for key in self._totals}
        self.latest, self._totals = state_dict["latest"], state_dict["totals"]
        for key, count in early.items():
            self._keep(key, self.latest.get(key, 0) + count)
        self._sums = {key: torch.as_tensor(x) for key, x in state_dict["sums"].items()}
        self._counts = state_dict["counts"]

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Add the metrics of the update, and write a line when it is due."""
        self.observe(metrics)
        super().on_update(trainer, agent, metrics, batch)

    def on_due(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        """Write a line."""
        self.flush(trainer, agent)

    def on_end(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Write the last line."""
        self.flush(trainer, agent)

    def flush(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Write the averages since the last line, the throughput and the state of the replay."""
        if not self._sums:
            return
        counts = {k: int(count) for k, count in self._counts.items()}
        values = {k: x.item() / counts[k] for k, x in self._sums.items() if counts[k]}
        self._sums, self._counts = {}, {}
        values |= {key: self.latest[key] for key in self._totals}
        now = (time.perf_counter(), agent.frames, agent.updates)
        seconds, frames, updates = (b - a for a, b in zip(self._mark, now, strict=True))
        self._mark = now
        if self.counter == "frames":
            values["perf/frames_per_second"] = frames / seconds
            values["replay/ratio"] = agent.updates / max(agent.policy_steps, 1)
        values["perf/updates_per_second"] = updates / seconds
        if torch.cuda.is_available():
            values["perf/gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        values["replay/policy_steps"] = self._replay.policy_steps
        values["replay/episodes"] = self._replay.episodes
        if (restarts := self._replay.stream_restarts) is not None:
            values["replay/stream_restarts"] = restarts
        for read in self._sources:
            values |= read()
        values["updates"] = agent.updates
        self.write(trainer, self.now(agent), values)
