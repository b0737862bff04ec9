"""What the help of a command says above its keys.

It is apart from `help.py`, because commands declare it before they import anything slow.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Usage(NamedTuple):
    """The text above the keys."""

    summary: str
    usage: str
    examples: Sequence[tuple[str, str]]  # command and meaning
