"""Fills the replay: a random prefill, then a few policy steps between two updates.

It decides when the agent acts and when the run ends. It knows the agent's clock and the collector,
and leaves acting to the policy it is given.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl

from dreamer.agent import DreamerAgent
from dreamer.callbacks.interrupt import Interrupt
from dreamer.callbacks.metrics import Metrics
from dreamer.collector import Collector, EpisodeStats, Policy
from dreamer.replay.buffer import Replay
from dreamer.types import TimeStep


class Collect(pl.Callback):
    """Prefill, collect, and stop at the frame budget."""

    def __init__(
        self,
        collector: Collector,
        replay: Replay,
        metrics: Metrics,
        interrupt: Interrupt,
        *,
        random_policy: Policy,
        policy: Policy,
        action_repeat: int,
        batch_length: int,
        total_frames: int,
        prefill_policy_steps: int,
        pretrain_updates: int,
        train_every_policy_steps: int,
        on_frames: Callable[[int], None] = lambda frames: None,
    ):
        """Connect environments and replay.

        Args:
            collector: steps the environments.
            replay: gets every step.
            metrics: gets returns and lengths of episodes.
            interrupt: asked at every step.
            random_policy: acts during the prefill.
            policy: acts afterwards.
            action_repeat: frames of one policy step.
            batch_length: T; the prefill must hold a sequence of this length.
            total_frames: the budget, prefill included.
            prefill_policy_steps: random steps before the first update.
            pretrain_updates: updates before the policy acts for the first time.
            train_every_policy_steps: policy steps from one update to the next.
            on_frames: told the frame count after every collection.

        Raises:
            ValueError: the prefill alone exceeds the budget, or a count is too small.
        """
        if train_every_policy_steps < 1 or prefill_policy_steps < 1 or pretrain_updates < 0:
            raise ValueError(
                "Expect `train_every_policy_steps` and `prefill_policy_steps` >= 1 and "
                f"`pretrain_updates` >= 0, actually: {train_every_policy_steps}, "
                f"{prefill_policy_steps} and {pretrain_updates}"
            )
        if prefill_policy_steps * action_repeat >= total_frames:
            raise ValueError(
                f"Expect `total_frames` to exceed the prefill of {prefill_policy_steps} policy "
                f"steps x {action_repeat} frames, actually: {total_frames}"
            )
        self._collector, self._replay, self._metrics = collector, replay, metrics
        self._interrupt = interrupt
        self._random_policy, self._policy = random_policy, policy
        self._action_repeat, self._batch_length = action_repeat, batch_length
        self._total_frames = total_frames
        self._prefill = prefill_policy_steps
        self._pretrain = pretrain_updates
        self._train_every = train_every_policy_steps
        self._on_frames = on_frames

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prefill, before the loader is asked for the first batch; a resumed run has done so."""
        agent = pl_module
        assert isinstance(agent, DreamerAgent)
        self._on_frames(agent.frames)
        while agent.policy_steps < self._prefill:
            steps = min(1000, self._prefill - agent.policy_steps)
            self._collect(agent, self._random_policy, steps)
        if not self._replay.can_sample(self._batch_length):
            raise ValueError(
                f"Expect an episode of at least `batch.length` {self._batch_length} steps in the "
                f"prefill, actually the longest has {self._replay.longest_episode}. Set a smaller "
                "batch.length, a larger prefill_policy_steps, or replay.across_episodes=true."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn no more where a run was stopped between its last update and its end."""
        self._stop_at_budget(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Act until the next update is due: the first is after one policy step, as in the code."""
        agent = pl_module
        assert isinstance(agent, DreamerAgent)
        if agent.updates < self._pretrain:
            return
        due = self._prefill + 1 + (agent.updates - self._pretrain) * self._train_every
        if agent.policy_steps < due:
            self._collect(agent, self._policy, due - agent.policy_steps)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop at the budget."""
        self._stop_at_budget(trainer, pl_module)

    def _stop_at_budget(self, trainer: pl.Trainer, agent: pl.LightningModule) -> None:
        assert isinstance(agent, DreamerAgent)
        trainer.should_stop = agent.frames >= self._total_frames

    def _collect(self, agent: DreamerAgent, policy: Policy, steps: int) -> None:
        before = self._collector.policy_steps
        try:
            episodes = self._collector.collect(policy, steps=steps, on_step=self._on_step)
        finally:  # an interrupted collection counts: its steps are in the replay
            agent.policy_steps += self._collector.policy_steps - before
            agent.frames = agent.policy_steps * self._action_repeat
        for episode in episodes:
            self._report(episode)
        self._on_frames(agent.frames)

    def _on_step(self, step: TimeStep, prev_action: np.ndarray) -> None:
        self._replay.add(step, prev_action)
        self._interrupt.check()

    def _report(self, episode: EpisodeStats) -> None:
        values = {
            "collect/return": episode.episode_return,
            "collect/length": float(episode.length),
        }
        self._metrics.observe(values)
        self._metrics.count("collect/episodes")
        self._metrics.best("collect/best_return", episode.episode_return)
        self._metrics.latest |= values
