"""What an environment is like under a policy, in numbers, and what of that looks wrong.

`python -m dreamer.check` prints it before anybody trains. It plays and counts, and knows
neither configurations nor networks; the policy is given.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from dreamer.envs.base import VectorEnvs
from dreamer.envs.group import EnvGroup
from dreamer.envs.gym import GymEnv
from dreamer.envs.spaces import find_part, list_parts
from dreamer.types import TimeStep

Act = Callable[[TimeStep], np.ndarray]  # a step of E environments -> actions (E, A)
LARGE = 100.0  # a vector's numbers beyond this are hard to predict beside others
SATURATED = 2.0  # tanh hardly tells rewards beyond this apart


class Range(NamedTuple):
    """One observation over all steps."""

    least: float
    mean: float
    most: float
    changes: bool  # any number of it, from one step to another
    is_image: bool


class Diagnostics(NamedTuple):
    """What E environments did in some policy steps."""

    observations: dict[str, Range]
    rewards: np.ndarray  # (N,) of all policy steps
    returns: np.ndarray  # of the episodes that ended
    lengths: np.ndarray  # policy steps of the same
    terminal: int  # of these episodes ended in a terminal state, the others by a time limit
    steps_per_second: float  # policy steps, of the environments alone
    outside: dict[str, int]  # what was wrong with observations as the environment gave them
    faults: int  # the environments had to be restarted so often


def diagnose(envs: VectorEnvs, act: Act, policy_steps: int) -> Diagnostics:
    """Play at least so many policy steps; the environments start anew and stay open."""
    outside: dict[str, int] = {}
    step = _watched(envs, outside, envs.reset)
    first, ranges = step.obs, {key: _Running(value) for key, value in step.obs.items()}
    rewards, ended, seconds = [], [], 0.0
    episode_return, length = np.zeros(envs.count), np.zeros(envs.count, int)
    terminal = 0
    while len(rewards) < policy_steps:
        action = act(step)
        start = time.perf_counter()
        step = _watched(envs, outside, lambda action=action: envs.step(action))
        seconds += time.perf_counter() - start
        for key, value in step.obs.items():
            ranges[key].add(value, first[key])
        rewards += step.reward[~step.is_first].tolist()
        episode_return = np.where(step.is_first, 0, episode_return + step.reward)
        length = np.where(step.is_first, 0, length + 1)
        ended += [(episode_return[e], length[e]) for e in np.flatnonzero(step.is_last)]
        terminal += int(step.is_terminal.sum())
    returns, lengths = np.array(ended).reshape(-1, 2).T
    return Diagnostics(
        {key: running.range() for key, running in ranges.items()},
        np.array(rewards),
        returns,
        lengths,
        terminal,
        len(rewards) / seconds,
        outside,
        sum(envs.restarts) if isinstance(envs, EnvGroup) else 0,
    )


def repeats(make: Callable[[], tuple[VectorEnvs, Act]], rounds: int) -> bool:
    """Tell whether what `make` makes, twice with the same seeds, goes the same way twice."""

    def play() -> list[TimeStep]:
        envs, act = make()
        try:
            steps = [envs.reset()]
            for _ in range(rounds):
                steps.append(envs.step(act(steps[-1])))
            return steps
        finally:
            envs.close()

    return all(
        np.array_equal(a.obs[key], b.obs[key]) and np.array_equal(a.reward, b.reward)
        for a, b in zip(play(), play(), strict=True)
        for key in a.obs
    )


def find_warnings(
    found: Diagnostics,
    *,
    repeatable: bool,
    sequence: int,
    across_episodes: bool,
    tanh_rewards: bool,
) -> list[str]:
    """Say what looks wrong, each in a sentence with what to do about it.

    Args:
        found: Under random actions.
        repeatable: Whether the same seed shows the same twice.
        sequence: Steps of the sequences that an agent would learn from.
        across_episodes: Whether those may hold the end of one episode and the start of the next.
        tanh_rewards: Whether the agent would learn the hyperbolic tangent of rewards.
    """
    total = len(found.rewards)
    lines = [f"{count} observations: {what}." for what, count in found.outside.items()]
    if found.faults:
        lines.append(f"The environment failed {found.faults} times; see the tracebacks above.")
    if not repeatable:
        lines.append(
            "The same seed shows something else the second time: runs will not repeat. Draw all "
            "randomness from `self.np_random`, which `reset(seed=...)` seeds."
        )
    for key, seen in found.observations.items():
        if not seen.changes:
            lines.append(f"The observation `{key}` never changes.")
        elif max(-seen.least, seen.most) > LARGE and not seen.is_image:
            lines.append(
                f"The observation `{key}` reaches {max(seen.least, seen.most, key=abs):.4g}: scale "
                "it to the order of one, or it drowns the others in the loss."
            )
    if not found.rewards.any():
        lines.append(
            f"No reward in {total} policy steps but 0: random actions never find one, and an agent "
            "may not either. Is that so on purpose?"
        )
    elif tanh_rewards and (share := np.mean(np.abs(found.rewards) > SATURATED)) > 0.05:
        lines.append(
            f"{share:.0%} of the rewards are beyond {SATURATED:g}, where their tanh hardly tells "
            "them apart. Set model.world_model.reward_transform=identity, or scale them."
        )
    if not len(found.lengths):
        lines.append(f"No episode ended in {total} policy steps: is there a time limit?")
    elif short := int((found.lengths + 1 < sequence).sum()):
        lines.append(
            f"{short} of {len(found.lengths)} episodes are shorter than a sequence of "
            f"batch.length={sequence} steps. "
            + (
                "With replay.across_episodes=true sequences run on into the next."
                if across_episodes
                else "They are never learned from: set replay.across_episodes=true, or a "
                "smaller batch.length."
            )
        )
    return lines


class _Running:
    """The range of one observation, step by step."""

    def __init__(self, value: np.ndarray):
        self._least, self._most, self._sum, self._count = np.inf, -np.inf, 0.0, 0
        self._changes, self._is_image = False, value.ndim == 4
        self.add(value, value)

    def add(self, value: np.ndarray, first: np.ndarray) -> None:
        """Count another step (E, ...)."""
        self._least, self._most = min(self._least, value.min()), max(self._most, value.max())
        self._sum, self._count = self._sum + float(value.mean()), self._count + 1
        self._changes = self._changes or not np.array_equal(value, first)

    def range(self) -> Range:
        """What was counted."""
        mean = self._sum / self._count
        return Range(float(self._least), mean, float(self._most), self._changes, self._is_image)


def _watched(envs: VectorEnvs, outside: dict[str, int], step: Callable[[], TimeStep]) -> TimeStep:
    """Make a step, and hold what Gymnasium's environments of this process show to their spaces."""
    members = envs.members if isinstance(envs, EnvGroup) else []
    for member in members:
        if isinstance(member, GymEnv) and not isinstance(member.env, _SpaceChecker):
            member.env = _SpaceChecker(member.env, outside)
    return step()


