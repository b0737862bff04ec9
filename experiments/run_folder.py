"""Reads one run folder: settings, progress and curve.

`experiments/runs.py` uses it to read many. It reads the files of a run (config.yaml, metrics.jsonl,
summary.json, failure.txt, lock, checkpoints/) and never writes.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamer.files import MLFLOW_ARTIFACTS
from dreamer.run.migrate import migrate
from dreamer.run.variant import variant_of
from experiments import published
from experiments.measures import DIFFERENCES, EVALUATION, KEYS, RETURN
from experiments.sweep.state import read_state

RUN_FILES = {
    "config.yaml",
    "metrics.jsonl",
    "summary.json",
    "failure.txt",
}  # any of them marks a run folder
REQUIRED_KEYS = ("env_name", "task", "seed", "total_frames", "experiment_name", "env")
MAX_SCORE = 1e100  # larger returns are errors; their squares overflow
DEBUG = "debug"  # experiment_name of debug=fast
THINNED = 1000  # maximum number of points of a key that reports keep of a run
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times faster


class Run(NamedTuple):
    """One run.

    Attributes:
        row: env, task, variant, seed, state, frames, total_frames, updates, counter (what frames
            and total_frames count: frames, or updates of a run that collects nothing),
            action_repeat, last_score, best_score, eval_return (the latest evaluation's mean), debug
            (whether it is of debug=fast) and path.
        points: its curve: frames, score (mean raw return of the training episodes since the last
            point) and episodes (their number), in the order of frames. Of a run that collects
            nothing, the returns are those of its evaluations.
        numbers: what else it logged: frames, key, score (the value), episodes (its weight) and
            counter, of the keys that reports draw.
        config: its configuration.
        problems: sentences about unreadable or repeated data.
    """

    row: dict[str, Any]
    points: pd.DataFrame
    numbers: pd.DataFrame
    config: dict[str, Any]
    problems: list[str]


class UnusableError(ValueError):
    """The run in a folder cannot be read."""


def run_folders(folder: Path) -> Iterator[Path]:
    """Find all run folders in and under a folder, by name.

    Run folders are not searched, nor are MLflow's copies of their files.
    """
    for path, below, files in os.walk(folder):
        below[:] = sorted((name for name in below if name != MLFLOW_ARTIFACTS), key=_by_number)
        if RUN_FILES & set(files):
            below.clear()
            yield Path(path)


def _by_number(name: str) -> list[str]:
    """Return a sort key that orders seed9 before seed10."""
    return [part.zfill(12) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def read_run(path: Path) -> Run:
    """Read one run folder.

    Raises:
        UnusableError: The configuration cannot be read.
    """
    problems = []
    try:
        cfg = _config(path / "config.yaml")
    except UnusableError as error:
        try:
            cfg = _config(path / "checkpoints" / "config.yaml")
        except UnusableError:
            raise error from None
        problems.append(f"{path}: {error}. Its copy in checkpoints/ is used.")
    lines, unreadable = read_lines(path / "metrics.jsonl")
    if (path / "metrics.jsonl").is_dir():
        problems.append(f"{path}: metrics.jsonl is a folder. The run counts without a curve.")
    if unreadable:
        problems.append(f"{path}: {unreadable} unreadable line(s) of metrics.jsonl. Left out.")
    counter = _counter(cfg)
    points = _points(lines, RETURN, "collect/episodes")
    if counter == "updates":
        points = _points(lines, EVALUATION, None)
    is_huge = points["score"].abs() > MAX_SCORE
    if is_huge.any():
        problems.append(
            f"{path}: {is_huge.sum()} point(s) of metrics.jsonl with a return beyond "
            f"{MAX_SCORE:g}. Left out."
        )
    points = points[~is_huge]
    if points.empty and any(RETURN in line for line in lines):
        problems.append(f"{path}: metrics.jsonl has returns, and none can be used.")
    repeated = points["frames"].duplicated(keep="last")
    if repeated.any():
        problems.append(
            f"{path}: {repeated.sum()} point(s) of metrics.jsonl with a repeated frame count. "
            "Left out."
        )
    points = points[~repeated].sort_values("frames", ignore_index=True)

    def latest(key: str) -> Any:
        values = (line.get(key) for line in reversed(lines))
        return next((x for x in values if isinstance(x, int | float) and abs(x) <= MAX_SCORE), None)

    row = {
        "env": str(cfg["env_name"]),
        "task": _task(cfg),
        "variant": _variant(cfg, path),
        "seed": str(cfg["seed"]),
        "state": read_state(path).phase,
        "frames": max((line["frames"] for line in lines), default=0),
        "total_frames": int(cfg.get(f"total_{counter}") or 0),
        "counter": counter,
        "updates": int(latest("updates") or 0),
        "action_repeat": int(cfg["env"].get("action_repeat", 1)),
        "last_score": points["score"].iloc[-1] if len(points) else math.nan,
        "best_score": points["score"].max(),
        "eval_return": latest(EVALUATION),
        "debug": cfg["experiment_name"] == DEBUG,
        "path": str(path),
    }
    return Run(row, points, _numbers(lines).assign(counter=counter), cfg, problems)


def _counter(cfg: dict[str, Any]) -> str:
    """Return the x axis of a run: updates if it collects nothing, else frames."""
    collect = cfg.get("collect")
    return "updates" if isinstance(collect, dict) and collect.get("where") == "none" else "frames"


def _config(path: Path) -> dict[str, Any]:
    try:
        cfg = yaml.load(path.read_text(), Loader=_YAML)
    except FileNotFoundError:
        raise UnusableError("there is no config.yaml") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnusableError(f"config.yaml cannot be read ({type(error).__name__})") from error
    missing = [key for key in REQUIRED_KEYS if not isinstance(cfg, dict) or cfg.get(key) is None]
    if missing:
        raise UnusableError(f"config.yaml must have the keys of a run, got no {', '.join(missing)}")
    if not isinstance(cfg["env"], dict) or not isinstance(cfg["total_frames"], int):
        raise UnusableError("`env` in config.yaml must be a mapping, `total_frames` a number")
    try:
        return migrate(cfg)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnusableError(f"config.yaml cannot be converted: {error}") from error


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the objects of a JSON-lines file with a count, and the number of other lines.

    The count is `frames`, also of a run that has only `updates`.
    """
    try:
        raw = path.read_bytes().splitlines()
    except OSError:
        return [], 0
    lines = []
    for text in raw:
        try:
            line = json.loads(text)
            line["frames"] = int(line["frames"] if "frames" in line else line["updates"])
            lines.append(line)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
    return lines, len(raw) - len(lines)


def _points(lines: list[dict[str, Any]], key: str, total: str | None) -> pd.DataFrame:
    """Extract the returns: frames, score and episodes, in the order of the file.

    Args:
        lines: Of the file.
        key: Of the returns.
        total: Of the number of episodes since the beginning; None: all points count the same.
    """
    points, before = [], 0.0
    for line in lines:
        score, ended = line.get(key), total and line.get(total)
        if not isinstance(score, int | float) or not math.isfinite(score):
            continue
        ended = ended if isinstance(ended, int | float) else before + 1
        points.append((line["frames"], float(score), max(ended - before, 1)))
        before = ended
    return pd.DataFrame(points, columns=["frames", "score", "episodes"])


def _numbers(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Extract the keys that reports draw, but returns: frames, key, score and episodes."""
    columns: dict[str, list[Any]] = {"frames": [], "key": [], "score": [], "episodes": []}
    for key in KEYS:
        found = {line["frames"]: x for line in lines if (x := _value(line, key)) is not None}
        if found and key != RETURN:
            rows = list(zip(*_thinned(sorted(found.items())), strict=True))
            for name, values in zip(("frames", "score", "episodes"), rows, strict=True):
                columns[name] += values
            columns["key"] += [key] * len(rows[0])
    return pd.DataFrame(columns)


def _value(line: dict[str, Any], key: str) -> float | None:
    if key in DIFFERENCES:
        first, second = (_value(line, part) for part in DIFFERENCES[key])
        return None if first is None or second is None else first - second
    value = line.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float, int]]:
    """Average neighbours, so that a long run has a bounded number of points.

    Returns:
        The frames of the last of the neighbours, their mean, and their number.
    """
    size = -(-len(points) // THINNED)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(x for _, x in group) / len(group), len(group)) for group in groups]


def _task(cfg: dict[str, Any]) -> str:
    """Return the name of the task; games of the paper have the published spelling."""
    task = str(cfg["task"])
    return (published.game(task) or task) if cfg["env_name"] == "atari" else task


def _variant(cfg: dict[str, Any], path: Path) -> str:
    """Return the variant, which the configuration names wherever the run folder is.

    Earlier versions did not write it if it was the default. Then it is computed, as when the run
    began; a configuration without switches has it in the path, <env>/<task>/<variant>/seed<seed>.
    """
    if cfg.get("variant"):
        return str(cfg["variant"])
    if cfg.get("switches"):
        with suppress(ValueError, OmegaConfBaseException):
            return variant_of(OmegaConf.create(cfg))
    standard = (*str(cfg["task"]).split("/"), path.parent.name, f"seed{cfg['seed']}")
    is_standard = path.parts[-len(standard) :] == standard
    return path.parent.name if is_standard else str(cfg["experiment_name"])
