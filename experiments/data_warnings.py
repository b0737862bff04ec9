"""What a reader of numbers must know: what is unfinished, missing, mixed or left out, in sentences.

`experiments/results.py` puts them next to the numbers. Tables come in, sentences go out.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from experiments import published, tables

LISTED = 6  # a sentence names so many things at most

INTERVALS = (
    "Intervals: 95 %, bootstrap over the seeds of each task; rough with few seeds, none with one."
)


def listed(things: Iterable[str]) -> str:
    """Name things, and count those beyond the first few."""
    named = list(things)
    more = f", and {len(named) - LISTED} more" if len(named) > LISTED else ""
    return ", ".join(named[:LISTED]) + more


def names(runs: pd.DataFrame) -> str:
    """Name runs as task/variant/seed."""
    return listed(f"{run.task}/{run.variant}/seed{run.seed}" for run in runs.itertuples())


def states(runs: pd.DataFrame) -> list[str]:
    """How many runs there are in which state, and how far those are that go on."""
    counts = ", ".join(f"{n} {state}" for state, n in runs["state"].value_counts().items())
    open_runs = runs[runs["state"].isin(["running", "interrupted", "empty"])]
    far = [
        f"{run.task}/{run.variant}/seed{run.seed} ({run.frames:,} of {run.total_frames:,} frames)"
        for run in open_runs.itertuples()
    ]
    sentences = [f"{len(runs)} run(s): {counts}."]
    return sentences + ([f"Not finished: {listed(far)}."] if far else [])


def failures(runs: pd.DataFrame) -> list[str]:
    """The last line of what each failed run left."""
    sentences = []
    for path in runs.loc[runs["state"] == "failed", "path"]:
        try:
            text = (Path(path) / "failure.txt").read_text(errors="replace")
        except OSError:  # begun again since
            continue
        words = text.strip().splitlines()
        sentences.append(f"{path}: failed: {words[-1] if words else 'without a word'}")
    return sentences


def missing(runs: pd.DataFrame) -> list[str]:
    """The runs that an env's grid of variants, tasks and seeds lacks.

    A variant's seeds are those that it has on any task; that variants have different ones is said
    apart.
    """
    sentences = []
    for env, part in runs.groupby("env"):
        seeds = {str(name): set(of["seed"]) for name, of in part.groupby("variant", sort=False)}
        absent = []
        for task, of_task in part.groupby("task", sort=False):
            for variant, wanted in seeds.items():
                there = set(of_task.loc[of_task["variant"] == variant, "seed"])
                if not there:
                    absent.append(f"{task}/{variant} (no seed)")
                elif wanted - there:
                    absent.append(f"{task}/{variant} (seed {_in_order(wanted - there)})")
        if absent:
            sentences.append(f"{env}: no run of {listed(absent)}.")
        if len({frozenset(of) for of in seeds.values()}) > 1:
            each = "; ".join(f"{variant} {_in_order(of)}" for variant, of in seeds.items())
            sentences.append(f"{env}: variants have different seeds: {each}.")
    return sentences


def budgets(runs: pd.DataFrame) -> list[str]:
    """The tasks whose runs are not all meant to be of one length."""
    sentences = []
    for (env, task), part in runs.groupby(["env", "task"]):
        counts = part["total_frames"].value_counts().sort_index()
        if len(counts) > 1:
            lengths = ", ".join(f"{n} of {frames:,}" for frames, n in counts.items())
            sentences.append(
                f"{env}/{task}: runs of different lengths ({lengths} frames) are compared at one "
                "frame count."
            )
    return sentences


def read_at(env: str, runs: pd.DataFrame, frames: int) -> list[str]:
    """The runs, as of `tables.at_frames`, that have no score at a frame count, or an older one."""
    late, short = runs[runs["score"].isna()], runs[runs["short"]]
    sentences = []
    if len(late):
        sentences.append(f"{env}: no score yet at {frames:,} frames: {names(late)}.")
    if len(short):
        sentences.append(
            f"{env}: {len(short)} of {len(runs)} runs end before {frames:,} frames and count with "
            f"their last score: {names(short)}."
        )
    return sentences


def shared(env: str, runs: pd.DataFrame) -> list[str]:
    """Over which tasks the numbers over all tasks are, and which were left out of them."""
    there = runs.dropna(subset="score")
    everything, common = list(dict.fromkeys(there["task"])), tables.shared_tasks(runs)
    sentences = []
    if left := [task for task in everything if task not in common]:
        sentences.append(
            f"{env}: left out of what is said over all tasks, since not every variant has a score "
            f"there: {listed(left)}."
        )
    if env == "atari":
        games = [task for task in common if task in published.games()]
        sentences.append(
            f"atari: aggregates are over {len(games)} of the paper's {len(published.games())} "
            "games."
        )
        if strange := [task for task in common if task not in games]:
            sentences.append(
                "atari: left out of the aggregates, not among the paper's games: "
                f"{listed(strange)}."
            )
    return sentences


def _in_order(seeds: Iterable[str]) -> str:
    return ", ".join(sorted(seeds, key=lambda seed: (len(seed), seed)))
