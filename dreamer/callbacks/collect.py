"""Fills the replay: a random prefill, then a few policy steps between two updates.

It decides when the agent acts and when the run ends. It knows the agent's clock and the collector,
and leaves acting to the policy it is given.

With `refresh` the environments step while the device updates. Batch and weights are those that
they are without; only the draws differ, and the schedules of the loss see the clock from before.

# main thread   batch k | update k            | callbacks | batch k+1 | update k+1 ...
# its worker            | act with weights k-1|           |           | act with weights k
# replay        sampled | added to            | read      | sampled   | added to
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.callbacks.frame import AgentCallback
from dreamer.callbacks.interrupt import Interrupt, Interrupted
from dreamer.callbacks.metrics import Metrics
from dreamer.collector import Collector, EpisodeStats, Policy
from dreamer.replay.buffer import Replay
from dreamer.types import Batch, TimeStep


class Collect(AgentCallback):
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
        refresh: Callable[[int], None] | None = None,
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
            total_frames: the budget, prefill included; passed by less than one step of all
                environments.
            prefill_policy_steps: random steps before the first update.
            pretrain_updates: updates before the policy acts for the first time.
            train_every_policy_steps: policy steps from one update to the next.
            on_frames: told the frame count after every collection.
            refresh: None collects between updates. Else the environments step in a thread of
                their own while the agent learns, after this was told the policy steps made: it
                has to part `policy` from all that the update will change.

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
        self._budget = math.ceil(total_frames / action_repeat)  # policy steps that reach it
        self._prefill = prefill_policy_steps
        self._pretrain = pretrain_updates
        self._train_every = train_every_policy_steps
        self._on_frames = on_frames
        self._refresh = refresh
        self._counted = collector.policy_steps  # of the collector's, those the agent knows of
        # One thread and one core: the update needs the others, and the policy is small.
        self._worker = ThreadPoolExecutor(1, "collect", initializer=_use_one_core)
        self._running: Future[list[EpisodeStats]] | None = None

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

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Finish a collection that was stopped beside its update, and stop a run at its budget."""
        self._begin(agent, self._missing(agent, agent.updates - 1))
        self._join(agent)
        self._interrupt.check()
        self._stop_at_budget(trainer, agent)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Act until the next update is due: the first is after one policy step, as in the code."""
        agent = pl_module
        assert isinstance(agent, DreamerAgent)
        self._begin(agent, self._missing(agent, agent.updates))

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Wait for the collection, before anyone else looks at its results; stop at the budget."""
        self._join(agent)
        self._stop_at_budget(trainer, agent)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Wait for the collection, before what there is gets saved."""
        assert isinstance(pl_module, DreamerAgent)
        try:
            self._join(pl_module)
        except Exception as error:
            exception.add_note(f"Meanwhile the collection failed, too: {error!r}")

    def _stop_at_budget(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        trainer.should_stop = agent.frames >= self._total_frames

    def _collect(self, agent: DreamerAgent, policy: Policy, steps: int) -> None:
        try:
            episodes = self._step(policy, steps)
        finally:
            self._count(agent)
        self._tell(agent, episodes)

    def _missing(self, agent: DreamerAgent, update: int) -> int:
        """Policy steps that belong before (or beside) the update of this number, still to make."""
        due = self._prefill + 1 + (update - self._pretrain) * self._train_every
        due = min(due, self._budget)  # the last collection may be shorter
        return max(due - agent.policy_steps, 0) if update >= self._pretrain else 0

    def _begin(self, agent: DreamerAgent, steps: int) -> None:
        """Collect, or let it go on until `_join`."""
        if not steps:
            return
        if self._refresh is None:
            self._collect(agent, self._policy, steps)
        else:
            self._refresh(agent.policy_steps)
            self._running = self._worker.submit(self._step, self._policy, steps)

    def _join(self, agent: DreamerAgent) -> None:
        """Wait for a collection beside the update; its errors become ours.

        All but a request to stop: that is obeyed once the other callbacks have seen the update.
        """
        running = self._running
        if running is None:
            return
        try:
            episodes = running.result()
        except Interrupted:
            if not running.done():
                raise  # a second Ctrl-C, while we waited
            episodes = []
        finally:
            if running.done():
                self._running = None
                self._count(agent)
        self._tell(agent, episodes)

    def _step(self, policy: Policy, steps: int) -> list[EpisodeStats]:
        return self._collector.collect(policy, steps=steps, on_step=self._on_step)

    def _count(self, agent: DreamerAgent) -> None:
        """Move the clock; an interrupted collection counts: its steps are in the replay."""
        agent.policy_steps += self._collector.policy_steps - self._counted
        agent.frames = agent.policy_steps * self._action_repeat
        self._counted = self._collector.policy_steps

    def _tell(self, agent: DreamerAgent, episodes: list[EpisodeStats]) -> None:
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
            **{f"collect/{name}": value for name, value in episode.metrics.items()},
        }
        self._metrics.observe(values)
        self._metrics.count("collect/episodes")
        self._metrics.best("collect/best_return", episode.episode_return)
        self._metrics.latest |= values


def _use_one_core() -> None:
    torch.set_num_threads(1)
