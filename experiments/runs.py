"""Reads many run folders into a table of runs and a table of curves.

Reports use it. Unreadable folders are reported as problems, not raised.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments import published
from experiments.measures import RETURN
from experiments.run_folder import Run, UnusableError, read_run, run_folders

CURVE_COLUMNS = (*published.CURVE_COLUMNS, "episodes", "counter")
NUMBER_COLUMNS = (*CURVE_COLUMNS, "key")
RUN_COLUMNS = (
    *("env", "task", "variant", "seed", "state", "frames", "total_frames", "updates"),
    *("counter", "action_repeat", "last_score", "best_score", "eval_return", "debug", "path"),
)
RUN = ["env", "task", "variant", "seed"]  # identifies a run
# Keys in which seeds of one variant may differ.
MAY_DIFFER = (
    *("seed", "root", "run_dir", "variant", "total_frames", "total_updates"),
    *("logger", "callbacks", "trainer", "precision", "collect", "switches"),
    *("kernels", "cuda_graphs", "replay.device"),
    *("env.processes", "env.hang_seconds", "env.max_restarts"),
)
NAMED = 3  # settings that tell variants of the same name apart


class Runs(NamedTuple):
    """The runs under a folder.

    Attributes:
        curves: a row per point: env, task, variant, seed, frames, score, episodes and counter,
            which is what frames count: frames, or updates of a run that collects nothing.
        numbers: the same with a key, of the other numbers that reports draw.
        runs: a row per run, see `Run.row`; state is finished, running, interrupted, failed or
            empty; frames and updates are those so far.
        problems: sentences about errors and data left out.
    """

    curves: pd.DataFrame
    numbers: pd.DataFrame
    runs: pd.DataFrame
    problems: list[str]


def read_runs(folder: Path) -> Runs:
    """Read all run folders in and under a folder.

    Left out, and listed in `problems`: folders without a readable configuration, duplicates, and
    runs whose action repeat differs from that of most runs of their task.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The folder must hold runs, such as `runs`, got {folder}, which does not exist."
        )
    found: list[Run] = []
    problems: list[str] = []
    for path in run_folders(folder):
        try:
            found.append(read_run(path))
            problems += found[-1].problems
        except UnusableError as reason:
            problems.append(f"{path}: {reason}. Left out.")
        except (OSError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            problems.append(f"{path}: cannot be read ({reason}). Left out.")
    found = _named_apart(found, problems)
    for choose in (_without_duplicates, _with_one_action_repeat):
        found = choose(found, problems)
    problems += _mixed_settings(found)
    return table_of(found, problems)


def everything(found: Runs) -> pd.DataFrame:
    """Return all numbers that reports draw, returns included, each point once.

    The returns of runs that collect nothing are those of evaluations, which `numbers` has.
    """
    played = found.curves[found.curves["counter"] == "frames"]
    return pd.concat([played.assign(key=RETURN), found.numbers], ignore_index=True)


def table_of(found: Sequence[Run], problems: list[str]) -> Runs:
    """Put runs into tables."""
    rows = pd.DataFrame([run.row for run in found], columns=list(RUN_COLUMNS))
    names = [{key: run.row[key] for key in RUN} for run in found]
    points = [
        run.points.assign(counter=run.row["counter"], **name)
        for run, name in zip(found, names, strict=True)
    ]
    numbers = [run.numbers.assign(**name) for run, name in zip(found, names, strict=True)]
    return Runs(_stacked(points, CURVE_COLUMNS), _stacked(numbers, NUMBER_COLUMNS), rows, problems)


def _stacked(tables: list[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=list(columns))
    return pd.concat(filled, ignore_index=True)[list(columns)]


def _named_apart(found: list[Run], problems: list[str]) -> list[Run]:
    """Name variants apart that have the same name and seeds, but other settings.

    A run is what its configuration says. So two runs of the same seed are copies of each other only
    if their settings are the same.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in found:
        groups.setdefault(tuple(run.row[key] for key in RUN[:3]), []).append(run)
    renamed: dict[str, str] = {}
    for name, runs in groups.items():
        kinds: list[tuple[dict[str, Any], list[Run]]] = []  # the runs of the same settings
        for run in runs:
            settings = dict(_leaves(run.config))
            kind = next((k for k in kinds if not _different(k[0], settings)), None)
            if kind is None:
                kinds.append((settings, []))
                kind = kinds[-1]
            kind[1].append(run)
        seeds = [{run.row["seed"] for run in of} for _, of in kinds]
        if len(set().union(*seeds)) == sum(map(len, seeds)):
            continue  # `_mixed_settings` reports what differs
        keys = sorted({key for settings, _ in kinds for key in _different(kinds[0][0], settings)})
        for settings, of in kinds:
            told = ", ".join(f"{key}={settings[key]}" for key in keys[:NAMED])
            renamed |= {run.row["path"]: f"{name[2]} ({told})" for run in of}
        problems.append(
            f"{'/'.join(name)}: runs of the same seed differ in {', '.join(keys[:NAMED])}. They "
            "count as different variants."
        )
    return [
        run._replace(row={**run.row, "variant": renamed.get(run.row["path"], run.row["variant"])})
        for run in found
    ]


def _different(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    """Return the settings that differ; those that an earlier version did not have do not count."""
    return {key for key in a.keys() & b.keys() if a[key] != b[key]}


def _without_duplicates(found: list[Run], problems: list[str]) -> list[Run]:
    """Of runs with the same name, keep the one with the most frames."""
    kept: dict[tuple[str, ...], Run] = {}
    for run in found:
        name = tuple(run.row[key] for key in RUN)
        first = kept.setdefault(name, run)
        if run is first:
            continue
        kept[name], left = (run, first) if run.row["frames"] > first.row["frames"] else (first, run)
        problems.append(
            f"{left.row['path']}: the same seed of {'/'.join(name[:3])} as "
            f"{kept[name].row['path']}, which has at least as many frames. Left out."
        )
    return list(kept.values())


def _with_one_action_repeat(found: list[Run], problems: list[str]) -> list[Run]:
    """Keep the runs with the most common action repeat of each task."""
    repeats: dict[tuple[str, str], list[int]] = {}
    for run in found:
        task = (run.row["env"], run.row["task"])
        repeats.setdefault(task, []).append(run.row["action_repeat"])
    kept = []
    for run in found:
        task = (run.row["env"], run.row["task"])
        usual = max(sorted(set(repeats[task]), reverse=True), key=repeats[task].count)
        if run.row["action_repeat"] == usual:
            kept.append(run)
        else:
            problems.append(
                f"{run.row['path']}: action repeat {run.row['action_repeat']}, but {usual} in "
                f"{repeats[task].count(usual)} other run(s) of {'/'.join(task)}. Left out."
            )
    return kept


def _mixed_settings(found: list[Run]) -> list[str]:
    """Report the settings in which the seeds of a variant differ."""
    groups: dict[str, list[Run]] = {}
    for run in found:
        groups.setdefault("/".join(run.row[key] for key in RUN[:3]), []).append(run)
    sentences = []
    for name, runs in groups.items():
        first, *others = (dict(_leaves(run.config)) for run in runs)
        mixed = {
            key
            for other in others
            for key in first.keys() | other.keys()
            if first.get(key) != other.get(key)
        }
        if mixed:
            sentences.append(f"{name}: the averaged seeds differ in {', '.join(sorted(mixed))}.")
    return sentences


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings that define an experiment, by dotted key."""
    if isinstance(value, dict):
        for key, child in value.items():
            whole = f"{prefix}.{key}" if prefix else str(key)
            if whole not in MAY_DIFFER:
                yield from _leaves(child, whole)
    else:
        yield prefix, value
