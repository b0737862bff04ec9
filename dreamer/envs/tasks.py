"""Helpers of the suites: task names, ranges of options, and messages that are printed once."""

import difflib
import functools
import re
from collections.abc import Iterable

# Gymnasium's ids of Atari games: ALE/Pong-v5, PongNoFrameskip-v4, Pong-ramDeterministic-v4.
ATARI_ID = re.compile(r"(?:ALE/)?(\w+?)(?:-ram)?(?:Deterministic|NoFrameskip)?-v[045]")
LISTED = 10  # tasks in an error, if none is similar


def find_task(task: str, known: Iterable[str], suite: str) -> str:
    """Return the known name that equals `task`, ignoring case and separators.

    Raises:
        ValueError: There is no such task; the message names the nearest ones.
    """
    names = {_letters(name): name for name in known}
    if _letters(task) not in names:
        nearest = difflib.get_close_matches(_letters(task), names, n=3, cutoff=0.5)
        choices = ", ".join(f"`{names[match]}`" for match in nearest or sorted(names)[:LISTED])
        label = "The nearest" if nearest else f"Some of the {len(names)} known"
        raise ValueError(f"Unknown {suite} task `{task}`. {label}: {choices}")
    return names[_letters(task)]


def atari_game(task: str) -> str:
    """Return the game that one of Gymnasium's ids of Atari games names; other tasks as they are."""
    match = ATARI_ID.fullmatch(task)
    return match[1] if match else task


def require_at_least(minimum: int, **values: int) -> None:
    """Raise if one of the values is below `minimum`.

    Raises:
        ValueError: A value is too small.
    """
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, got {value}")


@functools.cache
def print_once(line: str) -> None:
    """Print a line the first time; every environment of a group would repeat it."""
    print(line)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()
