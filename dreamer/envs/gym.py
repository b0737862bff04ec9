"""Gymnasium environments: registered ones, or objects of the user's program.

Runs build registered ones from conf/env/gym.yaml; other suites with Gymnasium environments wrap
them in `GymEnv`. This file knows no policy.
"""

import importlib
import os
import re
from functools import partial
from importlib.metadata import entry_points
from typing import Annotated, Any, Unpack

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from dreamer.envs.base import ActionRepeat, GroupOptions, Task
from dreamer.envs.current_api import read_flag, read_reward, with_current_api
from dreamer.envs.faults import import_module_of
from dreamer.envs.group import EnvGroup, Observation, SingleEnv, Transition
from dreamer.envs.processes import make_group
from dreamer.envs.rendering import draw
from dreamer.envs.spaces import ActionDecoder, GymSpaces, ObservationEncoder
from dreamer.envs.tasks import find_task, require_at_least
from dreamer.schema.types import Pattern, PositiveCount, doc
from dreamer.schema.validation import checked_call

ATARI = "ale_py"  # package of the Atari games
ATARI_ID = re.compile(r"ALE/|\w+(Deterministic|NoFrameskip)-v\d")

# Keys of every Gymnasium environment.
GymTimeLimit = Annotated[
    PositiveCount | None,
    doc("Maximum length of an episode; null: as registered.", unit="frames"),
]
Grayscale = Annotated[bool, doc("Convert RGB images to one channel.")]
FlatKeys = Annotated[
    Pattern, doc("Pattern of observations to flatten although they have an image's shape.")
]
ClassKeys = Annotated[
    Pattern,
    doc("Pattern of observations that are tables (h, w) of class indices."),
]
Kwargs = Annotated[
    dict[str, Any],
    doc("Arguments of the environment: env.kwargs.gravity=1.6, with a plus if new."),
]


class GymOptions(GroupOptions):
    """Options of a group of Gymnasium environments."""

    action_repeat: ActionRepeat
    time_limit_frames: GymTimeLimit
    grayscale: Grayscale
    flat_keys: FlatKeys
    class_keys: ClassKeys
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
    class_keys: ClassKeys = "$^",
    **group: Unpack[GroupOptions],
) -> EnvGroup:
    """Build E copies of a registered environment.

    Args:
        task: A registered id, as "CartPole-v1", or one that a module registers on import or by
            the entry point `gymnasium.envs` of its package, as "my_module:MyEnv-v0".
        action_repeat: Environment steps per policy step; their rewards are summed.
        time_limit_frames: Maximum environment steps of an episode; None: as registered.
        grayscale: See `ObservationEncoder`.
        flat_keys: See `ObservationEncoder`.
        kwargs: Passed to the environment.
        class_keys: See `ObservationEncoder`.
        group: See `make_group`.

    Raises:
        ImportError: The task's module, or a package that the environment needs, is missing.
        ValueError: The task or an argument is unknown, a space is not supported, or a number is
            out of range.
    """
    make = partial(
        make_registered,
        _find_id(task),
        kwargs,
        time_limit_frames,
        action_repeat=action_repeat,
        grayscale=grayscale,
        flat_keys=flat_keys,
        class_keys=class_keys,
    )
    return make_group(
        make,
        action_repeat=action_repeat,
        name=task,
        **group,
    )


