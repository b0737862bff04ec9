"""Episodes in the one form that every format is read into and written from.

The form is that of the replay: index t holds what is known on arriving at t, and `prev_action[t]`
led there. Images are (C, H, W). Numbers keep the types of the files. It knows no format.

Letters: n steps of an episode, its reset included.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from dreamer.envs.codecs import SpaceCodec
from dreamer.replay.storage import Column
from dreamer.types import ActionSpace

Observations = Mapping[str, np.ndarray]  # (n, ...) by name


class BrokenFile(ValueError):  # noqa: N818 -- the name states the problem
    """A file, or one episode of it, cannot be read or is no episode; the message says why."""


class Flags(NamedTuple):
    """What is known of the steps of an episode besides observations."""

    prev_action: np.ndarray  # (n, A) floats
    reward: np.ndarray  # (n,) floats, 0 where is_first
    is_first: np.ndarray  # (n,) bool, the first step only
    is_last: np.ndarray  # (n,) bool, the last step only
    is_terminal: np.ndarray  # (n,) bool, the last step at most


class Episode(NamedTuple):
    """An episode on disk. Its observations are read when they are needed."""

    name: str  # of the file, and the number within it, for messages
    flags: Flags
    columns: dict[str, Column]  # of one step's observations, by name
    read: Callable[[], Observations]  # raises BrokenFile
    begins_inside: bool = False  # a piece of a longer episode, whose start is elsewhere

    @property
    def steps(self) -> int:
        """Policy steps: without the reset."""
        return len(self.flags.reward) - 1


class Source(Protocol):
    """Stored data of one format."""

    format: str
    action_space: ActionSpace | None  # None: the files do not tell
    codec: SpaceCodec | None  # of the environment that the data are from; None as well

    def episodes(self, skip: Callable[[str, str], None]) -> Iterator[Episode]:
        """Yield all episodes, the oldest first; each can be read until the next is asked for.

        Args:
            skip: Called with the name of each broken or foreign file, and the reason.
        """
        ...


@dataclass
class Summary:
    """What a pass over all episodes finds."""

    episodes: int = 0
    steps: int = 0  # policy steps, without resets
    pieces: int = 0  # episodes that begin inside a longer one
    terminal: int = 0  # episodes that end in a terminal state
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # policy steps
    columns: dict[str, Column] = field(default_factory=dict)
    action_size: int = 0
    one_hot: bool = True  # whether all actions are
    action_range: tuple[float, float] = (np.inf, -np.inf)
    first: str = ""  # name of the first episode

    def add(self, episode: Episode) -> None:
        """Count an episode.

        Raises:
            ValueError: Its observations or actions have other shapes than those before.
        """
        flags = episode.flags
        if not self.episodes:
            self.first, self.columns = episode.name, episode.columns
            self.action_size = flags.prev_action.shape[1]
        self._check_same(episode)
        self.episodes += 1
        self.steps += episode.steps
        self.pieces += episode.begins_inside
        self.terminal += bool(flags.is_terminal[-1])
        self.returns.append(float(flags.reward.sum()))
        self.lengths.append(episode.steps)
        actions = flags.prev_action[1:]
        low, high = self.action_range
        self.action_range = min(low, float(actions.min())), max(high, float(actions.max()))
        self.one_hot &= is_one_hot(actions)

    def action_space(self) -> ActionSpace:
        """Return the space that the actions suggest: choices if all of them are one-hot."""
        return ActionSpace(self.action_size, self.one_hot)

    def _check_same(self, episode: Episode) -> None:
        size = episode.flags.prev_action.shape[1]
        shapes = {name: column.shape for name, column in episode.columns.items()}
        expected = {name: column.shape for name, column in self.columns.items()}
        if (size, shapes) != (self.action_size, expected):
            raise ValueError(
                "All episodes must have the same observations and actions, got "
                f"{_shapes(expected, self.action_size)} in {self.first} and "
                f"{_shapes(shapes, size)} in {episode.name}"
            )


def is_one_hot(actions: np.ndarray) -> bool:
    """Whether all actions (n, A) are one-hot."""
    return bool(((actions == 0) | (actions == 1)).all() and (actions.sum(1) == 1).all())


def check_actions(episode: Episode, space: ActionSpace) -> None:
    """Check that the actions of an episode are within a space of the agent.

    Raises:
        ValueError: They are not.
    """
    actions = episode.flags.prev_action[1:]
    got = f"got {actions.min():g} to {actions.max():g} in {episode.name}"
    if not space.discrete and np.abs(actions).max(initial=0) > 1:
        raise ValueError(f"Actions must be in [-1, 1], {got}")
    if not space.discrete:
        return
    choices = space.choices or (space.size,)
    parts = np.split(actions, np.cumsum(choices)[:-1], axis=1)
    if not all(map(is_one_hot, parts)):
        options = " and of ".join(map(str, choices))
        raise ValueError(f"Actions must choose one of {options} options, {got}")


def split(
    name: str,
    flags: Flags,
    columns: dict[str, Column],
    read: Callable[[], Observations],
    skip: Callable[[str, str], None],
) -> Iterator[Episode]:
    """Split the rows of a file into episodes, and check their flags.

    As in PyDreamer, the first row counts as a reset without a reward, even if the file begins
    inside an episode; its action stays as it is.

    Args:
        name: Of the file.
        flags: Of all its rows; `is_last` is not used.
        columns: Of the observations.
        read: Reads the observations of all rows; called once.
        skip: Called with the name of each episode that is left out, and the reason.
    """
    rows = len(flags.reward)
    starts = np.flatnonzero(flags.is_first).tolist()
    begins_inside = starts[:1] != [0]
    starts = [0] * begins_inside + starts
    cache: list[Observations] = []

    def read_rows(start: int, stop: int) -> Observations:
        if not cache:
            cache.append(read())
        return {key: array[start:stop] for key, array in cache[0].items()}

    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], rows], strict=True)):
        part = Flags(*(array[start:stop] for array in flags))
        title = name if len(starts) == 1 else f"{name}, episode {number}"
        if stop - start < 2:
            skip(title, "it has no steps after its reset")
        elif part.is_terminal[:-1].any():
            skip(title, "its steps continue after a terminal one")
        else:
            count = np.arange(stop - start)
            part = part._replace(
                reward=np.where(count == 0, 0, part.reward).astype(part.reward.dtype),
                is_first=count == 0,
                is_last=count == stop - start - 1,
            )
            yield Episode(
                title,
                part,
                columns,
                lambda start=start, stop=stop: read_rows(start, stop),
                begins_inside and number == 0,
            )


def _shapes(shapes: Mapping[str, tuple[int, ...]], action_size: int) -> str:
    words = [f"{name} {'x'.join(map(str, shape)) or 'number'}" for name, shape in shapes.items()]
    return ", ".join([*words, f"{action_size} actions"])
