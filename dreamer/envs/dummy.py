"""Tiny worlds whose best and random returns are known exactly, to test that an agent learns.

Tests and the first runs on a new machine use them. They know NumPy only, and cost nothing.
"""

from abc import ABC, abstractmethod
from typing import Annotated

import numpy as np

from dreamer.envs.base import EnvCount, Task
from dreamer.envs.rendering import enlarge
from dreamer.envs.tasks import find_task, require_at_least
from dreamer.schema.types import Count, PositiveCount, PositiveFraction, doc
from dreamer.schema.validation import checked_call
from dreamer.types import ActionSpace, TimeStep

IMAGE_SIZE = 64  # pixels, both edges


@checked_call
def make_dummy(
    task: Task,
    *,
    count: EnvCount,
    seed: int,
    rounds: Annotated[PositiveCount, doc("memory: choices per episode.")],
    corridor: Annotated[Count, doc("memory: between a cue and its choice.", unit="policy steps")],
    length: Annotated[PositiveCount, doc("point: length of an episode.", unit="policy steps")],
    speed: Annotated[
        PositiveFraction,
        doc("point: share of the way towards its action that the point goes in a policy step."),
    ],
) -> "DummyEnvs":
    """Build E copies of one small world.

    Args:
        task: "memory" (pixels, discrete actions), "point" (a vector, continuous actions) or
            "pixel_point" (the same in pixels beside a vector).
        count: E, copies that step together.
        seed: Of how episodes start; the worlds are deterministic otherwise.
        rounds: memory: choices per episode.
        corridor: memory: policy steps between a cue and its choice, without either in sight.
        length: point: policy steps per episode.
        speed: point: the share of the way, in (0, 1], that one policy step goes.

    Raises:
        ValueError: Unknown task, or a number out of its range.
    """
    require_at_least(0, seed=seed)
    task = find_task(task, ["memory", "point", "pixel_point"], "dummy")
    if task == "memory":
        return MemoryEnvs(count, seed, rounds=rounds, corridor=corridor)
    return PointEnvs(count, seed, length=length, speed=speed, pixels=task == "pixel_point")


class DummyEnvs(ABC):
    """E copies of one world of fixed episode length, behind the `VectorEnvs` protocol.

    A subclass keeps the state of its copies in arrays (E, ...), sets the attributes that the
    protocol and this class name, and says how a copy begins, goes on and looks.
    """

    obs_shapes: dict[str, tuple[int, ...]]
    action_space: ActionSpace
    action_repeat = 1
    optimum: float  # mean return of an episode under the best policy
    random_return: float  # the same under uniformly random actions
    is_terminal_at_end: bool  # else the end is a time limit

    def __init__(self, count: int, seed: int, length: int):
        self.count = count
        self.length = length  # policy steps per episode
        self._rngs = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(count)]
        self._time = np.full(count, length)  # (E,) policy steps since the episode's start

    @property
    def reference_returns(self) -> dict[str, float]:
        """See `VectorEnvs`."""
        return {"random": self.random_return, "optimum": self.optimum}

    def reset(self) -> TimeStep:
        """See `VectorEnvs`."""
        self._time[:] = self.length
        return self.step(np.zeros((self.count, self.action_space.size), np.float32))

    def step(self, action: np.ndarray) -> TimeStep:
        """See `VectorEnvs`."""
        is_first = self._time == self.length  # (E,)
        reward = np.where(is_first, 0, self._advance(action)).astype(np.float32)
        for env in np.flatnonzero(is_first).tolist():
            self._begin(env, self._rngs[env])
        self._time = np.where(is_first, 0, self._time + 1)
        is_last = self._time == self.length
        return TimeStep(
            self._observe(), reward, is_first, is_last, is_last & self.is_terminal_at_end
        )

    def render(self) -> np.ndarray:
        """See `VectorEnvs`."""
        return enlarge(self._draw(), 4)

    def close(self) -> None:  # noqa: B027 (there is nothing to free)
        """See `VectorEnvs`."""

    @abstractmethod
    def _begin(self, env: int, rng: np.random.Generator) -> None:
        """Draw the start of a new episode for one copy."""

    @abstractmethod
    def _advance(self, action: np.ndarray) -> np.ndarray:
        """Apply the actions (E, A) at `_time` and return the rewards (E,) they earn."""

    @abstractmethod
    def _draw(self) -> np.ndarray:
        """Return (E, 1, 64, 64) uint8, the copies as they stand."""

    def _observe(self) -> dict[str, np.ndarray]:
        return {"image": self._draw()}


