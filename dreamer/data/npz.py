"""Episode files: the authors' npz and PyDreamer's npz, read and written.

A file is read when its turn comes: first its small arrays and the headers of the others, its
observations only on demand. Nothing is unpickled. It knows arrays, no networks.

Sources: `save_episodes` in common/replay.py of https://github.com/danijar/dreamerv2; `data.py` and
`generator.py` of https://github.com/jurgisp/pydreamer.
"""

import io
import struct
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import numpy as np

from dreamer.data.address import Place, Unreachable, list_files, one_line
from dreamer.data.episodes import BrokenFile, Episode, Flags, Observations, split
from dreamer.envs.codecs import SpaceCodec
from dreamer.replay.storage import Column
from dreamer.types import HIDDEN, ActionSpace

# Arrays besides the observations, by format; the first ones tell the formats apart.
FLAGS = {
    "dreamerv2": ("is_first", "is_last", "is_terminal", "reward", "action"),
    "pydreamer": ("reset", "terminal", "reward", "action"),
}
STATISTICS = ("policy_value", "policy_entropy", "action_prob")  # PyDreamer's, NaN if random
OBSERVED = ("image", "vecobs")  # what PyDreamer's agents see; other arrays are for probes
BROKEN = (
    *(OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error, OverflowError, SyntaxError),
)


class NpzSource:
    """The episode files in a folder and in those below; all of one format, that of the first."""

    action_space: ActionSpace | None = None
    codec: SpaceCodec | None = None

    def __init__(self, place: Place, paths: list[str] | None = None):
        """List the files; `paths` are those to read instead of all.

        Raises:
            OSError: The place does not exist or cannot be reached.
        """
        self.format = ""
        self._place = place
        self._paths = list_files(place) if paths is None else paths

    def episodes(self, skip: Callable[[str, str], None]) -> Iterator[Episode]:
        """See `Source`."""
        for path in self._paths:
            name = path[len(self._place.path) :].strip("/") or path.rsplit("/", 1)[-1]
            try:
                if not path.endswith(".npz"):
                    raise BrokenFile("it is no npz file")
                with self._place.open(path) as file, zipfile.ZipFile(file) as archive:
                    yield from self._read(name, _Arrays(archive), skip)
            except Unreachable:
                raise
            except BROKEN as error:
                skip(name, one_line(error))

    def _read(
        self, name: str, arrays: "_Arrays", skip: Callable[[str, str], None]
    ) -> Iterator[Episode]:
        """Yield the episodes of one file."""
        format_ = _format_of(arrays.columns.keys())
        if self.format and format_ != self.format:
            raise BrokenFile(f"it is a file of {format_}, the others are of {self.format}")
        flags = _read_flags(arrays, format_)
        rows = len(flags.reward)
        described = {}  # by the array's name: the observation's name, and its column
        for key, (shape, dtype) in arrays.columns.items():
            is_numeric = np.dtype(dtype).kind in "biuf"
            if key in (*FLAGS[format_], *STATISTICS) or not is_numeric:
                continue
            time_last = format_ == "pydreamer" and key == "image_t"
            if not shape or shape[-1 if time_last else 0] != rows:
                raise BrokenFile(f"`{key}` must have {rows} rows, got shape {shape}")
            observation = _observation(key, format_)
            if observation in (x for x, _ in described.values()):
                raise BrokenFile(f"it must have `{observation}` once, got it twice")
            one = shape[:-1] if time_last else shape[1:]
            described[key] = (
                observation,
                Column((*one[-1:], *one[:-1]) if len(one) == 3 else one, dtype),
            )
        if not described:
            raise BrokenFile("it has no observations")
        self.format = format_

        def read() -> Observations:
            try:
                return {
                    observation: _channels_first(arrays.read(key), time_last=key == "image_t")
                    for key, (observation, _) in described.items()
                }
            except BROKEN as error:
                raise BrokenFile(one_line(error)) from error

        yield from split(name, flags, dict(described.values()), read, skip)


