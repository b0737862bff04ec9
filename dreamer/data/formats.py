"""Opens, summarizes, checks and converts stored experience of any format.

`python -m dreamer.data` uses it. It knows the formats, no networks and no run.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dreamer.data import address, minari, npz, runs
from dreamer.data.episodes import (
    BrokenFile,
    Episode,
    Observations,
    Source,
    Summary,
    check_actions,
)
from dreamer.data.settings import DataSettings
from dreamer.types import ActionSpace


class Writer(Protocol):
    """Writes episodes in one format."""

    def add(self, episode: Episode, observations: Observations) -> None:
        """Write an episode, or keep it until there are enough for a file."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


@dataclass
class Pass:
    """One pass over a source, which counts what it skips."""

    source: Source
    address: str
    skipped: dict[str, str] = field(default_factory=dict)  # reason by name of file or episode

    @classmethod
    def of(cls, where: str) -> "Pass":
        """Begin a pass over what is at an address. `open_data` says what it raises."""
        return cls(open_data(where), where)

    def headers(self) -> Iterator[Episode]:
        """Yield all episodes, whose observations need not be read.

        Raises:
            ValueError: There is none.
        """
        found = False
        for episode in self.source.episodes(self._skip):
            found = True
            yield episode
        if not found:
            raise self._nothing_left()

    def whole(self) -> Iterator[tuple[Episode, Observations]]:
        """Yield all episodes with their observations, one at a time.

        Raises:
            ValueError: There is none.
        """
        found = False
        for episode in self.source.episodes(self._skip):
            try:
                observations = episode.read()
            except BrokenFile as error:
                self._skip(episode.name, str(error))
                continue
            found = True
            yield episode, observations
        if not found:
            raise self._nothing_left()

    def _skip(self, name: str, reason: str) -> None:
        self.skipped[name] = reason

    def _nothing_left(self) -> ValueError:
        reasons = [f"{name}: {reason}" for name, reason in self.skipped.items()]
        text = f"{len(reasons)} skipped, the first is {reasons[0]}" if reasons else "no files"
        return ValueError(f"{self.address} must hold episodes, got {text}")


def open_data(where: str) -> Source:
    """Find out what is stored at an address.

    Raises:
        FileNotFoundError: Nothing is there.
        OSError: The place cannot be reached.
        ValueError: This is no address.
        ImportError: A package that the address needs is missing.
    """
    place = address.find(where)
    if minari.is_minari(place):
        return minari.MinariSource(place)
    if runs.is_run(place):
        return runs.RunSource(place)
    return npz.NpzSource(place)


def summarize(where: str) -> tuple[Summary, Pass]:
    """Count the episodes at an address, without their observations.

    Raises:
        ValueError: There is none, or their shapes differ.
        OSError: The place cannot be reached.
    """
    walk = Pass.of(where)
    summary = Summary()
    for episode in walk.headers():
        summary.add(episode)
    return summary, walk


def verify(where: str) -> tuple[Summary, Pass]:
    """Read everything at an address; what is damaged or unusable is among the skipped.

    Raises:
        ValueError: There is no episode, or their shapes differ.
        OSError: The place cannot be reached.
    """
    walk = Pass.of(where)
    summary = Summary()
    for episode, observations in walk.whole():
        summary.add(episode)
        try:
            check_actions(episode, walk.source.action_space or summary.action_space())
        except ValueError as error:
            walk.skipped[episode.name] = str(error)
        for name, array in observations.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                walk.skipped[episode.name] = f"`{name}` must be finite"
    return summary, walk


def convert(where: str, settings: DataSettings) -> tuple[Summary, Pass]:
    """Copy the episodes at an address to another one, in the format of the settings.

    Two passes: the first finds the shapes and the kind of actions, the second copies.

    Raises:
        ValueError: There is no episode, their shapes differ, the format cannot hold them, or the
            target holds files.
        OSError: A place cannot be reached.
        ImportError: A package that the format needs is missing.
    """
    if settings.to is None:
        raise ValueError("`to` is missing: it must be the address to write to")
    target = address.find(settings.to)
    address.check_unused(target)
    summary, walk = summarize(where)
    space = walk.source.action_space or summary.action_space()
    copied = Summary()
    with contextlib.ExitStack() as stack:
        writer = _writer(target, summary, space, settings, stack)
        for episode, observations in walk.whole():
            copied.add(episode)
            writer.add(episode, observations)
        writer.close()
    return copied, walk


def _writer(
    target: address.Place,
    summary: Summary,
    space: ActionSpace,
    settings: DataSettings,
    stack: contextlib.ExitStack,
) -> Writer:
    """Make the writer of a format; what is left to do at the end goes to the stack."""
    if settings.format == "dreamerv2":
        return npz.DreamerV2Writer(target)
    if settings.format == "pydreamer":
        return npz.PyDreamerWriter(target, settings.steps_per_file)
    low, high = summary.action_range
    if not space.discrete and max(-low, high) > 1:
        raise ValueError(
            f"Actions must be in [-1, 1] for format={settings.format}, got {low:g} to {high:g}. "
            "`verify` names the episodes."
        )
    folder = stack.enter_context(address.to_write(target))
    if settings.format == "run":
        return runs.RunWriter(folder, summary, space)
    name = target.path.rstrip("/").rsplit("/", 1)[-1]
    return minari.MinariWriter(folder, name, summary, space, settings.minari_format)
