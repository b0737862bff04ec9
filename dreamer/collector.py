"""Step environments with a policy, and report the episodes.

The callbacks use it to fill the replay, with random or learned policies; the evaluation uses it,
too. It knows neither networks nor the replay: policies and consumers of steps are functions.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from dreamer.envs.base import StepsInBackground, VectorEnvs, episode_metrics
from dreamer.types import TimeStep

PolicyState: TypeAlias = Any  # memory of E running episodes; only the policy uses it
OnStep: TypeAlias = Callable[[TimeStep, np.ndarray], None]


class Policy(Protocol):
    """Chooses actions in E environments."""

    def __call__(
        self, step: TimeStep, state: PolicyState | None, /
    ) -> tuple[np.ndarray, PolicyState]:
        """Return actions (E, A) float32 for this step, and the memory for the next.

        Args:
            step: Of E environments. Where `is_first`, the memory must be reset; where `is_last`,
                the action is ignored.
            state: Memory that this policy returned last; None to start anew, maybe in mid-episode.
        """
        ...


class EpisodeStats(NamedTuple):
    """One finished episode."""

    env: int
    episode_return: float  # sum of raw rewards
    length: int  # policy steps
    metrics: Mapping[str, float] = {}  # other metrics of the environment, by name
    is_cut: bool = False  # it reached `max_length` and was not played to its end


class Collector:
    """Steps one group of environments; episodes continue from one `collect` to the next."""

    def __init__(self, envs: VectorEnvs):
        self.envs = envs
        self._background = envs if isinstance(envs, StepsInBackground) else None
        self.policy_steps = 0  # so far, in all environments; resets do not count
        self._step: TimeStep | None = None  # None: reset first
        self._policy: Policy | None = None
        self._policy_state: PolicyState | None = None
        self._episode_return = np.zeros(envs.count)  # (E,) of the running episodes
        self._length = np.zeros(envs.count, int)  # (E,) in policy steps

    def restart(self) -> None:
        """Drop the running episodes: the next `collect` resets all environments."""
        self._step = None
        self._policy = None

    def collect(
        self,
        policy: Policy,
        *,
        steps: int = 0,
        episodes: int = 0,
        max_length: int | None = None,
        on_step: OnStep | None = None,
    ) -> list[EpisodeStats]:
        """Let the policy act for a number of policy steps, or of episodes.

        With `episodes`, the running ones are dropped, and every environment plays a fixed share:
        environment e plays episodes e, e + E, ... of the total. Counting those that end first would
        favour short episodes.

        Args:
            policy: Keeps its memory from the last call if it is the same object; otherwise it
                starts anew, in mid-episode.
            steps: Minimum number of policy steps; all environments step together.
            episodes: Exact number of episodes.
            max_length: Maximum length of these episodes, in policy steps; a longer one is cut and
                counts as it is. None: no maximum.
            on_step: Called with each step, resets included, and the action (E, A) that led to it,
                zeros where `is_first`. By then the policy may have chosen the next action, and
                environments that step in the background have started it.

        Returns:
            The finished episodes, in the order of their ends.

        Raises:
            ValueError: Not exactly one of `steps` and `episodes` is positive; the policy's action,
                a reward or a vector observation is not finite. After any error the running
                episodes are dropped.
        """
        if min(steps, episodes) != 0 or max(steps, episodes) <= 0:
            raise ValueError(
                "One of `steps` and `episodes` must be positive and the other 0, "
                f"got {steps} and {episodes}"
            )
        if episodes:
            self.restart()
        if policy is not self._policy:
            self._policy, self._policy_state = policy, None

        try:
            return self._collect(policy, steps, episodes, max_length or math.inf, on_step)
        except BaseException:
            self.restart()  # the environments may be ahead by a step that was not recorded
            raise

    def _collect(
        self,
        policy: Policy,
        steps: int,
        episodes: int,
        max_length: float,
        on_step: OnStep | None,
    ) -> list[EpisodeStats]:
        # environments | step t |        | step t + 1           |        | step t + 2
        # here         |        | policy | arrive at t, on_step | policy | arrive at t + 1, on_step
        count = self.envs.count
        due = np.array([len(range(env, episodes, count)) for env in range(count)])  # (E,)
        is_cut = np.zeros(count, bool)  # (E,) counted already, and not over yet
        ended: list[EpisodeStats] = []
        step = self._step if self._step is not None else self._reset(on_step)
        left, record = steps, _nothing
        while left > 0 or due.any():
            action, self._policy_state = policy(step, self._policy_state)
            _require_actions(action, (count, self.envs.action_space.size))
            step = self._step_envs(action, meanwhile=record)
            record = functools.partial(self._record, step, action, on_step)
            left -= self._policy_steps_in(step)
            is_long = ~step.is_first & (self._length + 1 >= max_length) & (due > 0)
            if not np.count_nonzero(step.is_last | is_long):
                continue
            record()
            record = _nothing
            counted = (step.is_last | is_long) & ((due > 0) | (steps > 0)) & ~is_cut
            due = np.maximum(due - counted, 0)
            is_cut = (is_cut | is_long) & ~step.is_last
            ended += [
                self._stats(env, bool(is_cut[env])) for env in np.flatnonzero(counted).tolist()
            ]
            if due.any() and is_cut[due > 0].all():  # none of them would start another one
                is_cut[:] = False
                step = self._reset(on_step)
        record()
        return ended

    def _reset(self, on_step: OnStep | None) -> TimeStep:
        """Start an episode in every environment."""
        step = self.envs.reset()
        no_action = np.zeros((self.envs.count, self.envs.action_space.size), np.float32)
        self._record(step, no_action, on_step)
        return step

    def _stats(self, env: int, is_cut: bool) -> EpisodeStats:
        return EpisodeStats(
            env,
            float(self._episode_return[env]),
            int(self._length[env]),
            {} if is_cut else episode_metrics(self.envs, env),
            is_cut,
        )

    def _step_envs(self, action: np.ndarray, meanwhile: Callable[[], None]) -> TimeStep:
        if self._background is None:
            meanwhile()
            _require_finite("action", action)
            return self.envs.step(action)
        self._background.start_step(action)
        try:
            meanwhile()
            _require_finite("action", action)
        finally:
            step = self._background.finish_step()
        return step

    def _record(self, step: TimeStep, action: np.ndarray, on_step: OnStep | None) -> None:
        """Record a step and the action that led to it, and call `on_step`."""
        _require_finite_step(step)
        self._step = step
        self._episode_return = np.where(step.is_first, 0, self._episode_return + step.reward)
        self._length = np.where(step.is_first, 0, self._length + 1)
        self.policy_steps += self._policy_steps_in(step)
        if on_step is not None:
            on_step(step, np.where(step.is_first[:, None], 0, action))

    def _policy_steps_in(self, step: TimeStep) -> int:
        return self.envs.count - int(np.count_nonzero(step.is_first))


def _nothing() -> None:
    """Record nothing: there is no step yet."""


def _require_actions(action: np.ndarray, shape: tuple[int, int]) -> None:
    """Reject anything but an array of actions; a user's policy may return anything."""
    if not isinstance(action, np.ndarray) or action.shape != shape:
        got = f"shape {action.shape}" if isinstance(action, np.ndarray) else repr(action)
        raise ValueError(f"A policy must return actions as an array of shape {shape}, got {got}")


def _require_finite_step(step: TimeStep) -> None:
    """Reject a step with a reward or vector that is not finite."""
    _require_finite("reward", step.reward)
    for key, value in step.obs.items():
        if value.dtype.kind == "f":
            _require_finite(key, value)


def _require_finite(key: str, value: np.ndarray) -> None:
    """Reject NaN and infinity in `value`, (E, ...)."""
    if math.isfinite(value.sum()):  # fast; the sum of finite numbers may overflow
        return
    if not np.isfinite(value).all():
        env = np.argwhere(~np.isfinite(value))[0, 0]
        raise ValueError(f"`{key}` of environment {env} must be finite, got {value[env]}")
