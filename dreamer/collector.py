"""Step environments with a policy, and report what happened.

The callbacks use it: with random or learned policies, to fill the replay or to evaluate. It knows
neither networks nor the replay: a policy is anything callable, a consumer a function per step.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from dreamer.envs.factory import Envs, episode_metrics
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

    def __init__(self, envs: Envs):
        self.envs = envs
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
                to it, zeros where `is_first`.

        Returns:
            The episodes that ended, in that order; with `episodes`, exactly so many.

        Raises:
            ValueError: Not exactly one of `steps` and `episodes` is positive; the policy's action,
                a reward or a vector observation is not finite.
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

        count = self.envs.count
        until = self.policy_steps + steps
        due = np.array([len(range(env, episodes, count)) for env in range(count)])  # (E,)
        ended: list[EpisodeStats] = []
        step = self._reset(on_step) if self._step is None else self._step
        while self.policy_steps < until or due.any():
            step = self._advance(policy, step, on_step)
            if not step.is_last.any():
                continue
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
        return ended

    def _reset(self, on_step: OnStep | None) -> TimeStep:
        no_action = np.zeros((self.envs.count, self.envs.action_space.size), np.float32)
        return self._arrive(self.envs.reset(), no_action, on_step)

    def _advance(self, policy: Policy, step: TimeStep, on_step: OnStep | None) -> TimeStep:
        action, self._policy_state = policy(step, self._policy_state)
        assert action.shape == (self.envs.count, self.envs.action_space.size), action.shape
        _require_finite("action", action)
        step = self.envs.step(action)
        return self._arrive(step, np.where(step.is_first[:, None], 0, action), on_step)

    def _arrive(self, step: TimeStep, prev_action: np.ndarray, on_step: OnStep | None) -> TimeStep:
        _require_finite("reward", step.reward)
        for key, value in step.obs.items():
            if value.dtype.kind == "f":
                _require_finite(key, value)
        self._step = step
        self._episode_return = np.where(step.is_first, 0, self._episode_return + step.reward)
        self._length = np.where(step.is_first, 0, self._length + 1)
        self.policy_steps += self.envs.count - int(np.count_nonzero(step.is_first))
        if on_step is not None:
            on_step(step, prev_action)
        return step


def _require_finite(key: str, value: np.ndarray) -> None:
    """Refuse NaN and infinity in `value`, (E, ...)."""
    if not np.isfinite(value).all():
        env = np.argwhere(~np.isfinite(value))[0, 0]
        raise ValueError(
            f"Expect `{key}` of environment {env} to be finite, actually: {value[env]}"
        )
