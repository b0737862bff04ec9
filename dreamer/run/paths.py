"""Where the program keeps its own files.

The entry points and whatever reads the configuration ask it. It knows no file's content.
"""

import os
from pathlib import Path

_INSTALLED = Path(__file__).parent.parent / "conf"  # a wheel carries it inside the package
_CHECKOUT = Path(__file__).parent.parent.parent / "conf"

CONF = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
# Folders of conf/ from which a run chooses files; the others list runs.
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()} - {"grid", "sweep"}


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path, where `~` at its beginning is the user's home."""
    text = os.fspath(path)
    return Path(text).expanduser() if text == "~" or text.startswith("~/") else Path(text)
