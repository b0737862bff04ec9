"""What all dummy worlds share: E copies of one world behind the `VectorEnvs` protocol.

`dreamer/envs/dummy.py` builds them. This file knows no single world.
"""

from abc import ABC, abstractmethod

import numpy as np

from dreamer.envs.rendering import enlarge
from dreamer.types import ActionSpace, TimeStep

IMAGE_SIZE = 64  # pixels, both edges


class DummyEnvs(ABC):
    """E copies of one world with a time limit, behind the `VectorEnvs` protocol.

    A subclass keeps the state of its copies in arrays (E, ...), sets the attributes below, and
    implements the abstract methods. If episodes end for good, it also overrides `_is_terminal`.
    """

    obs_shapes: dict[str, tuple[int, ...]]
    action_space: ActionSpace
    action_repeat = 1
    optimum: float  # mean return of an episode under the best policy
    random_return: float  # mean return under uniformly random actions

    def __init__(self, count: int, seed: int, length: int):
        self.count = count
        self.length = length  # maximum policy steps per episode
        self._rngs = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(count)]
        self._time = np.zeros(count, int)  # (E,) policy steps since the episode's start
        self._is_last = np.ones(count, bool)  # (E,) the next step starts an episode

    @property
    def reference_returns(self) -> dict[str, float]:
        """See `VectorEnvs`."""
        return {"random": self.random_return, "optimum": self.optimum}

    def reset(self) -> TimeStep:
        """See `VectorEnvs`."""
        self._is_last = np.ones(self.count, bool)
        return self.step(np.zeros((self.count, self.action_space.size), np.float32))

    def step(self, action: np.ndarray) -> TimeStep:
        """See `VectorEnvs`."""
        is_first = self._is_last  # (E,)
        reward = np.where(is_first, 0, self._advance(action)).astype(np.float32)
        for env in np.flatnonzero(is_first).tolist():
            self._begin(env, self._rngs[env])
        self._time = np.where(is_first, 0, self._time + 1)
        is_terminal = self._is_terminal() & ~is_first
        self._is_last = is_terminal | (self._time == self.length)
        return TimeStep(self._observe(), reward, is_first, self._is_last, is_terminal)

    def render(self) -> np.ndarray:
        """See `VectorEnvs`."""
        return enlarge(self._draw(), 4)

    def close(self) -> None:  # noqa: B027 (there is nothing to free)
        """See `VectorEnvs`."""

    @abstractmethod
    def _begin(self, env: int, rng: np.random.Generator) -> None:
        """Draw the initial state of one copy."""

    @abstractmethod
    def _advance(self, action: np.ndarray) -> np.ndarray:
        """Apply the actions (E, A) chosen at `_time`; return the rewards (E,)."""

    @abstractmethod
    def _draw(self) -> np.ndarray:
        """Return images (E, 1, 64, 64) uint8 of the current states."""

    def _is_terminal(self) -> np.ndarray:
        """Return (E,) whether each episode ends for good; by default only the limit ends it."""
        return np.zeros(self.count, bool)

    def _observe(self) -> dict[str, np.ndarray]:
        return {"image": self._draw()}
