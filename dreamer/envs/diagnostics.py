"""Statistics of an environment under a policy, and warnings about them.

`python -m dreamer.check` prints them before training. It knows neither configurations nor networks.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from dreamer.envs.base import VectorEnvs
from dreamer.envs.faults import EnvironmentFault
from dreamer.envs.group import EnvGroup, Fault
from dreamer.envs.gym import GymEnv
from dreamer.envs.rendering import RenderingFault
from dreamer.envs.spaces import find_part, list_parts
from dreamer.types import TimeStep

Act = Callable[[TimeStep], np.ndarray]  # a step of E environments -> actions (E, A)
LARGE = 100.0  # larger values of a vector dominate its loss
VERY_LARGE = 1e4  # larger rewards need a transform
SATURATED = 2.0  # tanh hardly distinguishes larger rewards


class Range(NamedTuple):
    """Range of one observation over all steps."""

    minimum: float
    mean: float
    maximum: float
    changes: bool  # whether any value ever differs from the first step's
    is_image: bool


class Diagnostics(NamedTuple):
    """Statistics of E environments over a number of policy steps."""

    observations: dict[str, Range]
    rewards: np.ndarray  # (N,) of all policy steps
    returns: np.ndarray  # of the episodes that ended
    lengths: np.ndarray  # their policy steps
    terminal: int  # episodes that ended in a terminal state; the others hit a time limit
    steps_per_second: float  # policy steps, without the policy's own time
    outside: dict[str, int]  # observations outside their space, counted by problem
    restarts: int  # of the environments, after failures
    faults: tuple[Fault, ...] = ()  # one for each restart
    accepted: tuple[str, ...] = ()  # sentences about what is unusual and harmless


def diagnose(envs: VectorEnvs, act: Act, policy_steps: int) -> Diagnostics:
    """Reset the environments and play at least `policy_steps` policy steps in all."""
    outside: dict[str, int] = {}
    accepted: list[set[str]] = []  # of each environment, as it grows
    step = _checked(envs, outside, accepted, envs.reset)
    first, ranges = step.obs, {key: _RunningRange(value) for key, value in step.obs.items()}
    rewards, ended, seconds = [], [], 0.0
    episode_return, length = np.zeros(envs.count), np.zeros(envs.count, int)
    terminal = 0
    while len(rewards) < policy_steps:
        action = act(step)
        start = time.perf_counter()
        step = _checked(envs, outside, accepted, lambda action=action: envs.step(action))
        seconds += time.perf_counter() - start
        for key, value in step.obs.items():
            ranges[key].add(value, first[key])
        rewards += step.reward[~step.is_first].tolist()
        episode_return = np.where(step.is_first, 0, episode_return + step.reward)
        length = np.where(step.is_first, 0, length + 1)
        ended += [(episode_return[e], length[e]) for e in np.flatnonzero(step.is_last)]
        terminal += int(step.is_terminal.sum())
    accepted.append(_render_problem(envs))
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
        tuple(envs.faults) if isinstance(envs, EnvGroup) else (),
        tuple(sorted(set().union(*accepted))),
    )


def _render_problem(envs: VectorEnvs) -> set[str]:
    """Return why videos will not show what the environments render, if so."""
    try:
        envs.render()
    except RenderingFault as fault:
        return {f"Videos will show observations, because {fault}"}
    return set()


def repeats(make: Callable[[], tuple[VectorEnvs, Act]], rounds: int) -> bool:
    """Whether two groups from `make`, with the same seeds, give the same steps."""

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
    """Return a warning, with advice, for everything that looks wrong.

    Args:
        found: Statistics under random actions.
        repeatable: Whether the same seed gives the same steps.
        sequence: Steps of the sequences that the agent learns from.
        across_episodes: Whether a sequence may continue in the next episode.
        tanh_rewards: Whether the agent learns the hyperbolic tangent of rewards.
    """
    total = len(found.rewards)
    lines = [f"{count} observations: {what}." for what, count in found.outside.items()]
    if found.restarts:
        lines.append(
            f"The environment failed {found.restarts} times; a run restarts it at most "
            "`env.max_restarts` times."
        )
    for line, count in Counter(fault.line for fault in found.faults).items():
        lines.append(f"{count} times: {line}.")
    lines += [f"{sentence}. This is accepted." for sentence in found.accepted]
    if not repeatable:
        lines.append(
            "The same seed gives different steps, so runs are not reproducible. Draw all "
            "random numbers from `self.np_random`, which `reset(seed=...)` seeds."
        )
    for key, seen in found.observations.items():
        if not seen.changes:
            lines.append(f"The observation `{key}` never changes.")
        elif max(-seen.minimum, seen.maximum) > LARGE and not seen.is_image:
            lines.append(
                f"The observation `{key}` reaches {max(seen.minimum, seen.maximum, key=abs):.4g}. "
                "Scale it to the order of one, or it dominates the loss."
            )
    if not found.rewards.any():
        lines.append(
            f"All rewards in {total} policy steps are 0. If random actions never find a reward, "
            "the agent may not find one either."
        )
    elif tanh_rewards and (share := np.mean(np.abs(found.rewards) > SATURATED)) > 0.05:
        lines.append(
            f"{share:.0%} of the rewards are beyond {SATURATED:g}, where tanh hardly distinguishes "
            "them. Set model.world_model.reward_transform=identity, or scale them."
        )
    elif not tanh_rewards and (largest := np.abs(found.rewards).max()) > VERY_LARGE:
        lines.append(
            f"A reward reaches {largest:.4g}, and its squared error dominates the loss. Scale the "
            "rewards, or set model.world_model.reward_transform=tanh."
        )
    if not len(found.lengths):
        lines.append(
            f"No episode ended in {total} policy steps. Is there a time limit? "
            "Without one, evaluation episodes are cut at "
            "callbacks.evaluate.max_episode_policy_steps."
        )
    elif short := int((found.lengths + 1 < sequence).sum()):
        lines.append(
            f"{short} of {len(found.lengths)} episodes are shorter than a sequence of "
            f"batch.length={sequence} steps. "
            + (
                "With replay.across_episodes=true, sequences continue in the next episode."
                if across_episodes
                else "The agent never learns from them. Set replay.across_episodes=true, or a "
                "smaller batch.length."
            )
        )
    return lines


class _RunningRange:
    """Accumulates the range of one observation."""

    def __init__(self, value: np.ndarray):
        self._minimum, self._maximum, self._sum, self._count = np.inf, -np.inf, 0.0, 0
        self._changes, self._is_image = False, value.ndim == 4
        self.add(value, value)

    def add(self, value: np.ndarray, first: np.ndarray) -> None:
        """Add another step (E, ...)."""
        self._minimum = min(self._minimum, value.min())
        self._maximum = max(self._maximum, value.max())
        self._sum, self._count = self._sum + float(value.mean()), self._count + 1
        self._changes = self._changes or not np.array_equal(value, first)

    def range(self) -> Range:
        """Return the range so far."""
        least, mean, most = self._minimum, self._sum / self._count, self._maximum
        return Range(float(least), mean, float(most), self._changes, self._is_image)


def _checked(
    envs: VectorEnvs,
    outside: dict[str, int],
    accepted: list[set[str]],
    step: Callable[[], TimeStep],
) -> TimeStep:
    """Make a step; wrap Gymnasium environments of this process to check their observations."""
    members = envs.members if isinstance(envs, EnvGroup) else []
    for member in members:
        if isinstance(member, GymEnv) and not isinstance(member.env, _SpaceChecker):
            member.env = _SpaceChecker(member.env, outside)
            accepted += [member.accepted, {note.rstrip(".") for note in member.notes}]
    return step()


class _SpaceChecker(gymnasium.Wrapper):
    """Counts observations that are outside their space."""

    def __init__(self, env: gymnasium.Env, outside: dict[str, int]):
        super().__init__(env)
        self._outside = outside

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """See `gymnasium.Env`."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._check(obs)
        return obs, info

    def step(self, action: Any) -> Any:
        """See `gymnasium.Env`."""
        result = self.env.step(action)
        self._check(result[0])
        return result

    def _check(self, obs: Any) -> None:
        for path, space in list_parts(self.observation_space):
            name = "/".join(map(str, path)) or "observation"
            try:
                what = _mismatch(name, space, find_part(obs, path, name))
            except EnvironmentFault:
                what = f"`{name}` is missing"
            except Exception:  # `contains` cannot compare it; the encoder says what it is
                what = f"`{name}` is not in {space}"
            if what:
                self._outside[what] = self._outside.get(what, 0) + 1


def _mismatch(name: str, space: gymnasium.Space, value: Any) -> str | None:
    """Describe how a part of an observation differs from its space; None if it does not."""
    if space.contains(value):
        return None
    array = np.asarray(value)
    if not isinstance(space, gymnasium.spaces.Box):
        return f"`{name}` is not in {space}"
    if array.shape != space.shape:
        return f"`{name}` has shape {array.shape}, its space {space.shape}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return f"`{name}` contains NaN or infinity"
    if (array < space.low).any():
        return f"`{name}` is below the lower bounds of its space"
    if (array > space.high).any():
        return f"`{name}` is above the upper bounds of its space"
    return f"`{name}` is {array.dtype}, its space {space.dtype}"