class _Arrays:
    """The arrays of an npz file; only their headers are read before they are asked for."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        self.columns: dict[str, Column] = {}  # whole shapes, by name
        for member in archive.namelist():
            if member.endswith(".npy"):
                self.columns[member.removesuffix(".npy")] = self._header(member)

    def read(self, name: str) -> np.ndarray:
        """Return one array."""
        with self._archive.open(f"{name}.npy") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)  # pyright: ignore
            file.read()  # checks the checksum of what remains
        return array

    def _header(self, member: str) -> Column:
        with self._archive.open(member) as file:
            version = np.lib.format.read_magic(file)  # pyright: ignore
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            if version not in readers:
                raise BrokenFile(f"`{member}` must have a header of version 1 or 2, got {version}")
            shape, _, dtype = readers[version](file)
        if dtype.hasobject:
            raise BrokenFile(f"`{member}` must hold numbers, got Python objects")
        return Column(shape, dtype.str)


def _format_of(names: Any) -> str:
    for format_, needed in FLAGS.items():
        if set(needed) <= set(names):
            return format_
    wanted = " or ".join(f"{', '.join(needed)} ({name})" for name, needed in FLAGS.items())
    raise BrokenFile(f"it must have the arrays {wanted}, got {', '.join(sorted(names)) or 'none'}")


def _observation(key: str, format_: str) -> str:
    """Return the name of an observation here."""
    if format_ == "dreamerv2":
        return key
    key = "image" if key == "image_t" else key
    return key if key in OBSERVED else HIDDEN + key


def _read_flags(arrays: _Arrays, format_: str) -> Flags:
    """Read the small arrays, and check their shapes and numbers."""
    found = {key: arrays.read(key) for key in FLAGS[format_]}
    rows = len(found["reward"]) if found["reward"].ndim else 0
    for key, array in found.items():
        dims = 2 if key == "action" else 1
        if array.ndim != dims or len(array) != rows or not rows or not array.size:
            raise BrokenFile(f"`{key}` must have {dims} axes and {rows} rows, got {array.shape}")
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise BrokenFile(f"`{key}` must hold finite numbers, got {array.dtype}")
    is_first, is_terminal = (found[key].astype(bool) for key in _first_and_terminal(format_))
    is_last = found.get("is_last", np.zeros(rows, bool)).astype(bool)
    continues = is_last[:-1] & ~is_first[1:]
    if continues.any():
        raise BrokenFile(f"row {continues.argmax()} is the last of an episode, but steps follow")
    action, reward = (_as_float(found[key]) for key in ("action", "reward"))
    return Flags(action, reward, is_first, is_last, is_terminal)


def _first_and_terminal(format_: str) -> tuple[str, str]:
    return ("is_first", "is_terminal") if format_ == "dreamerv2" else ("reset", "terminal")


def _as_float(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def _channels_first(array: np.ndarray, *, time_last: bool) -> np.ndarray:
    """(n, H, W, C) or, with time last, (H, W, C, n) -> (n, C, H, W); other arrays stay."""
    array = np.moveaxis(array, -1, 0) if time_last else array
    return np.moveaxis(array, -1, 1) if array.ndim == 4 else array


def _channels_last(array: np.ndarray) -> np.ndarray:
    """(n, C, H, W) -> (n, H, W, C); other arrays stay."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1) if array.ndim == 4 else array)


class DreamerV2Writer:
    """Writes the authors' files: one per episode, whose names sort in the order of writing."""

    def __init__(self, place: Place):
        """Start without files."""
        self._place = place
        self._time = datetime.now().strftime("%Y%m%dT%H%M%S")
        self._files = 0

    def add(self, episode: Episode, observations: Observations) -> None:
        """Write an episode."""
        content = pack_dreamerv2(episode.flags, observations)
        identifier = f"{self._files:08x}{uuid.uuid4().hex[8:]}"
        self._place.write(f"{self._time}-{identifier}-{episode.steps}.npz", content)
        self._files += 1

    def close(self) -> None:
        """Do nothing: every file is complete."""


def pack_dreamerv2(flags: Flags, observations: Observations) -> bytes:
    """Return the content of the authors' file of an episode."""
    arrays = {key: _channels_last(array) for key, array in observations.items()}
    arrays |= {
        "reward": flags.reward.astype(np.float32),
        "is_first": flags.is_first,
        "is_last": flags.is_last,
        "is_terminal": flags.is_terminal,
        "action": flags.prev_action.astype(np.float32),
    }
    return _pack(arrays)


class PyDreamerWriter:
    """Writes PyDreamer's files, which gather short episodes and cut long ones."""

    def __init__(self, place: Place, steps_per_file: int):
        """Start without files."""
        self._place, self._steps_per_file = place, steps_per_file
        self._waiting: list[dict[str, np.ndarray]] = []
        self._steps = 0  # of those that wait
        self._episodes = 0  # written before those

    def add(self, episode: Episode, observations: Observations) -> None:
        """Take an episode, and write a file once there are enough steps."""
        flags = episode.flags
        rows = len(flags.reward)
        arrays = {
            "action": flags.prev_action.astype(np.float64),
            "reward": flags.reward.astype(np.float64),
            "terminal": flags.is_terminal,
            "reset": flags.is_first,
        }
        arrays |= {name: np.full(rows, np.nan) for name in STATISTICS}
        arrays |= {k.removeprefix(HIDDEN): _channels_last(x) for k, x in observations.items()}
        self._waiting.append(arrays)
        self._steps += episode.steps
        if self._steps >= self._steps_per_file:
            self._write()

    def close(self) -> None:
        """Write what is left."""
        if self._waiting:
            self._write()

    def _write(self) -> None:
        arrays = {k: np.concatenate([x[k] for x in self._waiting]) for k in self._waiting[0]}
        last = self._episodes + len(self._waiting) - 1
        rows, pieces = len(arrays["reward"]), max(1, self._steps // self._steps_per_file)
        for number, kept in enumerate(np.array_split(np.arange(rows), pieces)):
            piece = {key: array[kept] for key, array in arrays.items()}
            reward, steps = piece["reward"].sum(), len(kept) - int(piece["reset"].sum())
            if piece.get("image", np.empty(0)).ndim == 4:
                piece["image_t"] = np.moveaxis(piece.pop("image"), 0, -1)  # (H, W, C, n)
            name = f"ep{self._episodes:06}_{last:06}-{number}-r{reward:.0f}-{steps:04}.npz"
            self._place.write(name, _pack(piece))
        self._episodes, self._waiting, self._steps = last + 1, [], 0


def _pack(arrays: dict[str, np.ndarray]) -> bytes:
    with io.BytesIO() as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
        return file.getvalue()
