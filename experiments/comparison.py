"""Compares runs: the keys in which their configurations differ, their progress and their curves.

`python -m experiments.report RUN RUN` prints and writes it.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import tables, text_tables
from experiments.learning import chart_groups
from experiments.results import CHARTS, Results
from experiments.run_folder import Run, UnusableError, read_run
from experiments.runs import everything, table_of
from experiments.videos import latest_videos

ABSENT = "(no such key)"
PLACES = ("root", "run_dir")  # keys that say where a run is, not what it does
TASK = "both"  # as one task, so that the runs share charts


def of_pair(folders: Sequence[Path]) -> Results:
    """Compare run folders, each as a variant of its own.

    Raises:
        ValueError: A folder is no run, or one is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"The runs must be different, got {' '.join(map(str, folders))}")
    runs = [_read(folder) for folder in folders]
    names = short_names(folders)
    for run, name in zip(runs, names, strict=True):
        run.row["variant"] = name
    differing = differences({name: run.config for name, run in zip(names, runs, strict=True)})
    problems = [problem for run in runs for problem in run.problems]
    several = len({(run.row["env"], run.row["task"]) for run in runs}) > 1
    if several:
        problems.append("The runs have different tasks; their returns are not comparable.")
    found = table_of(runs, problems)
    drawn = everything(found)
    if several:
        drawn = drawn.assign(env="runs", task=TASK)
    return Results(
        title=f"{' and '.join(names)}",
        tidy=pd.DataFrame(columns=list(tables.TIDY)),
        extra={"differences.csv": differing, "runs.csv": found.runs, "curves.csv": found.curves},
        shown={
            "Keys of the configuration that differ": differing,
            "Runs": text_tables.run_list(found.runs, Path(os.path.commonpath(_absolute(folders)))),
        },
        charts=chart_groups(drawn, names_seeds=False),
        curves=found.curves.iloc[:0],
        videos=[
            x
            for folder, name, run in zip(folders, names, runs, strict=True)
            for x in latest_videos(folder, name, run.row["counter"])
        ],
        notes=[CHARTS],
        problems=problems,
    )


def differences(configs: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """List the keys in which configurations differ.

    Args:
        configs: by the name of the run.

    Returns:
        A row per dotted key and a column per run; where a run is on disk does not count.
    """
    flat = {name: dict(_leaves(config)) for name, config in configs.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    rows = [
        {"key": key} | {name: _text(values, key) for name, values in flat.items()}
        for key in keys
        if key not in PLACES
    ]
    differing = [row for row in rows if len({row[name] for name in flat}) > 1]
    return pd.DataFrame(differing, columns=["key", *flat])


def short_names(folders: Iterable[Path]) -> list[str]:
    """Name run folders by the parts of their paths in which they differ."""
    paths = _absolute(folders)
    common = os.path.commonpath(paths)
    parts = [Path(os.path.relpath(path, common)).parts for path in paths]
    while min(map(len, parts)) > 1 and len({names[-1] for names in parts}) == 1:
        parts = [names[:-1] for names in parts]
    return ["/".join(names) for names in parts]


def _read(folder: Path) -> Run:
    try:
        return read_run(folder)
    except UnusableError as reason:
        raise ValueError(f"Only run folders are compared, got {folder}: {reason}") from reason


def _absolute(folders: Iterable[Path]) -> list[str]:
    return [str(folder.resolve()) for folder in folders]


def _text(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return ABSENT
    return "null" if values[key] is None else str(values[key])


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and (value or not prefix):
        for key, child in value.items():
            yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
