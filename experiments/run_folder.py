"""One run folder: what ran there, how far it came, and its curve.

`experiments/runs.py` reads many through it. It reads what a run leaves on disk (config.yaml,
metrics.jsonl, summary.json, failure.txt, lock, checkpoints/) and never writes there.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from dreamer.run.migrate import migrate
from experiments import published
from experiments.sweep.state import read_state

MARKS = {"config.yaml", "metrics.jsonl", "summary.json", "failure.txt"}  # of a run folder
NEEDED = ("env_name", "task", "seed", "total_frames", "experiment_name", "env")
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times faster


class Run(NamedTuple):
    """One run.

    Attributes:
        row: env, task, variant, seed, state, frames, total_frames, updates, action_repeat,
            last_score, best_score, eval_return (the latest evaluation's mean) and path.
        points: its curve, frames, score (mean raw return of the training episodes since the point
            before) and episodes (how many those are), by frames.
        config: what it was told.
        problems: what could be read in part only, a sentence each.
    """

    row: dict[str, Any]
    points: pd.DataFrame
    config: dict[str, Any]
    problems: list[str]


class UnusableError(ValueError):
    """Why nothing can be said of a folder's run."""


def run_folders(folder: Path) -> Iterator[Path]:
    """Every run folder in and under a folder, by name; nothing inside a run is searched."""
    for path, below, files in os.walk(folder):
        below.sort(key=_by_number)
        if MARKS & set(files):
            below.clear()
            yield Path(path)


def _by_number(name: str) -> list[str]:
    """Order seed9 before seed10."""
    return [part.zfill(12) for part in re.split(r"(\d+)", name)]


def read_run(path: Path) -> Run:
    """Read one run folder.

    Raises:
        UnusableError: Its configuration cannot be read, so that nothing says what ran.
    """
    cfg = _config(path / "config.yaml")
    lines, unreadable = _lines(path / "metrics.jsonl")
    problems = []
    if unreadable:
        problems.append(f"{path}: {unreadable} unreadable line(s) of metrics.jsonl left out.")
    points = _points(lines)
    repeated = points["frames"].duplicated(keep="last")
    if repeated.any():
        problems.append(
            f"{path}: {repeated.sum()} point(s) of metrics.jsonl at a frame count that comes again "
            "left out."
        )
    points = points[~repeated].sort_values("frames", ignore_index=True)

    def latest(key: str) -> Any:
        return next((line[key] for line in reversed(lines) if line.get(key) is not None), None)

    row = {
        "env": str(cfg["env_name"]),
        "task": _task(cfg),
        "variant": _variant(cfg, path),
        "seed": str(cfg["seed"]),
        "state": read_state(path).phase,
        "frames": max((line["frames"] for line in lines), default=0),
        "total_frames": int(cfg["total_frames"]),
        "updates": int(latest("updates") or 0),
        "action_repeat": int(cfg["env"].get("action_repeat", 1)),
        "last_score": points["score"].iloc[-1] if len(points) else math.nan,
        "best_score": points["score"].max(),
        "eval_return": latest("eval/return_mean"),
        "path": str(path),
    }
    return Run(row, points, cfg, problems)


def _config(path: Path) -> dict[str, Any]:
    try:
        cfg = yaml.load(path.read_text(), Loader=_YAML)
    except FileNotFoundError:
        raise UnusableError("there is no config.yaml, so nothing says what ran") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnusableError(f"config.yaml cannot be read ({type(error).__name__})") from error
    missing = [key for key in NEEDED if not isinstance(cfg, dict) or cfg.get(key) is None]
    if missing:
        raise UnusableError(f"config.yaml is not that of a run, it lacks {', '.join(missing)}")
    if not isinstance(cfg["env"], dict) or not isinstance(cfg["total_frames"], int):
        raise UnusableError("config.yaml is not that of a run, for its `env` or `total_frames`")
    try:
        return migrate(cfg)
    except ValueError as error:
        raise UnusableError(str(error)) from error


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file of JSON lines that have a frame count, and how many lines do not."""
    try:
        raw = path.read_bytes().splitlines()
    except OSError:
        return [], 0
    lines = []
    for text in raw:
        try:
            line = json.loads(text)
            line["frames"] = int(line["frames"])
            lines.append(line)
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
    return lines, len(raw) - len(lines)


def _points(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """The returns among the lines: frames, score and episodes, in the order of the file."""
    points, before = [], 0.0
    for line in lines:
        score, ended = line.get("collect/return"), line.get("collect/episodes")
        if not isinstance(score, int | float) or not math.isfinite(score):
            continue
        ended = ended if isinstance(ended, int | float) else before + 1
        points.append((line["frames"], float(score), max(ended - before, 1)))
        before = ended
    return pd.DataFrame(points, columns=["frames", "score", "episodes"])


def _task(cfg: dict[str, Any]) -> str:
    """The task's name; a game of the paper is called as there, however it was typed."""
    task = str(cfg["task"])
    return (published.game(task) or task) if cfg["env_name"] == "atari" else task


def _variant(cfg: dict[str, Any], path: Path) -> str:
    """The variant, from the configuration or from <env>/<task>/<variant>/seed<seed>."""
    if cfg.get("variant"):
        return str(cfg["variant"])
    in_layout = path.name == f"seed{cfg['seed']}" and path.parts[-3:-2] == (str(cfg["task"]),)
    return path.parts[-2] if in_layout else str(cfg["experiment_name"])
