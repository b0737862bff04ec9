"""Small files that are complete or absent, and sentences about damaged ones.

Everything that writes to a run folder uses it. It knows no run, only text, JSON and paths.
"""

import functools
import json
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

# Folder in the root of all runs where MLflow, without a server, keeps copies of runs' files.
MLFLOW_ARTIFACTS = "mlartifacts"


class DamagedFile(ValueError):  # noqa: N818 -- the name states the problem
    """A file of a run folder cannot be read; the message names it and the damage."""


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all, even if the power fails.

    A link is replaced, not followed: somebody else may have made the folder.
    """
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    with draft.open("x") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def read_text(path: Path) -> str:
    """Read a file that must have a content.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFile: It is a folder, empty or no text.
    """
    if path.is_dir():
        raise DamagedFile(f"{path} is damaged: it is a folder.")
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        raise DamagedFile(f"{path} is damaged: it is no text.") from None
    if not text.strip("\0 \n\r\t"):
        raise DamagedFile(f"{path} is damaged: it is empty.")
    return text


def read_json(path: Path) -> dict[str, Any]:
    """Read a file with a JSON object.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFile: It is a folder, empty or something else.
    """
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise DamagedFile(f"{path} is damaged: it is no JSON{where}.") from None
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} is damaged: it must be an object, got {content!r:.40}.")
    return content


def read_lines(path: Path) -> tuple[list[str], int]:
    """Return the lines of a file that are JSON objects, and the number of all others.

    A killed process leaves an incomplete line, and a damaged disk any.

    Raises:
        FileNotFoundError: There is no such file.
    """
    kept = []
    lines = path.read_bytes().splitlines()
    for line in lines:
        with suppress(ValueError, RecursionError):
            if isinstance(json.loads(line), dict):
                kept.append(line.decode())
    return kept, len(lines) - len(kept)


def check_no_link(path: Path) -> None:
    """Check that what is written to a path is not written elsewhere.

    Raises:
        ValueError: It is a link.
    """
    if path.is_symlink():
        text = shlex.quote(str(path))
        raise ValueError(
            f"{path} must not be a link, got one to {os.readlink(path)}, where this program would "
            f"write. Repeat the command after `mv {text} {text}.damaged`."
        )


def move_aside(path: Path) -> Path:
    """Rename what is in the way of a file or folder, and return its new path."""
    names = (f"{path.name}.damaged{n or ''}" for n in range(1000))
    free = next(p for p in map(path.with_name, names) if not os.path.lexists(p))
    path.rename(free)
    return free


@functools.cache
def warn_once(line: str) -> None:
    """Print a warning on one line, where it is no part of a command's output."""
    print(f"warning: {line}", file=sys.stderr)
