"""The DeepMind Control Suite: continuous control, from pixels or from the simulator's vectors.

Runs build it from conf/env/dmc_vision.yaml and dmc_proprio.yaml. No other file imports dm_control.
"""

import os
import warnings
from functools import partial
from typing import Annotated, Literal, Unpack

import numpy as np

from dreamer.envs.base import ActionRepeat, GroupOptions, Task, TimeLimit
from dreamer.envs.group import EnvGroup, Observation, SingleEnv, Transition
from dreamer.envs.opengl import NoRenderer, choose_renderer
from dreamer.envs.processes import make_group
from dreamer.envs.rendering import draw
from dreamer.envs.tasks import find_task
from dreamer.schema.types import doc
from dreamer.schema.validation import checked_call
from dreamer.types import ActionSpace

IMAGE_SIZE = 64  # pixels, both edges
RENDER_SIZE = 256  # pixels, both edges, of images in videos

# Cameras that follow the robot; in the other domains the first camera does.
# Source: common/envs.py of https://github.com/danijar/dreamerv2
CAMERAS = {"quadruped": 2}


@checked_call
def make_dmc(
    task: Task,
    *,
    observation: Annotated[
        Literal["vision", "proprio"],
        doc("Observe an RGB image (vision) or the suite's vectors (proprio)."),
    ],
    action_repeat: ActionRepeat,
    time_limit_frames: TimeLimit,
    **group: Unpack[GroupOptions],
) -> EnvGroup:
    """Build E copies of one task.

    Args:
        task: `<domain>_<task>` of the suite, as "walker_walk"; "cup_catch" is ball_in_cup_catch.
        observation: "vision" is an RGB image; "proprio" are the suite's vectors, by name.
        action_repeat: Frames (control steps of the suite) per policy step.
        time_limit_frames: The episode is truncated here: `is_last` without `is_terminal`.
        group: See `make_group`. The seed determines initial states; the physics is deterministic.
            With processes="auto" and "vision", each environment always has its own process,
            because MuJoCo must always render in the same thread.

    Raises:
        ImportError: dm_control is not installed.
        NoRenderer: "vision" needs a renderer, and none works.
        ValueError: The task is unknown, or a number is out of range.

    Source: Tassa et al. 2018, https://arxiv.org/abs/1801.00690
    """
    can_render = _prepare_rendering(needed=observation == "vision")
    try:
        from dm_control import suite
    except ImportError as error:
        raise ImportError(
            "The DeepMind Control Suite needs `pip install 'dm_control>=1.0.50,<2' 'mujoco<4'`"
        ) from error
    names = {f"{domain}_{name}": (domain, name) for domain, name in suite.ALL_TASKS}
    names["cup_catch"] = ("ball_in_cup", "catch")  # the papers' name
    if group["processes"] == "auto" and observation == "vision":
        group["processes"] = True
    domain, name = names[find_task(task, names, "DeepMind Control")]
    return make_group(
        partial(
            DMControl,
            domain,
            name,
            vision=observation == "vision",
            action_repeat=action_repeat,
            time_limit_frames=time_limit_frames,
            can_render=can_render,
        ),
        action_repeat=action_repeat,
        name=task,
        **group,
    )


def _prepare_rendering(*, needed: bool) -> bool:
    """Choose MuJoCo's renderer; return whether one works."""
    try:
        choose_renderer()
    except NoRenderer as problem:
        if needed:
            raise
        warnings.warn(f"Videos of this run will show observations as bars. {problem}", stacklevel=3)
        os.environ["MUJOCO_GL"] = "disable"
        return False
    return True


class DMControl(SingleEnv):
    """One task of the suite.

    Only the two tasks of the `lqr` domain have terminal states: the system comes to rest. Their
    motors have no limits; here their actions are in [-1, 1], as in all tasks.
    """

    def __init__(
        self,
        domain: str,
        task: str,
        *,
        vision: bool,
        action_repeat: int,
        time_limit_frames: int,
        can_render: bool,
    ):
        """Load the task; `can_render`: whether MuJoCo has a renderer."""
        from dm_control import suite

        # The suite draws from it at every reset; `lqr` also draws its springs, once.
        self._random = np.random.RandomState(0)
        self._env = suite.load(domain, task, task_kwargs={"random": self._random})
        self.name = f"{domain}_{task}"
        self._vision, self._can_render = vision, can_render
        self._action_repeat, self._time_limit = action_repeat, time_limit_frames
        self._camera = CAMERAS.get(domain, 0)
        self._frames = 0  # since the episode's start
        self._obs: Observation = {}  # the latest

        motors = self._env.action_spec()
        limited = np.abs(motors.minimum) < 1e9  # MuJoCo uses 1e10 for no limit
        self._low = np.where(limited, motors.minimum, -1)
        self._high = np.where(limited, motors.maximum, 1)
        self.action_space = ActionSpace(len(self._low), discrete=False)
        vectors = self._env.observation_spec()
        self.obs_shapes = (
            {"image": (3, IMAGE_SIZE, IMAGE_SIZE)}
            if vision
            else {key: (int(np.prod(spec.shape)),) for key, spec in vectors.items()}
        )

    def reset(self, seed: int | None) -> Observation:
        """See `SingleEnv`."""
        if seed is not None:
            self._random.seed(seed)
        self._frames = 0
        self._obs = self._observe(self._env.reset().observation)
        return self._obs

    def step(self, action: np.ndarray) -> Transition:
        """See `SingleEnv`."""
        motors = self._low + (np.clip(action, -1, 1) + 1) / 2 * (self._high - self._low)
        reward, ended = 0.0, False
        for _ in range(self._action_repeat):
            step = self._env.step(motors)
            reward += step.reward
            self._frames += 1
            ended = step.last() or self._frames >= self._time_limit
            if ended:
                break
        is_terminal = step.last() and step.discount == 0
        self._obs = self._observe(step.observation)
        return Transition(self._obs, reward, is_terminal, ended)

    def render(self) -> np.ndarray:
        """See `SingleEnv`: draws the vectors as bars if MuJoCo cannot render."""
        return self._render(RENDER_SIZE) if self._can_render else draw(self._obs)

    def close(self) -> None:
        """See `SingleEnv`."""
        self._env.close()

    def _observe(self, vectors: Observation) -> Observation:
        if self._vision:
            return {"image": np.ascontiguousarray(self._render(IMAGE_SIZE).transpose(2, 0, 1))}
        # Copies: a vector may be a view of the simulator's memory. A number has no dimension.
        return {key: np.array(value, np.float32).ravel() for key, value in vectors.items()}

    def _render(self, size: int) -> np.ndarray:
        return self._env.physics.render(size, size, camera_id=self._camera)
