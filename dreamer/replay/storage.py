"""The replay's files: one memory-mapped ring per column, and a journal of committed steps.

Only `Replay` uses them. They know rows and bytes, not episodes. Nothing is pickled. Pages are not
touched before they are written, so that disk and memory grow with the stored steps.

Letters: L slots of one ring, one more than its capacity.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from dreamer.files import write_text

LAYOUT, JOURNAL = "layout.json", "journal"
DRAFTS = (".layout.json", "layout.draft")  # the latter of earlier versions


class Column(NamedTuple):
    """A stored array: its shape for one step, and its NumPy dtype."""

    shape: tuple[int, ...]
    dtype: str


class RingFiles:
    """E ring buffers of steps, one file per column, in one directory.

    All environments step together, so they share one cursor. Step n, counted from the first ever
    written, is in slot n modulo L. The spare slot makes commits safe: a step being written never
    overwrites one that is held. The journal is two numbers, (steps, floor):

        oldest = max(floor, steps - capacity)        steps oldest ... steps - 1 are held

    A step is written before the journal, so a process killed at any moment loses no committed step.
    A power failure may lose steps: the operating system writes pages later.
    """

    def __init__(
        self, directory: Path, columns: dict[str, Column], *, env_count: int, capacity: int
    ):
        """Open the files in `directory`, or create them.

        Args:
            directory: for the replay only; created if missing.
            columns: by name, also that of the file.
            env_count: E, rings per column.
            capacity: steps held per environment.

        Raises:
            OSError: the disk has too little space for the full rings.
            ValueError: the directory holds a replay with another layout, or a damaged one.
        """
        self.directory = directory
        self.env_count, self.capacity, self.slots = env_count, capacity, capacity + 1
        self.size_bytes = size_on_disk(columns, env_count=env_count, capacity=capacity)
        layout = {
            "env_count": env_count,
            "capacity": capacity,
            "columns": {name: [column.dtype, *column.shape] for name, column in columns.items()},
        }
        stored = {
            name: Column((env_count, self.slots, *column.shape), column.dtype)
            for name, column in columns.items()
        } | {JOURNAL: Column((2,), "int64")}

        _check_free_space(directory, self.size_bytes)
        directory.mkdir(parents=True, exist_ok=True)
        names = {_path(directory, name).name for name in stored}
        if names >= _files(directory) and _is_unwritten(directory):
            for name, array in stored.items():
                with open(_path(directory, name), "ab") as file:
                    file.truncate(_count_bytes(array))
            write_text(directory / LAYOUT, json.dumps(layout, indent=2))  # last
        _check_layout(directory, layout)
        self.columns = {name: _map(_path(directory, name), array) for name, array in stored.items()}
        self._journal = self.columns.pop(JOURNAL)
        if self._journal.min() < 0:
            raise ValueError(
                f"The replay in {directory} is damaged: its journal is negative. "
                "Restore it, or choose another run_dir=."
            )
        self._journal[1] = min(self._journal)  # a roll-back to nothing was interrupted
        self._rows = {name: torch.from_numpy(c).flatten(0, 1) for name, c in self.columns.items()}
        self._pin = torch.cuda.is_available()

    @property
    def steps(self) -> int:
        """Number of steps per environment ever committed; also the number of the next."""
        return int(self._journal[0])

    @property
    def oldest(self) -> int:
        """The number of the oldest step held."""
        return max(int(self._journal[1]), int(self._journal[0]) - self.capacity)

    def commit(self) -> None:
        """Commit the step in the next slot, after all its columns are written."""
        self._journal[0] += 1

    def roll_back(self, steps: int, floor: int) -> None:
        """Remove the steps from number `steps` on, and those before number `floor`."""
        if floor >= steps:  # nothing is left: start again
            self._journal[0] = 0
            self._journal[1] = 0
        else:  # in this order, no overwritten step is ever held
            self._journal[1] = floor
            self._journal[0] = steps

    def gather(self, name: str, env: np.ndarray, step: np.ndarray) -> Tensor:
        """Copy steps of a column: env (B,), step (T, B) -> (T, B, ...), pinned for CUDA."""
        rows = env * self.slots + step % self.slots
        column = self._rows[name]
        out = torch.empty(
            (*rows.shape, *column.shape[1:]), dtype=column.dtype, pin_memory=self._pin
        )
        # One thread: several would wait for each other while other work uses the cores.
        np.take(column.numpy(), rows, axis=0, out=out.numpy(), mode="clip")  # clip: no buffer
        return out


class Stored(NamedTuple):
    """The contents of a directory, read-only."""

    steps: int  # per environment, ever committed, when it was read
    oldest: int  # number of the oldest step held then
    columns: dict[str, np.ndarray]  # (E, L, ...) each; they change if a run uses the directory
    journal: np.ndarray  # (2,) steps and floor, as they are now

    def still_holds(self, start: int, stop: int) -> bool:
        """Whether the steps start ... stop - 1 are held now: none of them was overwritten."""
        slots = next(iter(self.columns.values())).shape[1]
        return _oldest(self.journal, slots - 1) <= start and stop <= self.journal[0]


def peek(directory: Path) -> Stored | None:
    """Read a directory without changing it; None if nothing was ever stored.

    Raises:
        ValueError: it holds other files than those of a replay.
    """
    if not directory.exists() or _is_unwritten(directory):
        return None
    try:
        layout = json.loads((directory / LAYOUT).read_text())
        shape = layout["env_count"], layout["capacity"] + 1
        stored = {
            name: Column((*shape, *column[1:]), column[0])
            for name, column in layout["columns"].items()
        } | {JOURNAL: Column((2,), "int64")}
        known = {_path(directory, name).name for name in stored} | {LAYOUT}
        unknown = sorted(_files(directory) - known)
        if unknown:
            raise ValueError(f"{unknown[0]} is not part of a replay")
        columns = {name: _map(_path(directory, name), x, "r") for name, x in stored.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{directory} must hold a replay and nothing else: {error}") from error
    journal = columns.pop(JOURNAL)
    steps, oldest = int(journal[0]), _oldest(journal, layout["capacity"])
    if steps < 0:
        raise ValueError(
            f"The replay in {directory} is damaged: its journal is negative. "
            "Restore it, or choose another run_dir=."
        )
    return Stored(steps, oldest, columns, journal)


def _oldest(journal: np.ndarray, capacity: int) -> int:
    """Return the number of the oldest step held; a roll-back to nothing may be interrupted."""
    return max(int(journal.min()), int(journal[0]) - capacity)


def _is_unwritten(directory: Path) -> bool:
    """Whether there are no files, or only empty ones: an interrupted creation."""
    paths = [directory / name for name in _files(directory)]
    return all(path.is_file() and path.stat().st_blocks == 0 for path in paths)


def _files(directory: Path) -> set[str]:
    """Return the names of files in a directory, without an unfinished layout."""
    return {path.name for path in directory.iterdir()} - set(DRAFTS)


def _path(directory: Path, name: str) -> Path:
    return directory / quote(name, safe="")  # nested observations have slashes: "arm/joints"


def size_on_disk(columns: dict[str, Column], *, env_count: int, capacity: int) -> int:
    """Return the bytes of full rings, without creating them."""
    row = sum(_count_bytes(column) for column in columns.values())
    return env_count * (capacity + 1) * row


def _count_bytes(array: Column) -> int:
    return math.prod(array.shape) * np.dtype(array.dtype).itemsize


def _check_free_space(directory: Path, size_bytes: int) -> None:
    """Reject rings larger than the disk: writing to such a memory map kills the process."""
    present = 0
    if directory.exists():
        present = sum(512 * path.stat().st_blocks for path in directory.iterdir())
    existing = next(path for path in [directory, *directory.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if size_bytes - present > free:
        raise OSError(
            f"The replay in {directory} must fit on the disk with {free:,} free bytes, got "
            f"{size_bytes - present:,} more bytes when full. Make it smaller with "
            "replay.capacity_policy_steps=..., or set run_dir=... on another disk."
        )


def _check_layout(directory: Path, expected: dict) -> None:
    """Reject files with another layout."""
    try:
        found = json.loads((directory / LAYOUT).read_text())
        found = {key: found[key] for key in expected}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{directory} must be empty or hold a replay, got files without a readable {LAYOUT}. "
            "Restore it, or choose another run_dir=."
        ) from error
    differences = [
        f"{key} must be {expected[key]}, got {found[key]}"
        for key in expected
        if found[key] != expected[key]
    ]
    if differences:
        raise ValueError(
            f"The replay in {directory} has another layout: {'; '.join(differences)}. "
            "Use the same configuration, or choose another run_dir=."
        )


def _map(path: Path, array: Column, mode: Literal["r", "r+"] = "r+") -> np.ndarray:
    """Map a file as a plain array: indexing a np.memmap costs microseconds more."""
    expected = _count_bytes(array)
    found = path.stat().st_size if path.exists() else 0
    if found != expected:
        raise ValueError(
            f"The replay in {path.parent} is damaged: its file {path.name} must have "
            f"{expected:,} bytes, got {found:,}. Restore it, or choose another run_dir=."
        )
    return np.asarray(np.memmap(path, array.dtype, mode=mode, shape=array.shape))
