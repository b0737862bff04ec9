"""Paths of the program's own files."""

import os
from pathlib import Path

_INSTALLED = Path(__file__).parent.parent / "conf"  # a wheel contains it in the package
_CHECKOUT = Path(__file__).parent.parent.parent / "conf"

CONF = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
# Groups of conf/ whose files a run chooses; the other folders list runs.
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()} - {"grid", "sweep"}


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return the path with a leading `~` replaced by the user's home."""
    text = os.fspath(path)
    return Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)
