"""What a room of MiniGrid holds, whether the agent sees it or not: observations for probes.

`minigrid.py` adds them to what the agent observes. Positions are (x, y) in cells, from the room's
upper left corner.
"""

from typing import Any

import numpy as np

from dreamer.envs.group import Observation
from dreamer.types import HIDDEN

# Kinds of cells, MiniGrid's numbers 1 to 9. The agent is not part of the map.
KINDS = ("empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava")
NEVER = 10_000  # age of what has not been visible in the episode, in steps; more than any limit


class RoomTruth:
    """Observes the map of one room, the agent on it, and the way to the goal."""

    def __init__(self, room: Any, *, with_map: bool, with_goals: bool):
        """Prepare the observations.

        Args:
            room: An unwrapped MiniGrid environment.
            with_map: Observe the map, the agent's position and direction, and the cells seen.
            with_goals: Observe the vector to the goal tile, ahead and to the right.
        """
        self._room, self._with_map, self._with_goals = room, with_map, with_goals
        height, width = room.height, room.width
        shapes: dict[str, tuple[int, ...]] = {}
        if with_map:
            shapes |= {
                "map": (len(KINDS), height, width),
                "agent_pos": (2,),
                "agent_dir": (2,),
                "map_seen": (height * width,),
            }
        if with_goals:
            shapes |= {"target_vec": (2,), "targets_vec": (2,), "goals_visage": (1,)}
        self.shapes = {HIDDEN + key: shape for key, shape in shapes.items()}
        self._seen = np.zeros((height, width), bool)
        self._age = NEVER  # steps since the goal was visible
        self._cells: list[Any] = []  # of the latest map
        self._map = np.zeros(0, np.uint8)

    def reset(self) -> None:
        """Forget what was seen."""
        self._seen[:] = False
        self._age = NEVER

    def observe(self, view: np.ndarray) -> Observation:
        """Return what is true now; the agent's view is (V, V, 3), as MiniGrid observes it."""
        if not self.shapes:
            return {}
        visible = self._visible(view)
        self._seen |= visible
        cells = self._room.grid.grid
        if cells != self._cells:  # compares identities, which is fast; seldom true
            self._cells = [*cells]
            self._map = self._draw_map()
        position = np.array(self._room.agent_pos, np.float32)
        ahead = np.array(self._room.dir_vec, np.float32)
        obs: dict[str, np.ndarray] = {}
        if self._with_map:
            obs |= {
                "map": self._map.copy(),
                "agent_pos": position,
                "agent_dir": ahead,
                "map_seen": self._seen.astype(np.float32).ravel(),
            }
        if self._with_goals:
            x, y = goal = self._goal()
            self._age = 0 if visible[y, x] else self._age + 1
            way = goal - position
            vector = np.array([way @ ahead, way @ (-ahead[1], ahead[0])], np.float32)
            age = np.array([self._age], np.float32)
            obs |= {"target_vec": vector, "targets_vec": vector.copy(), "goals_visage": age}
        return {HIDDEN + key: value for key, value in obs.items()}

    def _visible(self, view: np.ndarray) -> np.ndarray:
        """Return which cells of the room are visible, (height, width)."""
        in_view = view[..., 0] != 0  # (V, V) by x and y, as if the agent looked up
        for _ in range(self._room.agent_dir + 1):  # undo the rotations of `gen_obs_grid`
            in_view = in_view.T[::-1]
        left, top, *_ = self._room.get_view_exts()
        height, width = self._seen.shape
        x, y = np.nonzero(in_view)
        x, y = x + left, y + top
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        visible = np.zeros((height, width), bool)
        visible[y[inside], x[inside]] = True
        return visible

    def _draw_map(self) -> np.ndarray:
        """Return the map, (kinds, height, width), one-hot."""
        kinds = [KINDS.index("empty" if x is None else x.type) for x in self._cells]
        one_hot = np.eye(len(KINDS), dtype=np.uint8)[kinds]  # (cells, kinds)
        return np.ascontiguousarray(one_hot.T.reshape(-1, *self._seen.shape))

    def _goal(self) -> np.ndarray:
        """Return the position of the goal tile.

        Raises:
            ValueError: The task has no goal tile.
        """
        width = self._seen.shape[1]
        for i, cell in enumerate(self._cells):
            if cell is not None and cell.type == "goal":
                return np.array([i % width, i // width])
        raise ValueError(
            f"`probe` must not need goals in a task without a goal tile, got {self._room.spec.id}. "
            "Use probe=map, or a task such as FourRooms."
        )
