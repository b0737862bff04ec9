"""Callbacks of the agent: Lightning's hooks, with the agent's type, and a schedule in frames.

The callbacks of this package derive from it. It knows the agent's clock only.
"""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.callbacks.every import Every
from dreamer.types import Batch


class AgentCallback(pl.Callback):
    """Acts when training starts, after every update and when training ends."""

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Training starts; the prefill is over, and a checkpoint is loaded."""

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """An update is done: its metrics, and the batch that it learned from."""

    def on_end(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Training has reached its budget."""

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


class FrameCallback(AgentCallback):
    """Acts every so many frames, after the update that passed them."""

    def __init__(self, every_frames: int):
        self._every = Every(every_frames)

    def on_due(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        """A multiple of `every_frames` has been passed."""
        raise NotImplementedError

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Count from the frames of a resumed run."""
        self._every.start(agent.frames)

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Act if it is time."""
        if self._every.due(agent.frames):
            self.on_due(trainer, agent, batch)
