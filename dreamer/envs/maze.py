"""A fixed maze whose cells are known exactly, to measure how well an agent explores.

`dreamer/envs/dummy.py` builds it. It knows no agent.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dreamer.envs.dummy_base import IMAGE_SIZE, DummyEnvs
from dreamer.types import ActionSpace

WALL, START = "#", "S"
# The start is in the upper left corner; the farthest cell, 40 steps away, is right of the middle.
MAZE = (
    "###############",
    "#S    # #     #",
    "##### # # # ###",
    "#   # #   #   #",
    "### # # ##### #",
    "#   # #   #   #",
    "# ### ##### # #",
    "#   # #     # #",
    "# # # # ##### #",
    "# #     #     #",
    "###############",
)
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # by action: up, down, left, right


class MazeEnvs(DummyEnvs):
    """Walk through a maze of long corridors, from a fixed start to a goal.

    The maze is the same for every seed and every copy, and nothing in it is random. An action
    moves one cell up, down, left or right; into a wall, it does nothing. With `rewarded`, the
    goal gives a reward of 1 and ends the episode for good. Without, there is no reward and only
    the time limit ends an episode. At the end of an episode it reports
    `visited_states`, the number of different cells that the episode visited.

    The vector holds the row and the column, one-hot, (rows + columns,).

    Attributes:
        states: S, the cells that can be reached.
        distance: Steps of the shortest path from the start to the goal.

    Optimum: 1 if the time limit is at least `distance`. Random: the probability that a random walk
    arrives within the limit, from its transition matrix.
    """

    action_space = ActionSpace(len(MOVES), discrete=True)

    def __init__(self, count: int, seed: int, *, length: int, distance: int, rewarded: bool):
        super().__init__(count, seed, length)
        self.obs_shapes = {"vector": (len(MAZE) + len(MAZE[0]),)}
        self._cells = np.array(  # (S, 2) row and column
            [(r, c) for r, line in enumerate(MAZE) for c, x in enumerate(line) if x != WALL]
        )
        self._next = _next_cells(self._cells)  # (S, 4) where each action leads
        self._start = next(i for i, (r, c) in enumerate(self._cells) if MAZE[r][c] == START)
        self.states, self._rewarded = len(self._cells), rewarded
        distances = _distances(self._next, self._start)  # (S,)
        if distance not in range(1, distances.max() + 1):
            raise ValueError(
                f"`maze_goal` must be from 1 to {distances.max()}, the steps from the start to the "
                f"farthest cell, got {distance}"
            )
        self.distance = distance
        self._goal = int(np.flatnonzero(distances == distance)[0])
        self.optimum = float(rewarded and length >= self.distance)
        self.random_return = self._arrival_prob() if rewarded else 0.0
        self._cell = np.full(count, self._start)  # (E,)
        self._visited = np.zeros((count, self.states), bool)
        self._vectors = self._observations()  # (S, rows + columns)

    @property
    def reference_returns(self) -> dict[str, float]:
        """See `VectorEnvs`; none if no policy earns a reward, as scores could not be normalised."""
        return super().reference_returns if self.optimum else {}

    @property
    def episode_metrics(self) -> Sequence[Mapping[str, float]]:
        """See `ReportsEpisodes`."""
        visited = self._visited.sum(1).tolist()
        return [
            {"visited_states": float(cells)} if is_last else {}
            for cells, is_last in zip(visited, self._is_last, strict=True)
        ]

    def _begin(self, env: int, rng: np.random.Generator) -> None:
        self._cell[env] = self._start
        self._visited[env] = False
        self._visited[env, self._start] = True

    def _advance(self, action: np.ndarray) -> np.ndarray:
        self._cell = self._next[self._cell, action.argmax(1)]
        self._visited[np.arange(self.count), self._cell] = True
        return self._is_terminal()

    def _is_terminal(self) -> np.ndarray:
        return (self._cell == self._goal) & self._rewarded

    def _observe(self) -> dict[str, np.ndarray]:
        return {"vector": self._vectors[self._cell]}

    def _draw(self) -> np.ndarray:
        """Draw walls black, cells dark, the goal grey and the position white."""
        tile = IMAGE_SIZE // max(len(MAZE), len(MAZE[0]))
        picture = np.zeros((self.count, len(MAZE), len(MAZE[0])), np.uint8)  # (E, rows, columns)
        picture[:, *self._cells.T] = 80
        if self._rewarded:
            picture[:, *self._cells[self._goal]] = 160
        picture[np.arange(self.count), *self._cells[self._cell].T] = 255
        picture = picture.repeat(tile, 1).repeat(tile, 2)
        margins = [divmod(IMAGE_SIZE - edge, 2) for edge in picture.shape[1:]]
        return np.pad(picture, ((0, 0), *((half, half + odd) for half, odd in margins)))[:, None]

    def _observations(self) -> np.ndarray:
        row, column = self._cells.T
        return np.concatenate(
            [np.eye(len(MAZE))[row], np.eye(len(MAZE[0]))[column]], 1, dtype=np.float32
        )

    def _arrival_prob(self) -> float:
        """Return the probability that a random walk is at the goal within the time limit."""
        walk = np.zeros((self.states, self.states))  # from the row's cell to the column's
        np.add.at(walk, (np.arange(self.states)[:, None], self._next), 1 / len(MOVES))
        walk[self._goal] = np.eye(self.states)[self._goal]  # who has arrived stays
        return float(np.linalg.matrix_power(walk, self.length)[self._start, self._goal])


def _next_cells(cells: np.ndarray) -> np.ndarray:
    """Return (S, 4) the number of the cell that each action leads to; cells (S, 2)."""
    numbers = {tuple(cell): number for number, cell in enumerate(cells.tolist())}
    return np.array(
        [
            [
                numbers.get((row + down, column + right), numbers[row, column])
                for down, right in MOVES
            ]
            for row, column in cells.tolist()
        ]
    )


def _distances(next_cells: np.ndarray, start: int) -> np.ndarray:
    """Return (S,) the steps of the shortest path from `start` to each cell."""
    distances = np.full(len(next_cells), -1)
    frontier, steps = np.array([start]), 0
    while len(frontier):
        distances[frontier] = steps
        reached = np.unique(next_cells[frontier])
        frontier, steps = reached[distances[reached] < 0], steps + 1
    return distances
