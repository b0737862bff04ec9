"""The words after `python sweep.py`: which are the sweep's own, which every job's, which Hydra's.

Only `sweep.py` uses it. It checks how words are written, not whether what they name exists.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from experiments.grid import Choice

OWN_WORDS = ("grid", "task", "variant", "seeds", "root", "dry_run", "retry")
NEARLY = {"grids": "grid", "tasks": "task", "variants": "variant", "seed": "seeds"}


class Command(NamedTuple):
    """What the command line asks for."""

    grid: str
    choice: Choice
    root: Path
    dry_run: bool
    retry: bool
    launcher: tuple[str, ...]  # words for Hydra itself


def parse(words: Sequence[str]) -> Command:
    """Sort the words of a command line.

    Raises:
        ValueError: a word is no key=value, comes twice, or has a value that cannot be.
    """
    own: dict[str, str] = {}
    hydra: list[str] = []
    common: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"Expect words as key=value, actually: {word}")
        if key in NEARLY:
            raise ValueError(f"Unknown word `{key}`. The nearest: {NEARLY[key]}")
        if key in own:
            raise ValueError(f"`{key}=` comes twice.")
        if key in OWN_WORDS:
            own[key] = value
        elif re.match(r"\+*hydra[./]", key):
            hydra.append(word)
        else:  # train.py takes these two with a plus or without
            common.append(re.sub(r"^\+(experiment|debug)=", r"\1=", word))
    if not own.get("grid"):
        raise ValueError("Expect a grid, for example: grid=ablations task=pong seeds=3")
    return Command(
        grid=own["grid"],
        choice=Choice(
            tasks=_names("task", own),
            variants=_names("variant", own),
            seeds=_seeds(own),
            words=tuple(common),
        ),
        root=Path(own.get("root", "runs")),
        dry_run=_flag("dry_run", own),
        retry=_flag("retry", own),
        launcher=tuple(hydra),
    )


def nearest_words(word: str, known: Iterable[str]) -> str:
    """Offer what may have been meant by a key that nobody knows; empty if nothing is near."""
    nearest = difflib.get_close_matches(word.lstrip("+~"), [*OWN_WORDS, *known], n=3)
    return f" The nearest: {', '.join(nearest)}" if nearest else ""


def _names(key: str, own: dict[str, str]) -> list[str] | None:
    if key not in own:
        return None
    names = [name.strip() for name in own[key].strip("[]").split(",")]
    if not all(names):
        raise ValueError(f"Expect `{key}` to be names with commas between, actually: {own[key]}")
    return names


def _seeds(own: dict[str, str]) -> int | list[int] | None:
    """A number as a number; anything with a comma or in brackets as a list."""
    if "seeds" not in own:
        return None
    text = own["seeds"]
    try:
        return yaml.safe_load(f"[{text}]" if "," in text and "[" not in text else text)
    except yaml.YAMLError:
        raise ValueError(f"Expect `seeds` as in seeds=3 or seeds=[0,5], actually: {text}") from None


def _flag(key: str, own: dict[str, str]) -> bool:
    value = own.get(key, "false").lower()
    if value not in ("true", "false"):
        raise ValueError(f"Expect `{key}` to be true or false, actually: {own[key]}")
    return value == "true"
