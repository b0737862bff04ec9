"""The episodes of a run at an address: written one by one, and found again on another machine.

The files are the authors'. Their names tell which run and which steps of it they hold. The callback
`Store` writes them, `dreamer.run` fills a replay from them. It knows a replay on disk, no run.
"""

import bisect
import re
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dreamer.data.address import Place, list_files, one_line
from dreamer.data.episodes import BrokenFile, Flags
from dreamer.data.npz import NpzSource, pack_dreamerv2
from dreamer.replay.storage import Stored, peek
from dreamer.replay.stored import Episode, Read, Steps, reader

OBSERVED = "obs_"  # how the names of a replay's columns of observations begin
TIME = "%Y%m%dT%H%M%S"
NAME = re.compile(r"(\d{8}T\d{6})-([0-9a-f]{8})([0-9a-f]{8})([0-9a-f]{16})-(\d+)\.npz")


class Name(NamedTuple):
    """What the name of a file tells; like the authors' it has a time, an identifier, a length."""

    time: str  # when the episode ended
    run: str  # 8 hexadecimal digits
    env: int
    start: int  # number of its first step in the environment, in the whole run
    policy_steps: int  # without the reset

    @property
    def stop(self) -> int:
        """Number of the step after its last."""
        return self.start + self.policy_steps + 1

    @property
    def key(self) -> tuple[int, int, int]:
        """What identifies an episode of a run."""
        return self.env, self.start, self.policy_steps

    def __str__(self) -> str:
        return f"{self.time}-{self.run}{self.env:08x}{self.start:016x}-{self.policy_steps}.npz"


def name_of(run: str, env: int, start: int, stop: int) -> Name:
    """Name an episode that ends now."""
    return Name(datetime.now().strftime(TIME), run, env, start, stop - start - 1)


def parse(path: str) -> Name | None:
    """Read the name of a file; None if it is not of a store."""
    match = NAME.fullmatch(path.rsplit("/", 1)[-1])
    if match is None:
        return None
    time, run, env, start, policy_steps = match.groups()
    return Name(time, run, int(env, 16), int(start, 16), int(policy_steps))


def list_names(place: Place, run: str) -> dict[Name, str]:
    """Return the paths of a run's files, by name; empty if nothing is there.

    Raises:
        Unreachable: The place cannot be read.
    """
    try:
        paths = list_files(place)
    except FileNotFoundError:
        return {}
    named = {parse(path): path for path in paths}
    return {name: path for name, path in named.items() if name is not None and name.run == run}


class EpisodeWriter:
    """Writes episodes of a replay that a run uses meanwhile."""

    def __init__(self, place: Place, directory: Path):
        """Write the replay in `directory` to a place, once it is asked for."""
        self._place, self._directory = place, directory
        self._stored: Stored | None = None

    def write(self, name: Name, start: int) -> bool:
        """Write an episode whose first step is `start` in the replay.

        Returns:
            False if the replay has overwritten it.

        Raises:
            Unreachable: The place cannot be written.
            OSError: The disk is full or damaged.
        """
        if self._stored is None:
            self._stored = peek(self._directory)
        rows = name.policy_steps + 1
        if self._stored is None:
            return False
        pieces = list(reader(self._stored, name.env, start, start + rows)())
        if sum(len(piece["reward"]) for piece in pieces) < rows:
            return False
        columns = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
        flags = Flags(*(columns[key] for key in Flags._fields))
        flags = flags._replace(is_last=np.arange(rows) == rows - 1)  # it may be cut
        observations = {
            key.removeprefix(OBSERVED): column
            for key, column in columns.items()
            if key.startswith(OBSERVED)
        }
        self._place.write(str(name), pack_dreamerv2(flags, observations))
        return True


class FoundEpisodes(NamedTuple):
    """Episodes of a run at an address."""

    episodes: list[Episode]  # the oldest first
    broken: dict[str, str]  # reasons by name, of those that could not be read; filled by reading


def find_episodes(place: Place, run: str, limit: int) -> FoundEpisodes:
    """Find the episodes of a run up to one of its checkpoints.

    Runs that go on from a checkpoint repeat the steps after it. Then the newer episodes count.

    Args:
        place: Of the run's files.
        run: Its name in them.
        limit: Steps per environment at the checkpoint. An episode that goes on then is cut.

    Raises:
        Unreachable: The place cannot be read.
    """
    paths = list_names(place, run)
    kept: dict[int, list[Name]] = {}  # by environment, in the order of their steps
    for name in sorted(paths, key=lambda name: (name.time, name.start), reverse=True):
        others = kept.setdefault(name.env, [])
        where = bisect.bisect(others, name.start, key=lambda other: other.start)
        free = all(
            name.start >= other.stop or other.start >= name.stop
            for other in others[max(where - 1, 0) : where + 1]
        )
        if free and name.start < limit - 1:
            others.insert(where, name)
    names = sorted((x for names in kept.values() for x in names), key=lambda x: (x.start, x.env))
    broken: dict[str, str] = {}
    episodes = [
        Episode(rows, _reader(place, paths[name], rows, broken))
        for name in names
        for rows in [min(name.stop, limit) - name.start]
    ]
    return FoundEpisodes(episodes, broken)


def _reader(place: Place, path: str, rows: int, broken: dict[str, str]) -> Read:
    def read(names: Collection[str] | None = None) -> Iterator[Steps]:
        source = NpzSource(place, [path])
        for episode in source.episodes(broken.__setitem__):
            try:
                observations = episode.read()
            except BrokenFile as error:
                broken[episode.name] = one_line(error)
                return
            columns = {OBSERVED + key: array[:rows] for key, array in observations.items()}
            columns |= {key: array[:rows] for key, array in episode.flags._asdict().items()}
            yield {key: x for key, x in columns.items() if names is None or key in names}
            return

    return read
