"""Formats tidy tables as text, for the terminal and the page.

The report uses it. It computes nothing; `experiments/tables.py` makes the tidy tables.
"""

import math
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import published
from experiments.tables import REFERENCE_SCORES, TABLE_1

AGGREGATES = (*TABLE_1, "gamer_interquartile_mean", "gamer_optimality_gap")


def aggregates(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per variant and a column per aggregate over games; empty without games."""
    wide: dict[str, dict[str, str]] = {}
    for row in table[table["measure"].isin(AGGREGATES)].to_dict("records"):
        cells = wide.setdefault(row["variant"], {"games": str(row["tasks"]), "runs": runs(row)})
        cells[row["measure"].replace("_", " ")] = interval(row)
    return pd.DataFrame.from_dict(wide, "index").rename_axis("variant")


def per_task(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per task and a column per variant: mean score, 95 % interval, number of runs.

    For Atari games, also the scores of a random agent, a gamer and the world record.
    """
    wide: dict[str, dict[str, str]] = {}
    for row in table[table["measure"] == "score"].to_dict("records"):
        wide.setdefault(row["task"], {})[row["variant"]] = f"{interval(row)} ({runs(row)})"
    tasks = pd.DataFrame.from_dict(wide, "index").fillna("missing").rename_axis("task")
    if (table["env"] != "atari").any():
        return tasks
    references = published.baselines()[list(REFERENCE_SCORES)].rename(
        columns=lambda name: name.split("_")[-1]
    )
    return tasks.join(references.map(number, na_action="ignore")).fillna("-")


def run_list(runs: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return a row per run, with its progress and its returns; paths are relative to `folder`.

    A run that collects nothing has no frames, and its returns are those of evaluations.
    """
    counts = runs[["frames", "total_frames"]].astype("Int64")
    collects = runs["counter"] == "frames"
    table = pd.DataFrame(
        {
            "environment": runs["env"],
            "task": runs["task"],
            "variant": runs["variant"],
            "seed": runs["seed"],
            "state": runs["state"],
            "frames": counts["frames"].where(collects),
            "of frames": counts["total_frames"].where(collects),
            "updates": runs["updates"],
            "of updates": counts["total_frames"].where(~collects),
            "last return": runs["last_score"],
            "best return": runs["best_score"],
            "evaluation": runs["eval_return"].astype(float),
            "folder": [os.path.relpath(path, folder) for path in runs["path"]],
        }
    )
    unused = [x for x in ("frames", "of frames", "of updates") if table[x].isna().all()]
    return table.drop(columns=unused if len(table) else []).reset_index(drop=True)


def improvement(table: pd.DataFrame) -> pd.DataFrame:
    """Return the probabilities that a run of the row's variant beats one of the column's."""
    wide: dict[str, dict[str, str]] = {}
    for row in table.to_dict("records"):
        measure, _, other = row["measure"].partition(":")
        if measure == "probability_of_improvement":
            wide.setdefault(row["variant"], {})[other] = interval(row)
    return pd.DataFrame.from_dict(wide, "index", columns=list(wide)).rename_axis("variant")


def interval(row: Mapping[Hashable, Any]) -> str:
    """Format `value [low, high]`, or the value alone without an interval."""
    if math.isnan(row["low"]):
        return number(row["value"])
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"


def runs(row: Mapping[Hashable, Any]) -> str:
    """Format the number of runs, and of those that ended early."""
    return f"{row['runs']}, {row['short_runs']} short" if row["short_runs"] else str(row["runs"])


def number(value: float) -> str:
    """Format with three digits after the point below 10, two below 100, none from 1000 on."""
    size = abs(value)
    digits = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{digits}f}"
