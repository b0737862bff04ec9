"""One environment of an agent as a `gymnasium.Env`, for programs that play.

`TrainedAgent.make_env` returns it. What it observes is what the agent's codec takes, and its
actions are what the codec returns. It knows groups of environments, no agent.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer.envs.base import VectorEnvs, episode_metrics
from dreamer.envs.gym import GymEnv
from dreamer.envs.native_codec import NativeCodec
from dreamer.envs.rendering import draw
from dreamer.types import ActionSpace, TimeStep, obs_dtype, visible

MAX_SEED = 2**31

MakeGroup = Callable[[int], VectorEnvs]  # makes a group of one environment from a seed


def single_env(make: MakeGroup) -> gymnasium.Env:
    """Make one environment, without a process of its own if it is a Gymnasium environment.

    Args:
        make: Makes a group of one environment, in this process where it can choose.

    Raises:
        ValueError: The group has Gymnasium spaces, but no Gymnasium environment.
    """
    group = make(0)
    if getattr(group, "user_spaces", None) is None:
        return GroupOfOne(make, group)
    member = next(iter(getattr(group, "members", ())), None)
    if not isinstance(member, GymEnv):
        group.close()
        raise ValueError(
            "The environment must be a Gymnasium environment in this process, got "
            f"{type(member or group).__name__}. Set env.processes=false in the run's config.yaml."
        )
    return RepeatedEnv(member)


class RepeatedEnv(gymnasium.Wrapper):
    """A user's environment whose step is a policy step: the action repeat sums up rewards."""

    def __init__(self, member: GymEnv):
        super().__init__(member.env)
        self._member = member
        self._raw: Any = None  # the latest observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start an episode."""
        self._raw, info = self.env.reset(seed=seed, options=options)
        return self._raw, info

    def step(self, action: Any) -> Any:
        """Make one policy step."""
        result = self._member.repeat(action)
        self._raw = result[0]
        return result

    def render(self) -> Any:
        """Return an image (height, width, 3) uint8; the observation if there is no other."""
        if self.env.render_mode == "rgb_array":
            return self.env.render()
        return draw(self._member.encode(self._raw))


class GroupOfOne(gymnasium.Env):
    """An environment of a suite, such as Atari: observations as the agent gets them.

    A reset with a seed makes the environment anew, a reset without one continues its random stream.
    """

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, make: MakeGroup, group: VectorEnvs):
        """`group` was made for the spaces; the first reset may replace it."""
        self._make, self._group, self._is_seeded = make, group, False
        shapes = visible(group.obs_shapes)
        self._codec = NativeCodec(shapes, group.action_space)
        self.observation_space = spaces.Dict(
            {key: _observation_space(shape) for key, shape in shapes.items()}
        )
        self.action_space = _action_space(group.action_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; `options` are not used."""
        super().reset(seed=seed)
        if seed is not None or not self._is_seeded:
            chosen = int(self.np_random.integers(MAX_SEED)) if seed is None else seed
            self._group.close()
            self._group, self._is_seeded = self._make(chosen), True
        return self._observation(self._group.reset()), {}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Make one policy step."""
        step = self._group.step(self._codec.encode_actions(action)[None])
        terminal = bool(step.is_terminal[0])
        truncated = bool(step.is_last[0]) and not terminal
        info = dict(episode_metrics(self._group, 0))
        return self._observation(step), float(step.reward[0]), terminal, truncated, info

    def render(self) -> Any:
        """Return an image (height, width, 3) uint8."""
        return self._group.render()[0]

    def close(self) -> None:
        """Release all resources."""
        self._group.close()

    def _observation(self, step: TimeStep) -> dict[str, np.ndarray]:
        return {key: x[0] for key, x in visible(step.obs).items()}


def _observation_space(shape: tuple[int, ...]) -> spaces.Box:
    if obs_dtype(shape) is np.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def _action_space(space: ActionSpace) -> spaces.Space:
    if not space.discrete:
        return spaces.Box(-1, 1, (space.size,), np.float32)
    if space.choices:
        return spaces.MultiDiscrete(list(space.choices))
    return spaces.Discrete(space.size)
