"""Tiny worlds whose optimal and random returns are known exactly, to test that an agent learns.

Tests and first runs on a new machine use them. They need only NumPy.
"""

from typing import Annotated

import numpy as np

from dreamer.envs.base import EnvCount, Task
from dreamer.envs.catch import CatchEnvs
from dreamer.envs.dummy_base import IMAGE_SIZE, DummyEnvs
from dreamer.envs.maze import MazeEnvs
from dreamer.envs.tasks import find_task, require_at_least
from dreamer.schema.types import Count, PositiveCount, PositiveFraction, doc
from dreamer.schema.validation import checked_call
from dreamer.types import ActionSpace

TASKS = ("memory", "vector_memory", "point", "pixel_point", "catch", "maze", "maze_noreward")


@checked_call
def make_dummy(
    task: Task,
    *,
    count: EnvCount,
    seed: int,
    rounds: Annotated[PositiveCount, doc("memory: cues per episode.")],
    corridor: Annotated[Count, doc("memory: steps before each choice.", unit="policy steps")],
    length: Annotated[PositiveCount, doc("point: length of an episode.", unit="policy steps")],
    speed: Annotated[
        PositiveFraction,
        doc("point: fraction of the way towards its action that the point moves per policy step."),
    ],
    maze_length: Annotated[
        PositiveCount, doc("maze: maximum length of an episode.", unit="policy steps")
    ],
    maze_goal: Annotated[
        PositiveCount, doc("maze: steps from the start to the goal.", unit="policy steps")
    ] = 40,
    doors: Annotated[PositiveCount, doc("memory: choices per cue.")] = 1,
) -> "DummyEnvs":
    """Build E copies of one small world.

    Args:
        task: "memory" (pixels, discrete actions), "vector_memory" (the same, with a vector),
            "point" (a vector, continuous actions), "pixel_point" (the same, with pixels and a
            vector), "catch" (pixels, discrete actions), "maze" (a vector, discrete actions) or
            "maze_noreward" (the same, without a goal).
        count: E, copies that step together.
        seed: Of the initial states; the worlds are otherwise deterministic.
        rounds: memory: cues per episode.
        corridor: memory: policy steps before each choice, in which neither cue nor door is visible.
        length: point: policy steps per episode.
        speed: point: fraction in (0, 1] of the way towards the action, per policy step.
        maze_length: maze: maximum policy steps per episode.
        maze_goal: maze: steps of the shortest path from the start to the goal; of several such
            cells it is the first, row by row.
        doors: memory: choices per cue; the side of the cue is right at all of them.

    Raises:
        ValueError: The task is unknown, or a number is out of range.
    """
    require_at_least(0, seed=seed)
    task = find_task(task, TASKS, "dummy")
    if task in ("memory", "vector_memory"):
        pixels = task == "memory"
        return MemoryEnvs(count, seed, rounds=rounds, corridor=corridor, doors=doors, pixels=pixels)
    if task in ("maze", "maze_noreward"):
        return MazeEnvs(
            count, seed, length=maze_length, distance=maze_goal, rewarded=task == "maze"
        )
    if task == "catch":
        return CatchEnvs(count, seed)
    return PointEnvs(count, seed, length=length, speed=speed, pixels=task == "pixel_point")


