"""Ends a run that collects nothing after so many updates; `Collect` ends all others.

It knows the agent's counters and whether the replay has a sequence to learn from.
"""

from collections.abc import Mapping

import pytorch_lightning as pl
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.callbacks.frame import AgentCallback
from dreamer.callbacks.interrupt import Interrupt
from dreamer.replay.mixture import AnyReplay
from dreamer.types import Batch


class UpdateBudget(AgentCallback):
    """Stops the run at its number of updates."""

    def __init__(
        self,
        replay: AnyReplay,
        interrupt: Interrupt,
        *,
        total_updates: int,
        batch_length: int,
    ):
        """Watch a run.

        Args:
            replay: holds the stored data.
            interrupt: checked at the start.
            total_updates: the budget.
            batch_length: T; the data must contain a sequence of this length.
        """
        self._replay, self._interrupt = replay, interrupt
        self._total, self._batch_length = total_updates, batch_length

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that a batch can be sampled."""
        if not self._replay.can_sample(self._batch_length):
            raise ValueError(
                f"`data.train` must hold a sequence of {self._batch_length} steps "
                f"(`batch.length`), got episodes of at most {self._replay.longest_episode} steps, "
                f"and {self._replay.policy_steps} policy steps in all. Set a smaller batch.length, "
                "or replay.across_episodes=true."
            )

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Stop a run that has reached its budget."""
        self._interrupt.check()
        self._stop_at_budget(trainer, agent)

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Stop at the budget."""
        self._stop_at_budget(trainer, agent)

    def _stop_at_budget(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        trainer.should_stop = agent.updates >= self._total
