"""Checkpoints on disk: a file of `torch.save` that ends with the checksum of all that precedes it.

The callback writes them, and run folders read them. It knows tensors and plain types, no agent.

The checksum is the comment of the zip archive that torch writes, so that `torch.load` reads the
file as well, and a copy of the file keeps it. Earlier versions wrote none; then the archive's own
checksums of its parts have to do.
"""

import hashlib
import os
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dreamer.files import DamagedFile

PREVIOUS = "previous.ckpt"  # the last state before `last.ckpt`
COUNTERS = ("frames", "updates")
MARK = b"sha256:"
SIZE = len(MARK) + 64  # bytes of the checksum
END = struct.Struct("<4s16sH")  # the end of a zip archive: a signature, ..., the comment's length
BLOCK = 1 << 20


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain types only.

    Raises:
        DamagedFile: The file is damaged, or not a checkpoint of this program.
    """
    if path.is_dir():
        raise DamagedFile(f"{path} is damaged: it is a folder.")
    if not path.stat().st_size:
        raise DamagedFile(f"{path} is damaged: it is empty.")
    try:
        _verify(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        counters = state["counters"]
        if not all(type(counters[key]) is int and counters[key] >= 0 for key in COUNTERS):
            raise KeyError("counters")
    except DamagedFile:
        raise
    except Exception as error:  # a damaged file raises many kinds, an IndexError for instance
        raise DamagedFile(
            f"{path} is damaged or not a checkpoint of this program ({type(error).__name__})."
        ) from error
    return state


def install(draft: Path, path: Path, *, previous: Path | None = None) -> None:
    """Replace a checkpoint by a new one, once that has been read back.

    Args:
        draft: The new file, as `torch.save` wrote it, in the same folder.
        path: Where it belongs.
        previous: Where the file that it replaces is kept; None: nowhere.

    Raises:
        OSError: The new file cannot be read back, or the disk is full; the old one is still there.
    """
    _add_checksum(draft)
    try:
        read_checkpoint(draft)
    except DamagedFile as error:
        kept = f" The one before is still there: {path}." if path.exists() else ""
        raise OSError(f"The new checkpoint cannot be read back. {error}{kept}") from error
    if previous is not None and path.is_file():
        link = previous.with_name(f".{previous.name}")
        link.unlink(missing_ok=True)
        try:
            os.link(path, link)  # so that `path` exists at every moment
            os.replace(link, previous)
        except OSError:  # a file system without links
            with suppress(OSError):
                os.replace(path, previous)
    os.replace(draft, path)


def _add_checksum(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-END.size, os.SEEK_END)
        signature, middle, comment = END.unpack(file.read())
        if signature != b"PK\x05\x06" or comment:
            raise OSError(f"The new checkpoint {path} must be a zip archive, got another file")
        file.seek(-END.size, os.SEEK_END)
        file.write(END.pack(signature, middle, SIZE))
        file.flush()
        digest = _digest(path, path.stat().st_size)
        file.write(MARK + digest.encode())
        file.flush()
        os.fsync(file.fileno())


def _verify(path: Path) -> None:
    """Compare a file with its checksum."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - SIZE, 0))
        tail = file.read()
    if tail.startswith(MARK):
        if _digest(path, size - SIZE) != tail[len(MARK) :].decode(errors="replace"):
            raise DamagedFile(f"{path} is damaged: its content does not match its checksum.")
        return
    signature, _, comment = END.unpack(tail[-END.size :])
    if signature != b"PK\x05\x06" or comment:
        raise DamagedFile(f"{path} is damaged: it is incomplete, or not a checkpoint.")
    with zipfile.ZipFile(path) as archive:
        if (part := archive.testzip()) is not None:
            raise DamagedFile(f"{path} is damaged: its part {part} does not match its checksum.")


def _digest(path: Path, size: int) -> str:
    """Return the checksum of the first `size` bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(BLOCK, size))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()
