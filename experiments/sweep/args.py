"""Parses the command line of `sweep.py`: keys of the sweep, of every job, and of Hydra.

Only `sweep.py` uses it. It checks the syntax, not whether names exist.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import yaml

from dreamer.run.paths import expanded
from dreamer.schema.keys import keys_of
from dreamer.schema.types import Folder, PositiveCount, Section, doc
from dreamer.schema.validation import validate_words
from experiments.sweep.grid import Choice


@dataclass
class SweepSettings(Section):
    """The keys of `sweep.py` itself."""

    grid: Annotated[
        str | None,
        doc("A grid of conf/grid (ablations, atari55, ...), or the path of a file, *.yaml."),
    ] = None
    search: Annotated[
        str | None,
        doc("Instead of a grid: a search of conf/search (cartpole, ...), or the path of a file."),
    ] = None
    trials: Annotated[
        PositiveCount | None, doc("Number of trials of a search; null: that of its file.")
    ] = None
    workers: Annotated[PositiveCount, doc("Trials of a search that run at once.")] = 1
    task: Annotated[
        str | None,
        doc("As in pong,boxing or dummy/memory,atari/pong; null: all of the grid."),
    ] = None
    variant: Annotated[
        str | None, doc("Of a grid, as in dreamerv2,no_kl_balancing; null: all of the grid.")
    ] = None
    seeds: Annotated[
        str | None,
        doc("A number, as in 3, or a list, as in [0,5]; null: those of the grid."),
    ] = None
    root: Annotated[
        Folder | None,
        doc("Folder of all run folders; null: runs for a grid, searches/<name> for a search."),
    ] = None
    dry_run: Annotated[bool, doc("Only print the jobs or trials, and their cost.")] = False
    retry: Annotated[bool, doc("Also repeat failed runs of a grid.")] = False


SIMILAR_KEYS = {
    **{"grids": "grid", "tasks": "task", "variants": "variant", "seed": "seeds"},
    **{"searches": "search", "trial": "trials", "worker": "workers"},
}
OF_GRIDS = ("variant", "retry")
OF_SEARCHES = ("trials", "workers")


class Command(NamedTuple):
    """The parsed command line; `grid` is empty for a search, `search` for a grid."""

    grid: str
    choice: Choice
    root: Path
    dry_run: bool
    retry: bool
    launcher: tuple[str, ...]  # arguments for Hydra itself
    search: str = ""
    trials: int | None = None  # None: those of the file
    workers: int = 1


def parse(words: Sequence[str]) -> Command:
    """Parse the command line.

    Raises:
        ValueError: An argument is not key=value, is given twice, or is not allowed.
    """
    own: dict[str, str] = {}
    hydra: list[str] = []
    common: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"Arguments must be key=value, got `{word}`")
        if key in SIMILAR_KEYS:
            raise ValueError(f"Unknown key `{key}`. The nearest: {SIMILAR_KEYS[key]}")
        if key in own:
            raise ValueError(f"`{key}` must be given once, got it twice")
        if key in keys_of(SweepSettings).named:
            own[key] = value
        elif re.match(r"\+*hydra[./]", key):
            hydra.append(word)
        else:  # train.py accepts these two with or without a plus
            common.append(re.sub(r"^\+(experiment|debug)=", r"\1=", word))
    checked = validate_words([f"{key}={value}" for key, value in own.items()], SweepSettings)
    own = {key: value for key, value in own.items() if checked[key] is not None}
    _check_kind(own)
    grid, search = own.get("grid", ""), own.get("search", "")
    return Command(
        grid=grid,
        search=search,
        choice=Choice(
            tasks=_names("task", own),
            variants=_names("variant", own),
            seeds=_seeds(own),
            words=tuple(common),
        ),
        root=expanded(own.get("root", f"searches/{Path(search).stem}" if search else "runs")),
        dry_run=checked.get("dry_run", False),
        retry=checked.get("retry", False),
        launcher=tuple(hydra),
        trials=checked.get("trials"),
        workers=checked.get("workers") or 1,
    )


def _check_kind(own: dict[str, str]) -> None:
    """Check that there is a grid or a search, and no key of the other."""
    kinds = [key for key in ("grid", "search") if own.get(key)]
    if not kinds:
        raise ValueError(
            "`grid` or `search` must be given, for example: grid=ablations task=pong seeds=3, or "
            "search=cartpole"
        )
    if len(kinds) == 2:
        raise ValueError("`search` must not be given with a grid: choose one of them")
    for key in OF_GRIDS if kinds == ["search"] else OF_SEARCHES:
        if key in own:
            other = "grid" if key in OF_GRIDS else "search"
            raise ValueError(f"`{key}` must come with {other}=, got {kinds[0]}={own[kinds[0]]}")


def _names(key: str, own: dict[str, str]) -> list[str] | None:
    if key not in own:
        return None
    names = [name.strip() for name in own[key].strip("[]").split(",")]
    if not all(names):
        raise ValueError(f"`{key}` must be names separated by commas, got {own[key]}")
    return names


def _seeds(own: dict[str, str]) -> int | list[int] | None:
    """Parse a number, or a list with commas or brackets."""
    if "seeds" not in own:
        return None
    text = own["seeds"]
    try:
        return yaml.safe_load(f"[{text}]" if "," in text and "[" not in text else text)
    except yaml.YAMLError:
        raise ValueError(f"`seeds` must be as in seeds=3 or seeds=[0,5], got {text}") from None
