"""Notes and warnings about the data: what is unfinished, missing, mixed or left out.

`experiments/results.py` adds them to the results. Functions take tables and return sentences.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from experiments import published, tables
from experiments.sweep.record import read_jobs

LISTED = 6  # maximum number of items in a sentence

INTERVALS = (
    "Intervals: 95 %, bootstrap over the seeds of each task; rough with few seeds, none with one."
)


def listed(things: Iterable[str]) -> str:
    """Join items, and count those after the first few."""
    named = list(things)
    more = f", and {len(named) - LISTED} more" if len(named) > LISTED else ""
    return ", ".join(named[:LISTED]) + more


def names(runs: pd.DataFrame) -> str:
    """Name runs as task/variant/seed."""
    return listed(f"{run.task}/{run.variant}/seed{run.seed}" for run in runs.itertuples())


def states(runs: pd.DataFrame) -> list[str]:
    """Count the runs by state, and give the progress of unfinished ones."""
    counts = ", ".join(f"{n} {state}" for state, n in runs["state"].value_counts().items())
    open_runs = runs[runs["state"].isin(["running", "interrupted", "empty"])]
    far = [
        f"{run.task}/{run.variant}/seed{run.seed} "
        f"({run.frames:,} of {run.total_frames:,} {run.counter})"
        for run in open_runs.itertuples()
    ]
    sentences = [f"{len(runs)} run(s): {counts}."]
    return sentences + ([f"Not finished: {listed(far)}."] if far else [])


def failures(runs: pd.DataFrame) -> list[str]:
    """Return the last line of each failed run's failure.txt."""
    sentences = []
    for path in runs.loc[runs["state"] == "failed", "path"]:
        try:
            text = (Path(path) / "failure.txt").read_text(errors="replace")
        except OSError:  # restarted since
            continue
        words = text.strip().splitlines()
        sentences.append(f"{path}: failed: {words[-1] if words else 'no message'}")
    return sentences


def missing(folder: Path) -> list[str]:
    """Count the runs of sweeps in a folder that have not begun, and name the first of them."""
    asked = read_jobs(folder)
    absent = [name for name in asked if not (folder / name / "config.yaml").exists()]
    if not absent:
        return []
    return [f"{len(absent)} of {len(asked)} runs of the sweep have not begun: {listed(absent)}."]


def without_score(runs: pd.DataFrame) -> list[str]:
    """Name the runs that have logged no return, so that no table contains them."""
    absent = runs[runs["last_score"].isna()]
    return [f"No score yet, as no return has been logged: {names(absent)}."] if len(absent) else []


def budgets(runs: pd.DataFrame) -> list[str]:
    """List the tasks whose runs have different lengths."""
    sentences = []
    for (env, task, counter), part in runs.groupby(["env", "task", "counter"]):
        counts = part["total_frames"].value_counts().sort_index()
        if len(counts) > 1:
            lengths = ", ".join(f"{n} of {frames:,}" for frames, n in counts.items())
            count = "frame count" if counter == "frames" else "number of updates"
            sentences.append(
                f"{env}/{task}: runs of different lengths ({lengths} {counter}) are compared at "
                f"one {count}."
            )
    return sentences


def read_at(env: str, runs: pd.DataFrame, frames: int, counter: str = "frames") -> list[str]:
    """List the runs, as from `tables.at_frames`, with an older score or none."""
    late, short = runs[runs["score"].isna()], runs[runs["short"]]
    sentences = []
    if len(late):
        sentences.append(f"{env}: no score yet at {frames:,} {counter}: {names(late)}.")
    if len(short):
        sentences.append(
            f"{env}: {len(short)} of {len(runs)} runs end before {frames:,} {counter} and count "
            f"with their last score: {names(short)}."
        )
    return sentences


def shared(env: str, runs: pd.DataFrame) -> list[str]:
    """Report which tasks the aggregates over tasks cover, and which they leave out."""
    there = runs.dropna(subset="score")
    everything, common = list(dict.fromkeys(there["task"])), tables.shared_tasks(runs)
    sentences = []
    if left := [task for task in everything if task not in common]:
        sentences.append(
            f"{env}: left out of numbers over all tasks, as not every variant has a score there: "
            f"{listed(left)}."
        )
    if env == "atari":
        games = [task for task in common if task in published.games()]
        sentences.append(
            f"atari: aggregates are over {len(games)} of the paper's {len(published.games())} "
            "games."
        )
        if unknown := [task for task in common if task not in games]:
            sentences.append(
                "atari: left out of the aggregates, not among the paper's games: "
                f"{listed(unknown)}."
            )
    return sentences
