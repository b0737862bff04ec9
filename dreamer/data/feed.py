"""Feeds stored experience of any format to a replay.

A first pass over the data finds shapes, counts and faults; a second one copies. Runs use it for
`data.train` and `data.prefill`. It knows the spaces of a run, no networks and no environments.

Letters: n steps of an episode, its reset included.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from dreamer.data.episodes import BrokenFile, Episode, Observations, Summary, check_actions
from dreamer.data.formats import Pass
from dreamer.data.runs import as_stored, stored_shape
from dreamer.envs.codecs import SpaceCodec
from dreamer.envs.native_codec import NativeCodec
from dreamer.envs.spaces import IMAGE_SIZE, resize_image
from dreamer.replay import stored
from dreamer.replay.storage import Column
from dreamer.types import HIDDEN, ActionSpace, obs_dtype

ObsShapes = Mapping[str, tuple[int, ...]]
Keep = Callable[[str], bool]


def keep_all(name: str) -> bool:
    """Keep every episode, whatever its name."""
    return True


class Header(NamedTuple):
    """What the first pass over the data at an address has found."""

    key: str  # of the configuration that names the address, for messages
    address: str
    summary: Summary
    action_space: ActionSpace | None  # None: the data do not tell
    codec: SpaceCodec | None  # of the environment that the data are from; None as well
    skipped: dict[str, str]  # reason by name of file or episode
    keep: Keep = keep_all  # whether an episode of that name counts; others are held out

    @property
    def lengths(self) -> list[int]:
        """Steps of each episode, the reset included; the oldest first."""
        return [steps + 1 for steps in self.summary.lengths]


def read_header(
    key: str, address: str, space: ActionSpace | None = None, keep: Keep = keep_all
) -> Header:
    """Read all episodes at an address without their observations.

    Args:
        key: Of the configuration, for messages.
        address: Of the data.
        space: Of the run's actions, if it is known before; several choices at once are checked.
        keep: Whether an episode of that name counts.

    Raises:
        ValueError: There is none, `keep` leaves none, or their shapes differ.
        OSError: Nothing is there, or the place cannot be reached.
        ImportError: A package that the address needs is missing.
    """
    walk, summary = Pass.of(address), Summary()
    left_out = 0
    for episode in walk.headers():
        if not keep(episode.name):
            left_out += 1
            continue
        summary.add(episode)
        expected = walk.source.action_space or space
        if expected and expected.choices and expected.size == summary.action_size:
            check_actions(episode, expected)
    if not summary.episodes:
        raise ValueError(
            f"`data.holdout` must leave episodes on both sides, got none of {left_out} on one. Set "
            "another share, or the address of other episodes"
        )
    source = walk.source
    return Header(key, address, summary, source.action_space, source.codec, walk.skipped, keep)


class Fit(NamedTuple):
    """How stored data become the observations of a run; images are resized to 64 x 64."""

    shapes: ObsShapes  # of the run, by its names
    names: Mapping[str, str]  # of the run's observations in the data
    sizes: ObsShapes  # in the data, by the run's names

    @classmethod
    def of(
        cls, header: Header, shapes: ObsShapes, space: ActionSpace, rename: Mapping[str, str]
    ) -> "Fit":
        """Check that the data have the observations and the actions of a run.

        Args:
            header: Of the data.
            shapes: Of the run's observations; the data may have more, which are left out.
            space: Of the run's actions.
            rename: Names of the run's observations by those in the data.

        Raises:
            ValueError: An observation is missing or has another shape, or the actions are of
                another kind or out of range.
        """
        there = _columns(header, rename)
        here = {k: Column(tuple(s), np.dtype(obs_dtype(s)).name) for k, s in shapes.items()}
        missing = {name: x for name, x in here.items() if there.get(name) != x}
        sizes = header.summary.action_size, space.size
        if missing or sizes[0] != sizes[1]:
            others = there.keys() - here.keys() if missing else ()
            shown = [name for name in there | here if name in missing or name in others]
            differences = [
                f"{name} (there {_told(there.get(name))}, here {_told(here.get(name))})"
                for name in shown
            ]
            if sizes[0] != sizes[1]:
                differences.append(f"the action (there {sizes[0]} numbers, here {sizes[1]})")
            raise ValueError(
                f"`{header.key}` must have the observations and actions of this run, got "
                f"{', '.join(differences)} in {header.address}"
                + ". data.rename gives observations other names"
                * bool(others)
            )
        _check_actions(header, space)
        theirs = {ours: name for name, ours in rename.items()}
        names = {name: theirs.get(name, name) for name in shapes}
        columns = header.summary.columns
        return cls(shapes, names, {k: stored_shape(k, columns[x]) for k, x in names.items()})

    def apply(self, episode: Episode) -> Observations:
        """Read the observations of an episode, (n, ...) by the run's names.

        Raises:
            BrokenFile: They cannot be read, or hold what no run can learn from.
        """
        found = episode.read()
        try:
            obs = {
                name: _resized(as_stored(episode.name, name, found[self.names[name]], size), shape)
                for (name, shape), size in zip(
                    self.shapes.items(), self.sizes.values(), strict=True
                )
            }
        except ValueError as error:
            raise BrokenFile(str(error)) from error
        for name, array in obs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise BrokenFile(f"`{name}` must be finite")
        return obs


def spaces_of(header: Header, rename: Mapping[str, str]) -> SpaceCodec:
    """Return the spaces that stored data suggest, for a run without an environment.

    Raises:
        ValueError: An observation is no image, class image or vector, or the actions are numbers
            outside of [-1, 1].
    """
    columns = header.summary.columns
    shapes = {rename.get(k, k): _learned(k, stored_shape(k, x)) for k, x in columns.items()}
    space = header.action_space or header.summary.action_space()
    _check_actions(header, space)
    codec = header.codec
    if codec and codec.obs_shapes == shapes and codec.action_space == space:
        return codec
    return NativeCodec(shapes, space)


def episodes(header: Header, fit: Fit, too_old: int = 0) -> Iterator[stored.Episode]:
    """Read the data a second time, episode by episode, in the form of a replay.

    Those that cannot be read any more are added to `header.skipped`.

    Args:
        header: Of the first pass. Data that were added since are left out.
        fit: Converts the observations.
        too_old: How many of the oldest episodes are left out.
    """
    walk = Pass.of(header.address)
    left = sum(header.lengths[too_old:])
    kept = (episode for episode in walk.headers() if header.keep(episode.name))
    for number, episode in enumerate(kept):
        if number < too_old:
            continue
        left -= episode.steps + 1
        if left < 0:
            break
        try:
            obs = fit.apply(episode)
        except BrokenFile as error:
            header.skipped[episode.name] = str(error)
            continue
        flags = {k: np.asarray(x) for k, x in episode.flags._asdict().items()}
        columns = {f"obs_{name}": array for name, array in obs.items()} | flags
        yield stored.Episode(episode.steps + 1, _pieces(columns, episode.steps + 1))


def _pieces(columns: Mapping[str, np.ndarray], length: int) -> stored.Read:
    def read(names: object = None) -> Iterator[stored.Steps]:
        for start in range(0, length, stored.CHUNK):
            yield {name: x[start : start + stored.CHUNK] for name, x in columns.items()}

    return read


def _learned(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in which a run learns from an observation: agents see images of one size."""
    is_image = len(shape) == 3 and not name.startswith(HIDDEN)
    return (shape[0], IMAGE_SIZE, IMAGE_SIZE) if is_image else shape