class MemoryEnvs(DummyEnvs):
    """Remember on which side the light was, and turn there when the door comes.

    # picture   cue  corridor ... corridor  door | cue  ...  door | dark: the end, terminal
    # reward     0       0            0       0  | +-1         0  | +-1

    A round shows the cue once: its left or its right half is bright, by a fair coin. Some dim
    steps later the lower half is bright, the door; the action chosen there earns +1 on the cue's
    side and -1 on the other. All other actions do nothing. Action 0 is left, 1 is right.

    A policy that remembers earns `rounds`. Any other earns 0 in the mean, for the cue is a fair
    coin of which the door shows nothing.
    """

    is_terminal_at_end = True
    obs_shapes = {"image": (1, IMAGE_SIZE, IMAGE_SIZE)}
    action_space = ActionSpace(2, discrete=True)

    def __init__(self, count: int, seed: int, *, rounds: int, corridor: int):
        self._round_length = corridor + 2
        super().__init__(count, seed, rounds * self._round_length)
        self.optimum, self.random_return = float(rounds), 0.0
        self._cue = np.zeros((count, rounds + 1), int)  # (E, rounds + 1): 0 left, 1 right, 4 dark
        self._pictures = np.zeros((5, 1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        half = IMAGE_SIZE // 2
        self._pictures[0, :, :, :half] = 255  # the light is left
        self._pictures[1, :, :, half:] = 255  # the light is right
        self._pictures[2] = 85  # the corridor
        self._pictures[3, :, half:] = 255  # the door; the last picture stays dark

    def _begin(self, env: int, rng: np.random.Generator) -> None:
        self._cue[env, :-1] = rng.integers(2, size=self._cue.shape[1] - 1)
        self._cue[env, -1] = 4

    def _advance(self, action: np.ndarray) -> np.ndarray:
        cue, phase = self._cue_and_phase()
        at_door = phase == self._round_length - 1
        return np.where(at_door, np.where(action.argmax(1) == cue, 1, -1), 0)

    def _draw(self) -> np.ndarray:
        cue, phase = self._cue_and_phase()
        picture = np.where(phase == self._round_length - 1, 3, 2)
        return self._pictures[np.where(phase == 0, cue, picture)]

    def _cue_and_phase(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (E,) the cue of the present round, and (E,) policy steps since it was shown."""
        present, phase = np.divmod(self._time, self._round_length)
        return self._cue[np.arange(self.count), present], phase


class PointEnvs(DummyEnvs):
    """Bring a point to its target in the plane, sooner rather than later.

    On each of the two axes position p and target g start uniform in [-1, 1], and an action a in
    [-1, 1] pulls the point: p' = (1 - speed) p + speed a. So the point stays in the square, and
    the world is smooth in its actions. The reward is minus the squared distance on arriving,
    summed over the axes; a time limit ends the episode.

    The vector holds position and target, (4,). With pixels it holds the position only, (2,), and
    the picture shows the point white upon its grey target.

    Optimum: pulling fully towards the target until it is in reach makes the gap after t steps as
    small as it can be for every t at once. Write q = (1 - speed) ** t and, for a target above,
    u = 1 - p and v = 1 - g, both uniform in [0, 2]: the gap is max(q u - v, 0), its mean square
    (1/4) integral of (q u)**3 / 3 over u = q**3 / 3, and twice that with targets below.

    Random: uniform actions have variance 1/3, so the position is p q plus noise of variance
    (speed**2 / 3) (1 - q**2) / (1 - (1 - speed)**2), independent of a target of variance 1/3.
    """

    is_terminal_at_end = False
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
        picture = np.zeros((self.count, 1, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        for places, edge, brightness in ((self._target, 16, 128), (self._position, 8, 255)):
            centre = np.rint((IMAGE_SIZE - 16) / 2 * (1 + places * (1, -1))).astype(int) + 8
            for env, (column, row) in enumerate(centre - edge // 2):
                picture[env, 0, row : row + edge, column : column + edge] = brightness
        return picture
