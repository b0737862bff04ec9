"""The words after `python sweep.py`: which are the sweep's own, which every job's, which Hydra's.

Only `sweep.py` uses it. It checks how words are written, not whether what they name exists.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import yaml

from dreamer.schema.keys import keys_of
from dreamer.schema.types import Section, doc
from dreamer.schema.validation import validate_words
from experiments.sweep.grid import Choice


@dataclass
class SweepSettings(Section):
    """The words of `sweep.py` itself."""

    grid: Annotated[
        str, doc("A grid of conf/grid: ablations, atari55, ..., or a file of yours, *.yaml.")
    ]
    task: Annotated[
        str | None, doc("pong,boxing or dummy/memory,atari/pong; null: the grid's tasks.")
    ] = None
    variant: Annotated[
        str | None, doc("dreamerv2,no_kl_balancing: only these; null: the grid's variants.")
    ] = None
    seeds: Annotated[
        str | None, doc("3 for the seeds 0, 1 and 2, or [0,5] for these; null: the grid's seeds.")
    ] = None
    root: Annotated[str, doc("Folder of all run folders.")] = "runs"
    dry_run: Annotated[bool, doc("Say what would be done and what it costs, and do nothing.")] = (
        False
    )
    retry: Annotated[bool, doc("Run again what has failed, too.")] = False


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
            raise ValueError(f"Words must be key=value, got `{word}`")
        if key in NEARLY:
            raise ValueError(f"Unknown word `{key}`. The nearest: {NEARLY[key]}")
        if key in own:
            raise ValueError(f"`{key}=` comes twice.")
        if key in keys_of(SweepSettings).named:
            own[key] = value
        elif re.match(r"\+*hydra[./]", key):
            hydra.append(word)
        else:  # train.py takes these two with a plus or without
            common.append(re.sub(r"^\+(experiment|debug)=", r"\1=", word))
    if not own.get("grid"):
        raise ValueError("Expect a grid, for example: grid=ablations task=pong seeds=3")
    checked = validate_words([f"{key}={value}" for key, value in own.items()], SweepSettings)
    own = {key: value for key, value in own.items() if checked[key] is not None}
    return Command(
        grid=own["grid"],
        choice=Choice(
            tasks=_names("task", own),
            variants=_names("variant", own),
            seeds=_seeds(own),
            words=tuple(common),
        ),
        root=Path(own.get("root", SweepSettings.root)),
        dry_run=checked.get("dry_run", False),
        retry=checked.get("retry", False),
        launcher=tuple(hydra),
    )


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
