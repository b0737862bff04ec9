"""Base classes of callbacks: hooks with the agent's type, and a schedule in frames or updates.

The callbacks of this package derive from them. They use only the counters of the agent.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, TypeAlias, TypeVar

import pytorch_lightning as pl
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.callbacks.every import Every
from dreamer.schema.types import PositiveCount, doc
from dreamer.types import Batch

Parameters = ParamSpec("Parameters")
Self = TypeVar("Self", bound=pl.Callback)

Counter: TypeAlias = Literal["frames", "updates"]  # of the agent; the x axis of a run's metrics
EveryUpdates: TypeAlias = Annotated[
    PositiveCount | None,
    doc(
        "The interval with collect=none; null: as often as `every_frames` in an online run.",
        unit="updates",
    ),
]


class AgentCallback(pl.Callback):
    """Acts when training starts, after every update and when training ends."""

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Act when training starts, after the prefill and after loading a checkpoint."""

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Act after an update, with its metrics and its batch."""

    def on_end(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Act when training ends at its budget."""

    def on_phase(self, name: str | None) -> None:
        """Act when the run begins something else than learning; None: when that is over."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook; see `on_start`."""
        assert isinstance(pl_module, DreamerAgent)
        self.on_start(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Lightning's hook; see `on_update`."""
        assert isinstance(pl_module, DreamerAgent)
        self.on_update(trainer, pl_module, outputs, batch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook; see `on_end`."""
        assert isinstance(pl_module, DreamerAgent)
        self.on_end(trainer, pl_module)


def during(
    phase: str,
) -> Callable[
    [Callable[Concatenate[Self, pl.Trainer, Parameters], None]],
    Callable[Concatenate[Self, pl.Trainer, Parameters], None],
]:
    """Decorate a callback's method that takes long: all callbacks are told its phase."""

    def decorate(
        method: Callable[Concatenate[Self, pl.Trainer, Parameters], None],
    ) -> Callable[Concatenate[Self, pl.Trainer, Parameters], None]:
        @wraps(method)
        def call(
            self: Self, trainer: pl.Trainer, *args: Parameters.args, **kwargs: Parameters.kwargs
        ) -> None:
            callbacks = getattr(trainer, "callbacks", ())
            told = [one for one in callbacks if isinstance(one, AgentCallback)]
            for one in told:
                one.on_phase(phase)
            try:
                method(self, trainer, *args, **kwargs)
            finally:
                for one in told:
                    one.on_phase(None)

        return call

    return decorate


class FrameCallback(AgentCallback):
    """Acts after an update: every so many frames, or updates in a run that collects nothing."""

    def __init__(self, every_frames: int, every_updates: int | None = None):
        """Count updates if `every_updates` is given, else frames."""
        self.counter: Counter = "frames" if every_updates is None else "updates"
        self._every = Every(every_updates or every_frames)

    def now(self, agent: DreamerAgent) -> int:
        """Return the count that the run goes by: frames or updates."""
        return getattr(agent, self.counter)

    def on_due(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        """Act after passing a multiple of the interval."""
        raise NotImplementedError

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Count from where a resumed run is."""
        self._every.start(self.now(agent))

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Call `on_due` if a multiple was passed."""
        if self._every.due(self.now(agent)):
            self.on_due(trainer, agent, batch)
