"""Trained agents as small folders: those of this package, and those that `dreamer.export` writes.

Such a folder looks like a run's to whoever loads, plays or reports, but has no checkpoints and no
replay. It knows files, no agent.

    weights.safetensors | config.yaml, spaces.json, metrics.jsonl, summary.json as in a run folder |
    scores.json
"""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dreamer.run.paths import PRETRAINED, WEIGHTS, absolute, expanded, pretrained_names
from dreamer.schema.words import format_value

if TYPE_CHECKING:
    from dreamer.data.address import Place

SCORES = "scores.json"
NEEDED = (WEIGHTS, "config.yaml", "spaces.json")
OTHERS = (SCORES, "metrics.jsonl", "summary.json")  # for readers and reports
PREFIX = "pretrained/"  # before the name of an agent of this package


def is_agent(folder: Path) -> bool:
    """Whether a folder holds an exported agent."""
    return (folder / WEIGHTS).is_file()


def is_address(name: str) -> bool:
    """Whether a name is an address of fsspec, such as s3://bucket/folder, instead of a path."""
    return "://" in name


def named_folder(name: str) -> Path | None:
    """Return the folder of `pretrained/<name>`, an agent of this package; None for other names.

    Raises:
        ValueError: There is no such agent, nor such a folder here.
    """
    if not name.startswith(PREFIX) or absolute(name).exists():
        return None
    wanted = name.removeprefix(PREFIX).strip("/")
    if wanted not in pretrained_names():
        raise ValueError(
            f"`pretrained/` must be followed by {_listed()}, got {format_value(wanted)}"
        )
    return PRETRAINED / wanted


def find_agent(name: str) -> Path:
    """Return the folder of a trained agent, which is downloaded first if it is elsewhere.

    Args:
        name: Of an agent of this package, such as `memory`; or a folder that `dreamer.export`
            wrote, or an address of one, such as s3://bucket/folder.

    Raises:
        ValueError: There is no such agent.
        FileNotFoundError: There is no agent at the address.
        Unreachable: The address cannot be read.
    """
    if is_address(name):
        return download(name)
    wanted = name.removeprefix(PREFIX)
    if wanted in pretrained_names():
        return PRETRAINED / wanted
    if is_agent(absolute(name)):
        return absolute(name)
    raise ValueError(
        f"`pretrained` must be {_listed()}, or a folder or an address that "
        f"`python -m dreamer.export` wrote to, got {format_value(name)}"
    )


def download(address: str) -> Path:
    """Download an agent to the user's cache, and return its folder.

    Raises:
        FileNotFoundError: There is no agent at the address.
        Unreachable: The address cannot be read.
    """
    from dreamer.data.address import find  # slow

    place = find(address)
    for name in NEEDED:
        if not place.exists(name):
            raise FileNotFoundError(f"No agent at {address}: it has no {name}.")
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    folder = expanded(caches) / "dreamer" / "agents" / key
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*NEEDED, *OTHERS):
        _copy(place, name, folder)
    return folder


def _copy(place: "Place", name: str, folder: Path) -> None:
    """Copy a file of a folder; remove an older copy if the folder has none."""
    if not place.exists(name):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
        return
    with place.open(place.below(name)) as file:
        draft = folder / f".{name}"
        draft.write_bytes(file.read())
    os.replace(draft, folder / name)


def _listed() -> str:
    names = pretrained_names()
    return f"the name of a trained agent ({', '.join(names) or 'none is installed'})"