def _resized(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize images (n, C, h, w) if their shape differs; other observations have that shape."""
    if images.shape[1:] == tuple(shape):
        return images
    resized = [resize_image(image.transpose(1, 2, 0)) for image in images]
    return np.stack(resized).transpose(0, 3, 1, 2)


def _columns(header: Header, rename: Mapping[str, str]) -> dict[str, Column]:
    """Return what the observations would be in a replay, by the run's names; others as they are."""
    columns = {}
    for name, column in header.summary.columns.items():
        try:
            shape = stored_shape(name, column)
        except ValueError:
            columns[rename.get(name, name)] = column
            continue
        ours = rename.get(name, name)
        columns[ours] = Column(_learned(ours, shape), _stored_dtype(column, shape))
    return columns


def _stored_dtype(column: Column, shape: tuple[int, ...]) -> str:
    """Return the type that an observation has in a replay, or its own if it cannot be there."""
    wanted, found = np.dtype(obs_dtype(shape)), np.dtype(column.dtype)
    return wanted.name if wanted.kind == "f" or found.kind in "biu" else found.name


def _check_actions(header: Header, space: ActionSpace) -> None:
    """Check that the actions are of the kind of a run, and in its range."""
    summary, must = header.summary, f"`{header.key}` must have"
    if header.action_space not in (None, space):
        raise ValueError(
            f"{must} the actions of this run, got there {header.action_space}, here {space} in "
            f"{header.address}"
        )
    low, high = summary.action_range
    if not space.discrete and max(-low, high) > 1:
        raise ValueError(f"{must} actions in [-1, 1], got {low:g} to {high:g} in {header.address}")
    if header.action_space is not None:
        return
    if not space.discrete and summary.one_hot and space.size > 1:
        raise ValueError(
            f"{must} actions that are {space.size} numbers, got choices among {space.size} options "
            f"in {header.address}"
        )
    if space.discrete and not space.choices and not summary.one_hot:
        raise ValueError(
            f"{must} actions that choose one of {space.size} options, got numbers from {low:g} to "
            f"{high:g} in {header.address}"
        )


def _told(column: Column | None) -> str:
    if column is None:
        return "none"
    return f"{' x '.join(map(str, column.shape)) or 'number'} {np.dtype(column.dtype).name}"
