"""Look at stored experience and convert it: `python -m dreamer.data info runs/dummy/.../seed0`.

It prints what is stored, and names what it had to skip.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dreamer.cli.command import HELP, fail, interruptible, loaded, start
from dreamer.schema.usage import Usage

if TYPE_CHECKING:
    import numpy as np

    from dreamer.data.episodes import Summary
    from dreamer.data.formats import Pass
    from dreamer.data.settings import DataSettings
    from dreamer.replay.storage import Column

USAGE = Usage(
    "Look at stored experience (info), read all of it (verify), or copy it into another format "
    "(convert). Addresses are folders, or as in s3://bucket/folder and gs://bucket/folder.",
    "python -m dreamer.data info|convert|verify <address> [key=value ...], or dreamer-data",
    (
        (
            "python -m dreamer.data info runs/atari/pong/dreamerv2/seed0",
            "Shows episodes, shapes, actions and returns of a run's replay.",
        ),
        (
            "python -m dreamer.data convert episodes to=copy format=minari",
            "Copies a folder of episode files into a Minari dataset.",
        ),
        (
            "python -m dreamer.data verify s3://bucket/episodes",
            "Reads every file; the exit status is 1 if one is damaged.",
        ),
    ),
)
COMMANDS = ("info", "convert", "verify")
SHOWN = 20  # lines of what was skipped


def parse(words: Sequence[str]) -> tuple[str, str, "DataSettings"]:
    """Return the command, the address and the keys.

    Raises:
        ValueError: An argument is missing or not allowed.
    """
    from dreamer.data.settings import DataSettings
    from dreamer.schema.validation import validate_words

    plain = [word for word in words if "=" not in word or "://" in word.partition("=")[0]]
    settings = DataSettings(**validate_words([w for w in words if w not in plain], DataSettings))
    if not plain or plain[0] not in COMMANDS:
        got = plain[0] if plain else "nothing"
        raise ValueError(f"The first argument must be info, convert or verify, got {got}")
    if len(plain) != 2:
        got = " ".join(plain[1:]) or "none"
        raise ValueError(f"`{plain[0]}` must have one address, got {got}")
    if plain[0] == "convert" and settings.to is None:
        raise ValueError("`to` is missing: it must be the address to write to, as in to=copy")
    if plain[0] != "convert" and settings.to is not None:
        raise ValueError(f"`to` must be left out for {plain[0]}, got {settings.to}")
    return plain[0], plain[1], settings


def main(words: Sequence[str]) -> int:
    """Run a command, and return the exit status: 1 if `verify` finds damage, 2 on an error."""
    if not words or HELP & set(words):
        from dreamer.data.settings import DataSettings
        from dreamer.schema.help import head, keys, print_lines

        print_lines([*head(USAGE), *keys({}, DataSettings)])
        return 0 if words else 2
    try:
        command, address, settings = parse(words)
        from dreamer.data import formats

        loaded()
        if command == "convert":
            summary, walk = formats.convert(address, settings)
        else:
            look = formats.verify if command == "verify" else formats.summarize
            summary, walk = look(address)
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    _print(describe(summary, walk))
    if command == "convert":
        print(f"\nWritten to {settings.to}: {summary.episodes:,} episodes as {settings.format}")
    if command == "verify" and not walk.skipped:
        print("\nEverything can be read.")
    return int(command == "verify" and bool(walk.skipped))


def describe(summary: "Summary", walk: "Pass") -> list[tuple[str, str]]:
    """Return the lines of a table, each with its name; at the end what was skipped."""
    space = walk.source.action_space or summary.action_space()
    low, high = summary.action_range
    kind = f"{space.size} choices" if space.discrete else f"{space.size} numbers"
    if space.choices:
        kind = f"{len(space.choices)} choices of {', '.join(map(str, space.choices))} options"
    lines = [
        ("format", walk.source.format),
        (
            "episodes",
            f"{summary.episodes:,}; {summary.terminal:,} end in a terminal state",
        ),
        ("policy steps", f"{summary.steps:,}"),
        *(("observation", f"{name} {_column(x)}") for name, x in summary.columns.items()),
        ("actions", kind if space.discrete else f"{kind} from {low:.4g} to {high:.4g}"),
        ("lengths", f"{_spread(summary.lengths)} policy steps"),
        ("returns", _spread(summary.returns)),
    ]
    if summary.pieces:
        lines.append(("pieces", f"{summary.pieces:,} begin inside an episode"))
    if walk.skipped:
        lines.append(("skipped", f"{len(walk.skipped):,}"))
    lines += [("", f"{name}: {reason}") for name, reason in list(walk.skipped.items())[:SHOWN]]
    if len(walk.skipped) > SHOWN:
        lines.append(("", f"and {len(walk.skipped) - SHOWN:,} more"))
    return lines


def _print(lines: list[tuple[str, str]]) -> None:
    print("\n".join(f"{name:>13}  {text}" for name, text in lines))


def _column(column: "Column") -> str:
    import numpy as np

    shape = " x ".join(map(str, column.shape)) or "number"
    return f"{shape} {np.dtype(column.dtype).name}"


def _spread(values: "Sequence[float] | np.ndarray") -> str:
    mean = sum(values) / len(values)
    return f"{mean:.4g} on average, from {min(values):.4g} to {max(values):.4g}"


def run() -> None:
    """Run the command with the arguments of this process, and end the process."""
    words = sys.argv[1:]
    start("a look at stored experience:", words or sorted(HELP))
    interruptible(main, words)


if __name__ == "__main__":
    run()
