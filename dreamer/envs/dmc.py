"""The DeepMind Control Suite: continuous control, from pixels or from the simulator's vectors.

The runner builds it from conf/env/dmc_vision.yaml and dmc_proprio.yaml. No other file imports
dm_control.
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
PICTURE_SIZE = 256  # pixels, both edges, of what is rendered for people

# The view in which the robot stays in sight; everywhere else the first camera is.
# Source: common/envs.py of https://github.com/danijar/dreamerv2
CAMERAS = {"quadruped": 2}


@checked_call
def make_dmc(
    task: Task,
    *,
    observation: Annotated[
        Literal["vision", "proprio"],
        doc("What is observed: an RGB image, or the suite's own vectors."),
    ],
    action_repeat: ActionRepeat,
    time_limit_frames: TimeLimit,
    **group: Unpack[GroupOptions],
) -> EnvGroup:
    """Build E copies of one task.

    Args:
        task: `<domain>_<task>` of the suite, as "walker_walk"; "cup_catch" is the ball in the cup.
        observation: "vision" is an RGB image; "proprio" are the suite's own vectors, by name.
        action_repeat: Frames per policy step, which are control steps of the suite.
        time_limit_frames: The episode is cut here: `is_last` without `is_terminal`.
        group: See `make_group`; the seed is that of how episodes start, the physics has no
            randomness otherwise. With processes="auto", an environment that draws always has a
            process: only the thread that drew first may draw.

    Raises:
        ImportError: dm_control is not installed.
        NoRenderer: "vision" where nothing can draw.
        ValueError: Unknown task, or a number out of its range.

    Source: Tassa et al. 2018, https://arxiv.org/abs/1801.00690
    """
    draws = _prepare_rendering(needed=observation == "vision")
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
            draws=draws,
        ),
        action_repeat=action_repeat,
        **group,
    )


def _prepare_rendering(*, needed: bool) -> bool:
    """Choose how MuJoCo draws; tell whether it can, which vectors get on without."""
    try:
        choose_renderer()
    except NoRenderer as problem:
        if needed:
            raise
        warnings.warn(f"Videos of this run will show numbers as bars. {problem}", stacklevel=3)
        os.environ["MUJOCO_GL"] = "disable"
        return False
    return True


class DMControl(SingleEnv):
    """One task of the suite.

    No task ends for good but the two of the `lqr` domain, where the system comes to rest. Those
    two also have motors without limits, whose actions are [-1, 1] here as everywhere.
    """

    def __init__(
        self,
        domain: str,
        task: str,
        *,
        vision: bool,
        action_repeat: int,
        time_limit_frames: int,
        draws: bool,
    ):
        """Load the task; `draws` says whether MuJoCo can render here."""
        from dm_control import suite

        # The suite draws from it at every reset, and `lqr` also its springs, once and for all.
        self._random = np.random.RandomState(0)
        self._env = suite.load(domain, task, task_kwargs={"random": self._random})
        self.name = f"{domain}_{task}"
        self._vision, self._draws = vision, draws
        self._action_repeat, self._time_limit = action_repeat, time_limit_frames
        self._camera = CAMERAS.get(domain, 0)
        self._frames = 0  # since the episode's start
        self._obs: Observation = {}  # the latest

        motors = self._env.action_spec()
        limited = np.abs(motors.minimum) < 1e9  # MuJoCo writes 1e10 for no limit
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
        """See `SingleEnv`: the vectors as bars where MuJoCo cannot draw."""
        return self._draw(PICTURE_SIZE) if self._draws else draw(self._obs)

    def close(self) -> None:
        """See `SingleEnv`."""
        self._env.close()

    def _observe(self, vectors: Observation) -> Observation:
        if self._vision:
            return {"image": np.ascontiguousarray(self._draw(IMAGE_SIZE).transpose(2, 0, 1))}
        # A vector may be a view of the simulator's memory, and a number has no dimension.
        return {key: np.array(value, np.float32).ravel() for key, value in vectors.items()}

    def _draw(self, size: int) -> np.ndarray:
        return self._env.physics.render(size, size, camera_id=self._camera)
