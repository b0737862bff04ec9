"""Fills the replay: a random prefill, then a few policy steps per update.

It decides when the agent acts and when the run ends. It knows the agent's counters and the
collector, and acts with the given policy.

With `refresh`, the environments step while the device updates. Batches and weights are the same as
without; only random draws differ, and the schedules of the loss use the earlier step count.

# main thread   batch k | update k            | callbacks | batch k+1 | update k+1 ...
# worker thread         | act with weights k-1|           |           | act with weights k
# replay        sampled | extended            | read      | sampled   | extended
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
from dreamer.policy import ExplorerThenActor
from dreamer.replay.mixture import AnyReplay
from dreamer.types import Batch, TimeStep


class Collect(AgentCallback):
    """Prefills the replay, collects, and stops the run at its frame budget."""

    def __init__(
        self,
        collector: Collector,
        replay: AnyReplay,
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
        """Connect the environments and the replay.

        Args:
            collector: steps the environments.
            replay: stores every step.
            metrics: averages returns and lengths of episodes.
            interrupt: checked at every step.
            random_policy: acts in the prefill.
            policy: acts afterwards.
            action_repeat: frames of one policy step.
            batch_length: T; the prefill must contain a sequence of this length.
            total_frames: the budget, prefill included; exceeded by less than one step of all
                environments.
            prefill_policy_steps: random steps before the first update; 0 if the replay has steps.
            pretrain_updates: updates before the policy first acts.
            train_every_policy_steps: policy steps per update.
            on_frames: called with the frame count after every collection.
            refresh: None collects between updates. Otherwise the environments step in another
                thread while the agent learns. Before, this is called with the number of policy
                steps: it must separate `policy` from all that the update changes.

        Raises:
            ValueError: the prefill alone exceeds the budget, or a count is too small.
        """
        if train_every_policy_steps < 1 or min(prefill_policy_steps, pretrain_updates) < 0:
            raise ValueError(
                "`train_every_policy_steps` must be at least 1, `prefill_policy_steps` and "
                f"`pretrain_updates` at least 0, got {train_every_policy_steps}, "
                f"{prefill_policy_steps} and {pretrain_updates}"
            )
        if prefill_policy_steps * action_repeat >= total_frames:
            raise ValueError(
                f"`total_frames` must exceed the prefill of {prefill_policy_steps} policy "
                f"steps x {action_repeat} frames, got {total_frames}"
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
        self._counted = collector.policy_steps  # those that the agent has counted
        self._restarts = 0  # of environments, those that are counted
        # One thread on one core: the policy is small, and the update needs the other cores.
        self._worker = ThreadPoolExecutor(1, "collect", initializer=_use_one_core)
        self._running: Future[list[EpisodeStats]] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prefill before the first batch is sampled; a resumed run skips what it has."""
        agent = pl_module
        assert isinstance(agent, DreamerAgent)
        self._on_frames(agent.frames)
        while agent.policy_steps < self._prefill:
            steps = min(1000, self._prefill - agent.policy_steps)
            self._collect(agent, self._random_policy, steps)
        if not self._replay.can_sample(self._batch_length):
            raise ValueError(
                f"The prefill must contain an episode of at least {self._batch_length} steps "
                f"(`batch.length`), got at most {self._replay.longest_episode}. Set a smaller "
                "batch.length, a larger prefill_policy_steps, or replay.across_episodes=true."
            )

    def on_start(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Finish an interrupted collection, and stop a run that has reached its budget."""
        self._begin(agent, self._missing(agent, agent.updates - 1))
        self._join(agent)
        self._interrupt.check()
        self._stop_at_budget(trainer, agent)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Act until the next update is due: first after one step, as in the authors' code."""
        agent = pl_module
        assert isinstance(agent, DreamerAgent)
        self._begin(agent, self._missing(agent, agent.updates))

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Wait for the collection before other callbacks use its results; stop at the budget."""
        self._join(agent)
        self._stop_at_budget(trainer, agent)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Wait for the collection before the state is saved."""
        assert isinstance(pl_module, DreamerAgent)
        try:
            self._join(pl_module)
        except Exception as error:
            exception.add_note(f"The collection failed, too: {error!r}")

    def _stop_at_budget(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        trainer.should_stop = agent.frames >= self._total_frames

    def _collect(self, agent: DreamerAgent, policy: Policy, steps: int) -> None:
        try:
            episodes = self._step(policy, steps)
        finally:
            self._count(agent)
        self._report(agent, episodes)

    def _missing(self, agent: DreamerAgent, update: int) -> int:
        """Return the policy steps still to make before (or during) the update of this number."""
        due = self._prefill + 1 + (update - self._pretrain) * self._train_every
        due = min(due, self._budget)  # the last collection may be shorter
        return max(due - agent.policy_steps, 0) if update >= self._pretrain else 0

    def _begin(self, agent: DreamerAgent, steps: int) -> None:
        """Collect, or start a collection that `_join` waits for."""
        if not steps:
            return
        if isinstance(self._policy, ExplorerThenActor):
            self._policy.choose(agent.policy_steps)
        if self._refresh is None:
            self._collect(agent, self._policy, steps)
        else:
            self._refresh(agent.policy_steps)
            self._running = self._worker.submit(self._step, self._policy, steps)

    def _join(self, agent: DreamerAgent) -> None:
        """Wait for the collection in the other thread, and raise its errors.

        A request to stop is not raised: it takes effect after the other callbacks of the update.
        """
        running = self._running
        if running is None:
            return
        try:
            episodes = running.result()
        except Interrupted:
            if not running.done():
                raise  # a second Ctrl-C, during the wait
            episodes = []
        finally:
            if running.done():
                self._running = None
                self._count(agent)
        self._report(agent, episodes)

    def _step(self, policy: Policy, steps: int) -> list[EpisodeStats]:
        return self._collector.collect(policy, steps=steps, on_step=self._on_step)

    def _count(self, agent: DreamerAgent) -> None:
        """Update the counters; an interrupted collection counts: its steps are in the replay."""
        agent.policy_steps += self._collector.policy_steps - self._counted
        agent.frames = agent.policy_steps * self._action_repeat
        self._counted = self._collector.policy_steps
        restarts = sum(getattr(self._collector.envs, "restarts", ()))
        for _ in range(restarts - self._restarts):
            self._metrics.count("collect/restarts")
        self._restarts = restarts

    def _report(self, agent: DreamerAgent, episodes: list[EpisodeStats]) -> None:
        for episode in episodes:
            self._report_episode(episode)
        self._on_frames(agent.frames)

    def _on_step(self, step: TimeStep, prev_action: np.ndarray) -> None:
        self._replay.add(step, prev_action)
        self._interrupt.check()

    def _report_episode(self, episode: EpisodeStats) -> None:
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
