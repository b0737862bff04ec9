"""Any Gymnasium environment: one that is registered, or an object of the user's own.

The runner builds registered ones from conf/env/gym.yaml; other suites that speak Gymnasium wrap
their objects in `GymEnv`. It knows spaces and how to step, and no policy.
"""

import importlib
import os
from functools import partial
from typing import Annotated, Any, Unpack

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from dreamer.envs.base import ActionRepeat, GroupOptions, Task
from dreamer.envs.group import EnvGroup, EnvironmentFault, Observation, SingleEnv, Transition
from dreamer.envs.processes import make_group
from dreamer.envs.rendering import draw
from dreamer.envs.spaces import ActionWriter, GymSpaces, ObservationReader
from dreamer.envs.tasks import find_task, require_at_least
from dreamer.schema.types import Pattern, PositiveCount, doc
from dreamer.schema.validation import checked_call

# Keys that every environment of Gymnasium has.
GymTimeLimit = Annotated[
    PositiveCount | None,
    doc("Length of an episode, after which it is cut; null: as registered.", unit="frames"),
]
Grayscale = Annotated[bool, doc("Make RGB images one channel.")]
FlatKeys = Annotated[
    Pattern, doc("Pattern of observations to flatten that would be taken for images.")
]
Kwargs = Annotated[
    dict[str, Any],
    doc("For the environment: env.kwargs.gravity=1.6, with a plus if it is new."),
]


class GymOptions(GroupOptions):
    """The options of every group of Gymnasium's environments."""

    action_repeat: ActionRepeat
    time_limit_frames: GymTimeLimit
    grayscale: Grayscale
    flat_keys: FlatKeys
    kwargs: Kwargs


@checked_call
def make_gym(
    task: Task,
    *,
    action_repeat: ActionRepeat,
    time_limit_frames: GymTimeLimit,
    grayscale: Grayscale,
    flat_keys: FlatKeys,
    kwargs: Kwargs,
    **group: Unpack[GroupOptions],
) -> EnvGroup:
    """Build E copies of a registered environment.

    Args:
        task: An id that Gymnasium knows, as "CartPole-v1", or one that a module registers when it
            is imported, as "my_module:MyEnv-v0".
        action_repeat: Steps of the environment per policy step; their rewards are summed.
        time_limit_frames: Steps of the environment in an episode; None: as registered.
        grayscale: See `ObservationReader`.
        flat_keys: See `ObservationReader`.
        kwargs: Given to the environment.
        group: See `make_group`.

    Raises:
        ImportError: The task's module, or a package that the environment needs, is missing.
        ValueError: Unknown task, options it does not take, spaces that an agent cannot learn with,
            or a number out of its range.
    """
    make = partial(
        make_registered,
        _find_id(task),
        kwargs,
        time_limit_frames,
        action_repeat=action_repeat,
        grayscale=grayscale,
        flat_keys=flat_keys,
    )
    return make_group(
        make,
        action_repeat=action_repeat,
        **group,
    )


def make_registered(
    id_: str, kwargs: dict[str, Any], time_limit_frames: int | None, **options: Any
) -> "GymEnv":
    """Make one environment by its registered id; `options` are those of `GymEnv`."""
    module, _, name = id_.rpartition(":")
    if module:  # in another process it has not been imported yet
        importlib.import_module(module)
    if "DISPLAY" not in os.environ:  # spare people SDL's complaint about it
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        kwargs = {"render_mode": "rgb_array"} | kwargs if _can_draw(name) else kwargs
        env = gymnasium.make(
            name, max_episode_steps=time_limit_frames, disable_env_checker=True, **kwargs
        )
    except (TypeError, gymnasium.error.Error) as error:
        if isinstance(error, gymnasium.error.DependencyNotInstalled):
            raise ImportError(f"{name}: {error}") from error
        raise ValueError(f"{name} cannot be made with `env.kwargs` {kwargs}: {error}") from error
    return GymEnv(env, **options)


class GymEnv(SingleEnv):
    """One Gymnasium environment, in this process."""

    def __init__(
        self,
        env: gymnasium.Env,
        *,
        action_repeat: int = 1,
        grayscale: bool = False,
        flat_keys: str = "$^",
    ):
        """Wrap an environment.

        Args:
            env: With the current API of Gymnasium; pictures need its `render_mode` "rgb_array".
            action_repeat: Its steps per policy step.
            grayscale: See `ObservationReader`.
            flat_keys: See `ObservationReader`.

        Raises:
            ValueError: Its spaces are none that an agent can learn with, or a number is too small.
        """
        require_at_least(1, action_repeat=action_repeat)
        self.env, self._action_repeat = env, action_repeat
        own = env.unwrapped
        self.name = str(getattr(own.spec, "id", type(own).__name__))
        self._read = ObservationReader(
            env.observation_space, grayscale=grayscale, flat_keys=flat_keys
        )
        self._write = ActionWriter(env.action_space)
        self.obs_shapes, self.action_space = self._read.shapes, self._write.action_space
        self.user_spaces = GymSpaces(env.observation_space, env.action_space, grayscale, flat_keys)
        self._obs: Observation = {}
        self._can_render = env.render_mode == "rgb_array"
        self.notes = tuple(
            f"The observation `{name}` is left out: {space} is neither image nor vector."
            for name, space in self._read.left_out.items()
        )

    def reset(self, seed: int | None) -> Observation:
        """See `SingleEnv`."""
        raw, _ = self.env.reset(seed=seed)
        self._obs = self._read(raw)
        return self._obs

    def step(self, action: np.ndarray) -> Transition:
        """See `SingleEnv`."""
        raw_action = self._write(action)
        total, raw, terminated, truncated = 0.0, None, False, False
        for _ in range(self._action_repeat):
            result = self.env.step(raw_action)
            if len(result) != 5:
                raise EnvironmentFault(
                    "Expect `step` to return observation, reward, terminated, truncated and info, "
                    f"actually {len(result)} things: is it of the old Gym?"
                )
            raw, reward, terminated, truncated, _ = result
            total += float(reward)
            if terminated or truncated:
                break
        self._obs = self._read(raw)
        return Transition(self._obs, total, bool(terminated), bool(terminated or truncated))

    def render(self) -> np.ndarray:
        """See `SingleEnv`: its observation, where it says that it gives no pictures."""
        picture: Any = self.env.render() if self._can_render else draw(self._obs)
        return picture

    def close(self) -> None:
        """See `SingleEnv`."""
        self.env.close()


def _find_id(task: str) -> str:
    """The id that a task means, with its module, which is imported."""
    module, colon, name = task.rpartition(":")
    if module:
        importlib.import_module(module)
    exact = name in gymnasium.registry
    return module + colon + (name if exact else find_task(name, gymnasium.registry, "Gymnasium"))


def _can_draw(name: str) -> bool:
    """Tell whether an environment's class says that it gives pictures."""
    entry = gymnasium.spec(name).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    return "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", ())