class MemoryEnvs(DummyEnvs):
    """Remember the side of a cue, and choose that side at the doors.

    # image     cue  corridor ... corridor  door | cue  ...  door | dark: the end, terminal
    # reward     0       0            0       0  | +-1         0  | +-1

    Each round starts with a cue: the left or the right half of the image is bright, with equal
    probability. After `corridor` dim steps, the lower half is bright: the door. The action chosen
    there is rewarded with +1 on the cue's side and -1 on the other. All other actions have no
    effect. Action 0 is left, 1 is right. With several `doors`, each is behind another corridor.

    A policy with memory earns `rounds` times `doors`. Any other earns 0 on average, because a door
    does not show the side.

    Without pixels, a one-hot vector (5,) tells which image it would be: cue left, cue right,
    corridor, door or dark.
    """

    action_space = ActionSpace(2, discrete=True)

    def __init__(
        self, count: int, seed: int, *, rounds: int, corridor: int, doors: int = 1, pixels: bool
    ):
        self._section = corridor + 1  # steps of a corridor and its door
        self._round_length = 1 + doors * self._section
        self._pixels = pixels
        self.obs_shapes = {"image": (1, IMAGE_SIZE, IMAGE_SIZE)} if pixels else {"vector": (5,)}
        super().__init__(count, seed, rounds * self._round_length)
        self.optimum, self.random_return = float(rounds * doors), 0.0
        self._cue = np.zeros((count, rounds + 1), int)  # (E, rounds + 1): 0 left, 1 right, 4 dark
        self._images = np.zeros((5, 1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        half = IMAGE_SIZE // 2
        self._images[0, :, :, :half] = 255  # cue left
        self._images[1, :, :, half:] = 255  # cue right
        self._images[2] = 85  # corridor
        self._images[3, :, half:] = 255  # door; the last image stays dark

    def _begin(self, env: int, rng: np.random.Generator) -> None:
        self._cue[env, :-1] = rng.integers(2, size=self._cue.shape[1] - 1)
        self._cue[env, -1] = 4

    def _advance(self, action: np.ndarray) -> np.ndarray:
        cue, phase = self._cue_and_phase()
        return np.where(self._at_door(phase), np.where(action.argmax(1) == cue, 1, -1), 0)

    def _is_terminal(self) -> np.ndarray:
        return self._time == self.length

    def _observe(self) -> dict[str, np.ndarray]:
        if self._pixels:
            return super()._observe()
        return {"vector": np.eye(5, dtype=np.float32)[self._index()]}

    def _draw(self) -> np.ndarray:
        return self._images[self._index()]

    def _index(self) -> np.ndarray:
        """Return (E,) the number of the image that is shown."""
        cue, phase = self._cue_and_phase()
        index = np.where(self._at_door(phase), 3, 2)
        return np.where(phase == 0, cue, index)

    def _at_door(self, phase: np.ndarray) -> np.ndarray:
        """Return (E,) whether so many steps after the cue there is a door."""
        return (phase > 0) & (phase % self._section == 0)

    def _cue_and_phase(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (E,) the cue of the current round, and (E,) policy steps since it was shown."""
        current, phase = np.divmod(self._time, self._round_length)
        return self._cue[np.arange(self.count), current], phase


class PointEnvs(DummyEnvs):
    """Move a point to its target in the plane as fast as possible.

    On each of the two axes, position p and target g start uniform in [-1, 1]. An action a in
    [-1, 1] moves the point: p' = (1 - speed) p + speed a. So the point stays in the square, and
    the dynamics are smooth in the action. The reward is minus the squared distance after the move,
    summed over the axes. A time limit ends the episode.

    The vector holds position and target, (4,). With pixels it holds only the position, (2,), and
    the image shows the white point on top of its grey target.

    Optimum: the largest possible action towards the target, until it is in reach, minimises the
    gap after t steps for every t. Let q = (1 - speed) ** t and, for a target above the point,
    u = 1 - p and v = 1 - g, both uniform in [0, 2]: the gap is max(q u - v, 0), its mean square
    (1/4) integral of (q u)**3 / 3 over u = q**3 / 3, and twice that with targets below the point.

    Random: uniform actions have variance 1/3, so the position is p q plus noise of variance
    (speed**2 / 3) (1 - q**2) / (1 - (1 - speed)**2), independent of a target of variance 1/3.
    """

    action_space = ActionSpace(2, discrete=False)

    def __init__(self, count: int, seed: int, *, length: int, speed: float, pixels: bool):
        super().__init__(count, seed, length)
        self.obs_shapes = (
            {"image": (1, IMAGE_SIZE, IMAGE_SIZE), "vector": (2,)} if pixels else {"vector": (4,)}
        )
        self._speed, self._pixels = speed, pixels
        self._position = np.zeros((count, 2))  # (E, 2) right and up, in [-1, 1]
        self._target = np.zeros((count, 2))
        stay = 1 - speed
        q = stay ** np.arange(1, length + 1)
        noise = speed**2 / 3 * (1 - q**2) / (1 - stay**2)
        self.optimum = float(-2 * np.sum(2 / 3 * q**3))
        self.random_return = float(-2 * np.sum(q**2 / 3 + noise + 1 / 3))

    def _begin(self, env: int, rng: np.random.Generator) -> None:
        self._position[env], self._target[env] = rng.uniform(-1, 1, size=(2, 2))

    def _advance(self, action: np.ndarray) -> np.ndarray:
        self._position += self._speed * (np.clip(action, -1, 1) - self._position)
        return -np.square(self._position - self._target).sum(1)

    def _observe(self) -> dict[str, np.ndarray]:
        if self._pixels:
            return {"image": self._draw(), "vector": self._position.astype(np.float32)}
        return {"vector": np.concatenate([self._position, self._target], 1, dtype=np.float32)}

    def _draw(self) -> np.ndarray:
        image = np.zeros((self.count, 1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        for positions, edge, brightness in ((self._target, 16, 128), (self._position, 8, 255)):
            centre = np.rint((IMAGE_SIZE - 16) / 2 * (1 + positions * (1, -1))).astype(int) + 8
            for env, (column, row) in enumerate(centre - edge // 2):
                image[env, 0, row : row + edge, column : column + edge] = brightness
        return image