def make_registered(
    id_: str, kwargs: dict[str, Any], time_limit_frames: int | None, **options: Any
) -> "GymEnv":
    """Make one environment by its registered id; `options` are those of `GymEnv`."""
    module, _, name = id_.rpartition(":")
    if module:  # another process has not imported it yet
        importlib.import_module(module)
        _register(module, name)
    if "DISPLAY" not in os.environ:  # avoids a warning of SDL
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        kwargs = {"render_mode": "rgb_array"} | kwargs if _can_render(name) else kwargs
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
        class_keys: str = "$^",
    ):
        """Wrap an environment.

        Args:
            env: With the interface of Gymnasium or of the old Gym; images need the `render_mode`
                "rgb_array".
            action_repeat: Environment steps per policy step.
            grayscale: See `ObservationEncoder`.
            flat_keys: See `ObservationEncoder`.
            class_keys: See `ObservationEncoder`.

        Raises:
            ValueError: A space is not supported, or a number is too small.
        """
        require_at_least(1, action_repeat=action_repeat)
        self.accepted: set[str] = set()  # sentences about what is unusual and was converted
        self.env: gymnasium.Env = with_current_api(env, self.accepted)
        self._action_repeat = action_repeat
        unwrapped = env.unwrapped
        self.name = str(getattr(unwrapped.spec, "id", type(unwrapped).__name__))
        self.encode = ObservationEncoder(
            env.observation_space,
            grayscale=grayscale,
            flat_keys=flat_keys,
            class_keys=class_keys,
        )
        self._decode = ActionDecoder(env.action_space)
        self.obs_shapes, self.action_space = self.encode.shapes, self._decode.action_space
        self.user_spaces = GymSpaces(
            env.observation_space, env.action_space, grayscale, flat_keys, class_keys
        )
        self._obs: Observation = {}
        self._can_render = env.render_mode == "rgb_array"
        self.notes = tuple(
            f"The observation `{name}` is ignored: {space} is neither an image nor a vector."
            if space.shape is None or 0 not in space.shape
            else f"The observation `{name}` is ignored: {space} contains no number."
            for name, space in self.encode.left_out.items()
        )

    def reset(self, seed: int | None) -> Observation:
        """See `SingleEnv`."""
        raw, _ = self.env.reset(seed=seed)
        self._obs = self.encode(raw)
        return self._obs

    def step(self, action: np.ndarray) -> Transition:
        """See `SingleEnv`."""
        raw, total, terminated, truncated, _ = self.repeat(self._decode(action))
        self._obs = self.encode(raw)
        return Transition(self._obs, total, terminated, terminated or truncated)

    def repeat(self, raw_action: Any) -> tuple[Any, float, bool, bool, Any]:
        """Make the environment's steps of one policy step.

        Returns:
            What `step` of Gymnasium returns, with the sum of the rewards.
        """
        total, raw, terminated, truncated, info = 0.0, None, False, False, {}
        for _ in range(self._action_repeat):
            raw, reward, *ends, info = self.env.step(raw_action)
            total += read_reward(reward, self.accepted)
            terminated = read_flag("terminated", ends[0], self.accepted)
            truncated = read_flag("truncated", ends[1], self.accepted)
            if terminated or truncated:
                break
        return raw, total, terminated, truncated, info

    def render(self) -> np.ndarray:
        """See `SingleEnv`; draws the observation if the environment cannot render."""
        image: Any = self.env.render() if self._can_render else draw(self._obs)
        return image

    def close(self) -> None:
        """See `SingleEnv`."""
        self.env.close()


def _find_id(task: str) -> str:
    """Return the id of a task, with its module, which is imported."""
    module, colon, name = task.rpartition(":")
    if not module and name not in gymnasium.registry and ATARI_ID.match(name):
        module, colon = ATARI, ":"  # it registers the games
    try:
        if module:
            import_module_of(task, module)
            _register(module, name)
    except ModuleNotFoundError as error:
        if error.name != ATARI:
            raise
        raise ImportError(f"{name} needs `pip install 'ale-py>=0.11.2,<0.13'`") from error
    exact = name in gymnasium.registry
    return module + colon + (name if exact else find_task(name, gymnasium.registry, "Gymnasium"))


def _register(module: str, name: str) -> None:
    """Call what a module's package declares as the entry point `gymnasium.envs`.

    The old Gym called it. Gymnasium does not, and an import may not register the environments.
    """
    if name in gymnasium.registry:
        return
    package = module.partition(".")[0]
    for point in entry_points(group="gymnasium.envs"):
        if point.module.partition(".")[0] == package:
            point.load()()


def _can_render(name: str) -> bool:
    """Whether an environment's class declares the render mode "rgb_array"."""
    entry = gymnasium.spec(name).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    return "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", ())
