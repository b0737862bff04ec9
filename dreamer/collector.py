"""Step environments with a policy, and report what happened.

The callbacks use it: with random or learned policies, to fill the replay or to evaluate. It knows
neither networks nor the replay: a policy is anything callable, a consumer a function per step.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from dreamer.envs.base import StepsInBackground, VectorEnvs, episode_metrics
from dreamer.types import TimeStep

PolicyState: TypeAlias = Any  # what a policy remembers of E running episodes; its own business
OnStep: TypeAlias = Callable[[TimeStep, np.ndarray], None]


class Policy(Protocol):
    """Chooses what to do next in E environments."""

    def __call__(
        self, step: TimeStep, state: PolicyState | None, /
    ) -> tuple[np.ndarray, PolicyState]:
        """Return actions (E, A) float32 for this step, and what to remember until the next.

        Args:
            step: The latest of E environments. Where `is_first`, the memory of the episode before
                is to be dropped; where `is_last`, the action will be ignored.
            state: What this policy returned last; None to start afresh, maybe in mid-episode.
        """
        ...


class EpisodeStats(NamedTuple):
    """One episode that has ended."""

    env: int
    episode_return: float  # sum of raw rewards
    length: int  # policy steps
    metrics: Mapping[str, float] = {}  # what else the environment tells of it, by name


class Collector:
    """Steps one group of environments; episodes go on from one call of `collect` to the next."""

    def __init__(self, envs: VectorEnvs):
        self.envs = envs
        self._background = envs if isinstance(envs, StepsInBackground) else None
        self.policy_steps = 0  # made so far, in all environments; resets are none
        self._step: TimeStep | None = None  # None: reset first
        self._policy: Policy | None = None
        self._policy_state: PolicyState | None = None
        self._episode_return = np.zeros(envs.count)  # (E,) of the running episodes
        self._length = np.zeros(envs.count, int)  # (E,) in policy steps

    def restart(self) -> None:
        """Drop the running episodes: the next `collect` begins with a reset everywhere."""
        self._step = None
        self._policy = None

    def collect(
        self, policy: Policy, *, steps: int = 0, episodes: int = 0, on_step: OnStep | None = None
    ) -> list[EpisodeStats]:
        """Let the policy act for a number of policy steps, or of whole episodes.

        With `episodes`, the running ones are dropped, and environment e plays a share fixed in
        advance, its e-th, (e + E)-th, ... episode of the total. Taking those that end first would
        prefer short episodes.

        Args:
            policy: Keeps its memory from the last call if it is the same object as then; else it
                starts afresh, in mid-episode.
            steps: Make at least so many policy steps; all environments step together.
            episodes: Play exactly so many.
            on_step: Is given each arriving step, resets included, and the action (E, A) that led
                to it, zeros where `is_first`. When it is called, the policy may have chosen the
                next action already, and environments that can are making the next step.

        Returns:
            The episodes that ended, in that order; with `episodes`, exactly so many.

        Raises:
            ValueError: Not exactly one of `steps` and `episodes` is positive; the policy's action,
                a reward or a vector observation is not finite. After this and any other error the
                running episodes are dropped.
        """
        if min(steps, episodes) != 0 or max(steps, episodes) <= 0:
            raise ValueError(
                "Expect one of `steps` and `episodes` to be positive and the other 0, "
                f"actually: {steps} and {episodes}"
            )
        if episodes:
            self.restart()
        if policy is not self._policy:
            self._policy, self._policy_state = policy, None

        try:
            return self._collect(policy, steps, episodes, on_step)
        except BaseException:
            self.restart()  # the environments may be a step ahead of what was told of them
            raise

    def _collect(
        self, policy: Policy, steps: int, episodes: int, on_step: OnStep | None
    ) -> list[EpisodeStats]:
        # environments | step t |        | step t + 1           |        | step t + 2
        # here         |        | policy | arrive at t, on_step | policy | arrive at t + 1, on_step
        count = self.envs.count
        due = np.array([len(range(env, episodes, count)) for env in range(count)])  # (E,)
        ended: list[EpisodeStats] = []
        step = self._step
        if step is None:
            step = self.envs.reset()
            no_action = np.zeros((count, self.envs.action_space.size), np.float32)
            self._arrive(step, no_action, on_step)
        left, tell = steps, _nothing
        while left > 0 or due.any():
            action, self._policy_state = policy(step, self._policy_state)
            _require_actions(action, (count, self.envs.action_space.size))
            step = self._step_envs(action, meanwhile=tell)
            tell = functools.partial(self._arrive, step, action, on_step)
            left -= self._policy_steps_in(step)
            if not np.count_nonzero(step.is_last):
                continue
            tell()
            tell = _nothing
            counted = step.is_last & ((due > 0) | (steps > 0))
            due = np.maximum(due - counted, 0)
            ended += [
                EpisodeStats(
                    env,
                    float(self._episode_return[env]),
                    int(self._length[env]),
                    episode_metrics(self.envs, env),
                )
                for env in np.flatnonzero(counted).tolist()
            ]
        tell()
        return ended

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

    def _arrive(self, step: TimeStep, action: np.ndarray, on_step: OnStep | None) -> None:
        """Take notice of a step, and of the action before it, and tell who wants to know."""
        _require_sound(step)
        self._step = step
        self._episode_return = np.where(step.is_first, 0, self._episode_return + step.reward)
        self._length = np.where(step.is_first, 0, self._length + 1)
        self.policy_steps += self._policy_steps_in(step)
        if on_step is not None:
            on_step(step, np.where(step.is_first[:, None], 0, action))

    def _policy_steps_in(self, step: TimeStep) -> int:
        return self.envs.count - int(np.count_nonzero(step.is_first))


def _nothing() -> None:
    """There is nothing to tell."""


def _require_actions(action: np.ndarray, shape: tuple[int, int]) -> None:
    """Refuse what is no array of actions; a user's policy may return anything."""
    if not isinstance(action, np.ndarray) or action.shape != shape:
        got = f"shape {action.shape}" if isinstance(action, np.ndarray) else repr(action)
        raise ValueError(f"A policy must return actions as an array of shape {shape}, got {got}")


def _require_sound(step: TimeStep) -> None:
    """Refuse a step whose reward or vectors are not finite."""
    _require_finite("reward", step.reward)
    for key, value in step.obs.items():
        if value.dtype.kind == "f":
            _require_finite(key, value)


def _require_finite(key: str, value: np.ndarray) -> None:
    """Refuse NaN and infinity in `value`, (E, ...)."""
    if math.isfinite(value.sum()):  # the quick way; a sum may overflow, too
        return
    if not np.isfinite(value).all():
        env = np.argwhere(~np.isfinite(value))[0, 0]
        raise ValueError(
            f"Expect `{key}` of environment {env} to be finite, actually: {value[env]}"
        )