class _SpaceChecker(gymnasium.Wrapper):
    """Counts observations that are not of their space."""

    def __init__(self, env: gymnasium.Env, outside: dict[str, int]):
        super().__init__(env)
        self._outside = outside

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """See `gymnasium.Env`."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._look_at(obs)
        return obs, info

    def step(self, action: Any) -> Any:
        """See `gymnasium.Env`."""
        result = self.env.step(action)
        self._look_at(result[0])
        return result

    def _look_at(self, obs: Any) -> None:
        if self.observation_space.contains(obs):
            return
        for place, space in list_parts(self.observation_space):
            name = "/".join(map(str, place)) or "observation"
            what = _misfit(name, space, find_part(obs, place, name))
            if what:
                self._outside[what] = self._outside.get(what, 0) + 1


def _misfit(name: str, space: gymnasium.Space, value: Any) -> str | None:
    """How a part of an observation differs from its space; None if it does not."""
    if space.contains(value):
        return None
    array = np.asarray(value)
    if not isinstance(space, gymnasium.spaces.Box):
        return f"`{name}` is not of {space}"
    if array.shape != space.shape:
        return f"`{name}` has shape {array.shape}, its space {space.shape}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return f"`{name}` holds NaN or infinity"
    if (array < space.low).any():
        return f"`{name}` lies below the lower bounds of its space"
    if (array > space.high).any():
        return f"`{name}` lies above the upper bounds of its space"
    return f"`{name}` is {array.dtype}, its space {space.dtype}"
