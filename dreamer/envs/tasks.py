"""Names of tasks, ranges of options, and messages that are printed once.

The suites use it. It knows none of them.
"""

import difflib
import functools
from collections.abc import Iterable


def find_task(task: str, known: Iterable[str], suite: str) -> str:
    """Return the known name that `task` means, whatever its case and separators.

    Raises:
        ValueError: No such task; the message names the nearest ones.
    """
    names = {_letters(name): name for name in known}
    if _letters(task) not in names:
        nearest = difflib.get_close_matches(_letters(task), names, n=3, cutoff=0.5) or sorted(names)
        choices = ", ".join(f"`{names[match]}`" for match in nearest)
        raise ValueError(f"Unknown {suite} task `{task}`. The nearest: {choices}")
    return names[_letters(task)]


def require_at_least(minimum: int, **values: int) -> None:
    """Refuse settings below `minimum`, naming the first of them.

    Raises:
        ValueError: A value is too small.
    """
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, got {value}")


@functools.cache
def print_once(line: str) -> None:
    """Print a line; environments of one kind would say it again and again."""
    print(line)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()
