"""Episodes of experience that is stored already, read piece by piece, and copied into a replay.

`dreamer.run` fills the replay of a new run with it. It knows where steps are stored, but no
networks and no environments. Another kind of file needs another function that returns `Episode`s.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from dreamer.replay.buffer import Replay
from dreamer.replay.storage import Column, Stored, peek
from dreamer.types import TimeStep

CHUNK = 2**8  # steps read at once, to limit memory

Steps = Mapping[str, np.ndarray]  # (n, ...) by the column names of a replay


class Read(Protocol):
    """Reads an episode."""

    def __call__(self, names: Collection[str] | None = None) -> Iterator[Steps]:
        """Yield consecutive pieces; fewer steps if they are lost meanwhile.

        Args:
            names: Of the columns to read; None: all.
        """
        ...


class Episode(NamedTuple):
    """An episode on disk."""

    length: int  # its steps, the reset included
    read: Read


class StoredEpisodes(NamedTuple):
    """The experience in a directory."""

    episodes: list[Episode]  # the oldest first
    columns: dict[str, Column]  # of one step
    headless: int  # steps whose episode has lost its start, and which are left out


class Copied(NamedTuple):
    """What a copy has added to a replay."""

    episodes: int
    policy_steps: int
    lost_steps: int  # of these episodes: the ends that were cut, or what was overwritten


def read_replay(directory: Path) -> StoredEpisodes | None:
    """Find the episodes of a replay on disk, which is only read; None without any step.

    A run may be using the replay. Its newest episodes may be unfinished; they end with the newest
    step, as if cut short. Steps before the first reset of an environment are left out.

    Raises:
        ValueError: The directory holds other files than those of a replay.
    """
    stored = peek(directory)
    if stored is None or stored.steps == stored.oldest:
        return None
    if not {"is_first", "is_last", "is_terminal", "reward", "prev_action"} <= stored.columns.keys():
        raise ValueError(f"{directory} must hold the columns of a replay, got others.")
    bounds, headless = _bounds(stored)
    episodes = [
        Episode(stop - start, reader(stored, env, start, stop)) for start, env, stop in bounds
    ]
    columns = {
        name: Column(array.shape[2:], str(array.dtype)) for name, array in stored.columns.items()
    }
    return StoredEpisodes(episodes, columns, headless)


def count_too_old(lengths: Sequence[int], capacity: int) -> int:
    """Return how many of the oldest episodes to leave out, so that the others fit.

    Args:
        lengths: Steps of each episode, the reset included; the oldest first.
        capacity: Steps of all environments together.
    """
    steps, first = 0, len(lengths)
    while first and steps + lengths[first - 1] <= capacity:
        first -= 1
        steps += lengths[first]
    return first


def copy_episodes(
    episodes: Iterable[Episode],
    replay: Replay,
    *,
    env_count: int,
    check: Callable[[], None] = lambda: None,
) -> Copied:
    """Append episodes to a replay, in their order, spread over its environments.

    All environments of a replay step together. So an environment whose episode ends continues with
    the next one, and once none is left, the copy ends: the unfinished episodes of the other
    environments are cut there. They end with a last step that is not terminal. With one environment
    nothing is cut.

    Args:
        episodes: The oldest first.
        replay: Extended; no episode in it may be open.
        env_count: E, environments of the replay.
        check: Called after every piece; may raise to stop the copy.

    Returns:
        What was copied.
    """
    planned, copied, started = 0, 0, 0

    def counted() -> Iterator[Episode]:
        nonlocal planned
        for episode in episodes:
            planned += episode.length
            yield episode

    waiting = counted()
    sources = [_Source(waiting) for _ in range(env_count)]
    while all(source.fill() for source in sources):
        count = min(source.left for source in sources)
        pieces = [source.take(count) for source in sources]
        block = {name: np.stack([p[name] for p in pieces], 1) for name in pieces[0]}  # (n, E, ...)
        started += int(block["is_first"].sum())
        copied += count * env_count
        for step, prev_action in _time_steps(block):
            replay.add(step, prev_action)
        check()
    replay.close_episodes()
    return Copied(started, copied - started, planned - copied)


class _Source:
    """The steps of one environment: episodes that it takes one by one from a common stream."""

    def __init__(self, episodes: Iterator[Episode]):
        self._episodes = episodes
        self._pieces: Iterator[Steps] = iter(())
        self._piece: Steps = {}
        self.left = 0  # steps that can be taken

    def fill(self) -> bool:
        """Read the next piece if none is left; return whether there is one."""
        while not self.left:
            piece = next(self._pieces, None)
            if piece is None:
                episode = next(self._episodes, None)
                if episode is None:
                    return False
                self._pieces = episode.read()
                continue
            self._piece, self.left = piece, len(piece["is_first"])
        return True

    def take(self, count: int) -> Steps:
        """Return the next steps, (count, ...)."""
        start = len(self._piece["is_first"]) - self.left
        self.left -= count
        return {name: column[start : start + count] for name, column in self._piece.items()}


def _bounds(stored: Stored) -> tuple[list[tuple[int, int, int]], int]:
    """Return first step, environment and end of all episodes, by first step; and lost steps."""
    is_first = stored.columns["is_first"]
    slot = np.arange(stored.oldest, stored.steps) % is_first.shape[1]
    rings, headless = [], 0
    for env, column in enumerate(is_first):
        starts = (stored.oldest + np.flatnonzero(column[slot])).tolist()
        headless += (starts[0] if starts else stored.steps) - stored.oldest
        stops = [*starts[1:], stored.steps]
        rings.append([(a, env, b) for a, b in zip(starts, stops, strict=True)])
    return list(heapq.merge(*rings)), headless


def reader(stored: Stored, env: int, start: int, stop: int) -> Read:
    """Return the function that reads the steps start ... stop - 1 of one environment."""

    def read(names: Collection[str] | None = None) -> Iterator[Steps]:
        columns = {n: c for n, c in stored.columns.items() if names is None or n in names}
        slots = stored.columns["is_first"].shape[1]
        for first in range(start, stop, CHUNK):
            steps = np.arange(first, min(first + CHUNK, stop))
            piece = {name: column[env, steps % slots] for name, column in columns.items()}
            # A run that uses the replay may have overwritten them, or have rolled back.
            if not stored.still_holds(first, int(steps[-1]) + 1):
                return
            yield piece

    return read


def _time_steps(block: Steps) -> Iterator[tuple[TimeStep, np.ndarray]]:
    """Yield the steps of E environments, with the actions that led to them."""
    obs = {k.removeprefix("obs_"): x for k, x in block.items() if k.startswith("obs_")}
    flags = [block[name] for name in ("reward", "is_first", "is_last", "is_terminal")]
    for n, prev_action in enumerate(block["prev_action"]):
        yield (
            TimeStep({key: x[n] for key, x in obs.items()}, *(flag[n] for flag in flags)),
            prev_action,
        )
