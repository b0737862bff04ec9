"""The index of complete episodes: the first and last step of each.

Only `Replay` uses it. It knows step numbers, not the data of steps. It is never saved: opening a
replay rebuilds it from the flags of the steps.
"""

import sys

import numpy as np


class EpisodeIndex:
    """The complete episodes of E environments, the oldest of each first.

    Appending, dropping the oldest and drawing one are O(1). The order depends only on the held
    episodes, so a rebuilt index draws the same ones.
    """

    def __init__(self, env_count: int):
        self._bounds = np.zeros((env_count, 16, 2), np.int64)  # start, stop (past the last step)
        self._head = np.zeros(env_count, np.int64)
        self._tail = np.zeros(env_count, np.int64)
        self._oldest = sys.maxsize  # start of the oldest episode; maxsize without one
        self.version = 0  # changes whenever an episode is added or dropped

    def __len__(self) -> int:
        """Return the number of episodes."""
        return int((self._tail - self._head).sum())

    @property
    def longest(self) -> int:
        """Steps of the longest episode, its reset included; 0 without one."""
        lengths = [
            np.diff(bounds[head:tail]).max(initial=0)
            for bounds, head, tail in zip(self._bounds, self._head, self._tail, strict=True)
        ]
        return int(max(lengths))

    def clear(self) -> None:
        """Drop all episodes."""
        self._head[:] = self._tail[:] = 0
        self._oldest = sys.maxsize
        self.version += 1

    def append(self, env: int, start: int, stop: int) -> None:
        """Add the newest episode of an environment: steps start ... stop - 1."""
        if self._tail[env] == self._bounds.shape[1]:
            self._grow()
        self._bounds[env, self._tail[env]] = start, stop
        self._tail[env] += 1
        self._oldest = min(self._oldest, start)
        self.version += 1

    def drop_before(self, step: int) -> None:
        """Drop the episodes that begin before this step: their start is overwritten."""
        while self._oldest < step:
            starts = [
                int(bounds[head, 0]) if head < tail else sys.maxsize
                for bounds, head, tail in zip(self._bounds, self._head, self._tail, strict=True)
            ]
            self._head += np.array(starts) < step
            self._oldest = min(starts)
            self.version += 1

    def draw(self, generator: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
        """Draw episodes uniformly with replacement: environment, start and stop, each (count,)."""
        ends = np.cumsum(self._tail - self._head)
        number = generator.integers(ends[-1], size=count)
        env = np.searchsorted(ends, number, side="right")
        start, stop = self._bounds[env, self._tail[env] - (ends[env] - number)].T
        return env, start, stop

    def to_array(self) -> np.ndarray:
        """Return all episodes (n, 3): environment, start and stop, the oldest of each first."""
        counts = self._tail - self._head
        env = np.repeat(np.arange(len(counts)), counts)
        bounds = [
            bounds[head:tail]
            for bounds, head, tail in zip(self._bounds, self._head, self._tail, strict=True)
        ]
        return np.column_stack([env, np.concatenate(bounds)])

    def _grow(self) -> None:
        """Move all episodes to the front, and double the array unless half of it is free."""
        counts = self._tail - self._head
        env_count, size, _ = self._bounds.shape
        moved = np.zeros((env_count, size if 2 * counts.max() <= size else 2 * size, 2), np.int64)
        for env, count in enumerate(counts):
            moved[env, :count] = self._bounds[env, self._head[env] : self._tail[env]]
        self._bounds, self._head, self._tail = moved, np.zeros_like(counts), counts
