"""Memory Maze for `env=memory_maze task=9x9`: 3D mazes in which objects have to be found again.

A package of its own, as a user would write it: it knows `dreamer` only to find a renderer. Only the
thread that drew first may draw, so `collect=overlap` needs `env.processes=true`.

Source: Pasukonis et al. 2022, https://arxiv.org/abs/2210.13383
"""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer.envs.opengl import choose_renderer

TASKS = ("9x9", "11x11", "13x13", "15x15")


class MemoryMaze(gymnasium.Env):
    """One maze, seen from the agent's place; the colour to look for is the image's border."""

    metadata = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, task: str, **options: Any):
        """`options` are those of the suite, such as `good_visibility`."""
        choose_renderer()  # before anything imports dm_control
        from memory_maze import tasks

        build = getattr(tasks, f"memory_maze_{task}")
        self._build = partial(build, image_only_obs=True, **options)
        self._env = self._build()
        self._image: np.ndarray | None = None
        self.observation_space = spaces.Box(0, 255, self._env.observation_spec().shape, np.uint8)
        self.action_space = spaces.Discrete(int(self._env.action_spec().num_values))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Make another maze."""
        super().reset(seed=seed)
        if seed is not None:  # the suite takes one only here
            self._env.close()
            self._env = self._build(seed=seed)
        self._image = np.array(self._env.reset().observation)
        return self._image, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move; an object that was asked for is worth 1. The time limit ends an episode."""
        step = self._env.step(int(action))
        self._image = np.array(step.observation)
        return self._image, float(step.reward), False, bool(step.last()), {}

    def render(self) -> np.ndarray | None:
        """Return what the agent sees."""
        return self._image

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


def make(task: str, **options: Any) -> MemoryMaze:
    """Make one environment of a task; the entry point."""
    if task not in TASKS:
        raise ValueError(f"Unknown Memory Maze task {task}, expected one of {', '.join(TASKS)}")
    return MemoryMaze(task, **options)
