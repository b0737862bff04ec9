"""Paths of the program's own files."""

import os
from pathlib import Path

_INSTALLED = Path(__file__).parent.parent / "conf"  # a wheel contains it in the package
_CHECKOUT = Path(__file__).parent.parent.parent / "conf"

CONF = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
# Groups of conf/ whose files a run chooses; the other folders list runs.
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()} - {"grid", "search", "sweep"}
PRETRAINED = Path(__file__).parent.parent / "pretrained"  # a folder per trained agent
WEIGHTS = "weights.safetensors"  # of a trained agent without a run
SWEEP = "DREAMER_SWEEP"  # environment variable: name of the sweep that a run belongs to
SOURCES = ("init_from", "data.prefill", "data.train")  # of earlier runs and of stored data


def pretrained_names() -> list[str]:
    """Return the names of the trained agents in this package."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{WEIGHTS}"))


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return the path with a leading `~` replaced by the user's home."""
    text = os.fspath(path)
    return Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)


def is_remote(address: str) -> bool:
    """Whether an address has a protocol, as in s3://bucket/folder; else it is a path."""
    return "://" in address


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return the path without `~`, links or relative parts; it need not exist."""
    return Path(os.path.realpath(expanded(path)))
