"""Addresses of stored data: folders, s3://, gs://, memory:// and whatever else fsspec knows.

Every format uses it. It knows files and their bytes, no episodes.
"""

import contextlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

INSTALL = "pip install -r requirements-data.txt"
EVALUATION = "episodes_eval"  # PyDreamer's folder of episodes that it does not train on
# Kinds of addresses where a file appears as a whole, once it is written.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"}


class Unreachable(OSError):  # noqa: N818 -- the name states the problem
    """A place cannot be read or written: a network is down, or credentials are missing."""


class Refused(Unreachable):
    """A place cannot be read or written until somebody changes something: credentials, rights."""


class Place(NamedTuple):
    """A folder or a file at an address."""

    address: str
    files: fsspec.AbstractFileSystem
    path: str

    @property
    def local(self) -> Path | None:
        """The path, if the address is on this machine's disks."""
        return Path(self.path) if isinstance(self.files, LocalFileSystem) else None

    def folder(self, name: str) -> "Place":
        """Return a folder in this one, which need not exist."""
        return Place(f"{self.address.rstrip('/')}/{name}", self.files, self.below(name))

    def below(self, name: str) -> str:
        """Return the path of a name in this folder."""
        return f"{self.path.rstrip('/')}/{name}"

    def exists(self, name: str = "") -> bool:
        """Whether the address, or a name in this folder, exists.

        Raises:
            Unreachable: The place cannot be read.
        """
        with _reached(self.address):
            return self.files.exists(self.below(name) if name else self.path)

    def open(self, path: str) -> IO[bytes]:
        """Open a file to read it; a remote one is downloaded to memory at once.

        Raises:
            Unreachable: The place cannot be read. It is no fault of the file.
            OSError: The file does not exist, or the disk is damaged.
        """
        if self.local is not None:
            return open(path, "rb")
        with _reached(self.address):
            return io.BytesIO(self.files.cat_file(path))  # pyright: ignore[reportArgumentType]

    def write(self, name: str, content: bytes) -> None:
        """Write a file in this folder, completely or not at all.

        Raises:
            Unreachable: The place cannot be written.
            OSError: The disk is full or damaged.
        """
        if self.local is None:
            self._put(name, lambda path: self.files.pipe_file(path, content))
            return
        with self._draft(name) as draft:
            draft.write_bytes(content)

    def upload(self, name: str, file: Path) -> None:
        """Copy a file of this machine into this folder, completely or not at all.

        Raises:
            Unreachable: The place cannot be written.
            OSError: A disk is full or damaged.
        """
        if self.local is None:
            self._put(name, lambda path: self.files.put_file(str(file), path))
            return
        with self._draft(name) as draft:
            shutil.copyfile(file, draft)
            with draft.open("rb") as written:
                os.fsync(written.fileno())

    def download(self, name: str, file: Path) -> None:
        """Copy a file of this folder to this machine, completely or not at all.

        Raises:
            FileNotFoundError: There is no such file.
            Unreachable: The place cannot be read.
            OSError: A disk is full or damaged.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}")
        draft.unlink(missing_ok=True)  # a link is not followed
        try:
            if self.local is not None:
                shutil.copyfile(self.below(name), draft)
            else:
                with _reached(self.address):
                    self.files.get_file(self.below(name), str(draft))
            os.replace(draft, file)
        finally:
            draft.unlink(missing_ok=True)

    def keep(self, name: str, copy: str) -> None:
        """Copy a file within this folder, completely or not at all; nothing if it does not exist.

        Raises:
            Unreachable: The place cannot be read or written.
            OSError: The disk is full or damaged.
        """
        if not self.exists(name):
            return
        if self.local is None:
            self._put(copy, lambda path: self.files.cp_file(self.below(name), path))
            return
        with self._draft(copy) as draft:
            shutil.copyfile(self.below(name), draft)

    @contextlib.contextmanager
    def _draft(self, name: str) -> Iterator[Path]:
        """Give the path of a new file of a local folder, which gets its name at the end."""
        path = Path(self.below(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}")
        draft.unlink(missing_ok=True)  # a link is not followed
        try:
            yield draft
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    def _put(self, name: str, write: Callable[[str], object]) -> None:
        """Write a file of a remote folder with a function of its path."""
        path = self.below(name)
        folder, _, last = path.rpartition("/")
        with _reached(self.address):
            if _protocols(self.files) & OBJECT_STORES:
                with contextlib.suppress(FileNotFoundError):
                    write(path)
                    return
                self.files.makedirs(folder, exist_ok=True)  # a bucket
                write(path)
                return
            self.files.makedirs(folder, exist_ok=True)
            draft = f"{folder}/.{last}"
            write(draft)
            self.files.mv(draft, path)


def find(address: str) -> Place:
    """Return the place of an address.

    Raises:
        ValueError: The address is empty, or fsspec knows no such kind.
        ImportError: A package for this kind of address is missing.
    """
    if address.startswith("mlflow-artifacts:"):
        raise ValueError(
            f"The address must not go through an MLflow server, got {address}. Give the place "
            "where the server keeps artifacts, its --artifacts-destination: a folder, file: or s3:"
        )
    if not address:
        raise ValueError("The address must be a folder or like s3://bucket/folder, got nothing")
    try:
        files, path = url_to_fs(os.path.expanduser(address), use_listings_cache=False)
    except ImportError as error:
        raise ImportError(f"{address} needs `{INSTALL}`: {error}") from error
    except ValueError as error:
        must = "The address must be a folder or of a kind that fsspec knows"
        raise ValueError(f"{must}, got {address}: {error}") from error
    return Place(address, files, str(path))


def list_files(place: Place) -> list[str]:
    """Return the paths of all files in a folder and in those below, the oldest first.

    Hidden files and PyDreamer's episodes for evaluation are left out; to read the latter, give
    their own address.

    Raises:
        FileNotFoundError: There is no such file or folder.
        Unreachable: The place cannot be read.
    """
    with _reached(place.address):
        if not place.files.exists(place.path):
            raise FileNotFoundError(f"{place.address} does not exist")
        found = place.files.find(place.path)
    paths = [path for path in found if _is_visible(path[len(place.path) :])]
    return sorted(paths, key=_by_age)


def check_unused(place: Place) -> None:
    """Check that nothing is stored at an address yet.

    Raises:
        ValueError: A file is there.
        Unreachable: The place cannot be read.
    """
    with _reached(place.address):
        used = place.files.exists(place.path) and place.files.find(place.path)
    if used:
        raise ValueError(f"`to` must be empty or new, got {place.address}, which holds files")


@contextlib.contextmanager
def to_read(place: Place) -> Iterator[Path]:
    """Give the folder itself if it is local, else a temporary copy on disk."""
    if place.local is not None:
        yield place.local
        return
    with tempfile.TemporaryDirectory() as folder:
        with _reached(place.address):
            place.files.get(place.path.rstrip("/") + "/", folder, recursive=True)
        yield Path(folder)


@contextlib.contextmanager
def to_write(place: Place) -> Iterator[Path]:
    """Give the folder itself if it is local, else a temporary one that is uploaded at the end."""
    if place.local is not None:
        place.local.mkdir(parents=True, exist_ok=True)
        yield place.local
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        with _reached(place.address):
            place.files.put(f"{folder}/", place.path.rstrip("/") + "/", recursive=True)


@contextlib.contextmanager
def _reached(address: str) -> Iterator[None]:
    """Turn the errors of all file systems, such as missing credentials, into `Unreachable`."""
    try:
        yield
    except (FileNotFoundError, Unreachable):
        raise
    except Exception as error:
        refused = isinstance(error, PermissionError) or "Credential" in type(error).__name__
        kind = Refused if refused else Unreachable
        raise kind(f"{address} cannot be reached: {one_line(error)}") from error


def one_line(error: object) -> str:
    """Return the text of an error on one line, with its type if it is an exception without text."""
    text = " ".join(str(error).split())[:300]
    return text or type(error).__name__


def _protocols(files: fsspec.AbstractFileSystem) -> set[str]:
    protocol: str | tuple[str, ...] = files.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def _is_visible(path: str) -> bool:
    parts = [part for part in path.split("/") if part]
    return not any(part.startswith(".") or part == EVALUATION for part in parts)


def _by_age(path: str) -> tuple[list[int], str, str]:
    """Return a key that sorts PyDreamer's files by episodes and pieces, the authors' by time."""
    name = path.rsplit("/", 1)[-1]
    numbers = re.match(r"ep(\d+)_(\d+)(?:-(\d+)-r)?", name) or re.match(r"ep(\d+)-", name)
    return [int(text) for text in numbers.groups() if text] if numbers else [], name, path
