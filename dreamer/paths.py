"""Where the program keeps its own files.

The doors and whatever reads the configuration ask it. It knows no file's content.
"""

from pathlib import Path

_INSTALLED = Path(__file__).parent / "conf"  # a wheel carries it inside the package
_CHECKOUT = Path(__file__).parent.parent / "conf"

CONF = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
