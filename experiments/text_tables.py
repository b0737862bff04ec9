"""Tidy tables arranged for people: rows and columns of text, for terminal and page alike.

The report uses it. It computes nothing; `experiments/tables.py` says what the tidy tables hold.
"""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from experiments import published
from experiments.tables import PEOPLE, TABLE_1

AGGREGATES = (*TABLE_1, "gamer_interquartile_mean", "gamer_optimality_gap")


def aggregates(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant, one column per aggregate over games; no rows if there are none."""
    wide: dict[str, dict[str, str]] = {}
    for row in table[table["measure"].isin(AGGREGATES)].to_dict("records"):
        cells = wide.setdefault(row["variant"], {"games": str(row["tasks"]), "runs": runs(row)})
        cells[row["measure"].replace("_", " ")] = interval(row)
    return pd.DataFrame.from_dict(wide, "index").rename_axis("variant")


def per_task(table: pd.DataFrame) -> pd.DataFrame:
    """One row per task, one column per variant: mean score, 95 % interval, and how many runs.

    Beside an Atari game, what random play, the professional gamer and the world record have.
    """
    wide: dict[str, dict[str, str]] = {}
    for row in table[table["measure"] == "score"].to_dict("records"):
        wide.setdefault(row["task"], {})[row["variant"]] = f"{interval(row)} ({runs(row)})"
    tasks = pd.DataFrame.from_dict(wide, "index").fillna("missing").rename_axis("task")
    if (table["env"] != "atari").any():
        return tasks
    people = published.baselines()[list(PEOPLE)].rename(columns=lambda name: name.split("_")[-1])
    return tasks.join(people.map(number, na_action="ignore")).fillna("-")


def improvement(table: pd.DataFrame) -> pd.DataFrame:
    """The probability that a run of the row's variant beats one of the column's; NaN for itself."""
    wide: dict[str, dict[str, str]] = {}
    for row in table.to_dict("records"):
        measure, _, other = row["measure"].partition(":")
        if measure == "probability_of_improvement":
            wide.setdefault(row["variant"], {})[other] = interval(row)
    return pd.DataFrame.from_dict(wide, "index", columns=list(wide)).rename_axis("variant")


def interval(row: Mapping[Hashable, Any]) -> str:
    """`value [low, high]`, or the value alone where there is no interval."""
    if math.isnan(row["low"]):
        return number(row["value"])
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"


def runs(row: Mapping[Hashable, Any]) -> str:
    """How many runs a number rests on, and how many of them ended early."""
    return f"{row['runs']}, {row['short_runs']} short" if row["short_runs"] else str(row["runs"])


def number(value: float) -> str:
    """Three digits after the point below 10, two below 100, none from 1000 on."""
    size = abs(value)
    digits = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{digits}f}"
