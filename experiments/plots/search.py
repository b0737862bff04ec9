"""Figures of a search: values by trial, importances of keys, and values by each key.

`experiments/search/report.py` makes the table that they draw. They know neither Optuna nor runs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

import experiments.plots.style as style

FINISHED, PRUNED = "finished", "pruned"
HISTORY_TEXT = (
    "Values by trial. Filled: trials that ran to their end; hollow: trials that were stopped "
    "early, with their latest value. The line is the best value so far; only ends count."
)
IMPORTANCE_TEXT = (
    "Importance of each key: its share in the variance of the values of trials that ran to their "
    "end (fANOVA). With few trials, the order is uncertain."
)
SLICES_TEXT = (
    "A panel for each key, the most important first; a dot is a trial. Hollow: stopped early. "
    "Orange: the best. The other keys vary, too."
)
COLUMNS = 3
DOT = 16  # square points


class SearchTable(NamedTuple):
    """The trials of a search.

    Attributes:
        trials: a row per trial: trial (number), state, value, and a column per key.
        names: short names of the keys, by key; the columns are the keys.
        log: keys that are sampled on a logarithmic scale.
        importance: by key, the largest first; may be empty.
        metric: what the value is, for axes.
        is_maximized: whether larger values are better.
        best: number of the best trial; None if none ran to its end.
    """

    trials: pd.DataFrame
    names: Mapping[str, str]
    log: Sequence[str]
    importance: Mapping[str, float]
    metric: str
    is_maximized: bool
    best: int | None


def search_figures(table: SearchTable, out: Path) -> list[tuple[Path, str]]:
    """Draw the figures of a search as PNG and PDF; returns the PNG files with their captions."""
    if table.trials["value"].dropna().empty:
        return []
    found = [(style.save(history(table), out / "history"), HISTORY_TEXT)]
    if table.importance:
        found.append((style.save(importance(table), out / "importance"), IMPORTANCE_TEXT))
    return [*found, (style.save(slices(table), out / "slices"), SLICES_TEXT)]


def history(table: SearchTable) -> Figure:
    """Draw the value of every trial, and the best so far."""
    figure, (axis,) = style.panels(1, columns=1, width=5.5, height=2.4)
    _dots(axis, table, table.trials["trial"])
    done = table.trials[table.trials["state"] == FINISHED]
    if len(done):
        values = done["value"].to_numpy()
        highest = np.maximum if table.is_maximized else np.minimum
        axis.step(
            done["trial"], highest.accumulate(values), where="post", color=style.GREY, zorder=1
        )
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlabel("trial", fontsize=style.NORMAL)
    axis.set_ylabel(table.metric, fontsize=style.NORMAL)
    return figure


def importance(table: SearchTable) -> Figure:
    """Draw a bar per key."""
    count = len(table.importance)
    figure, (axis,) = style.panels(1, columns=1, width=5.5, height=0.24 * count + 0.8)
    axis.barh(range(count), list(table.importance.values()), color=style.BLUE, height=0.7)
    axis.set_yticks(range(count), [table.names[key] for key in table.importance])
    axis.set_ylim(count - 0.4, -0.6)  # the first on top
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axis.set_xlabel("importance", fontsize=style.NORMAL)
    return figure


def slices(table: SearchTable) -> Figure:
    """Draw a panel per key: the value of every trial over what the key was."""
    keys = [*table.importance, *(key for key in table.names if key not in table.importance)]
    columns = min(len(keys), COLUMNS)
    figure, axes = style.panels(len(keys), columns=columns, width=2.6, height=2.0)
    for i, (axis, key) in enumerate(zip(axes, keys, strict=True)):
        given = table.trials[key]
        is_number = all(type(x) in (int, float) for x in given.dropna())
        if key in table.log:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(numticks=5))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_minor_formatter(NullFormatter())
        if is_number:
            places: pd.Series = given.astype(float)
        else:
            texts = given.map(_text)
            order = sorted(texts.unique())
            places = texts.map(order.index)
            axis.set_xticks(range(len(order)), order)
            axis.set_xlim(-0.5, len(order) - 0.5)
        _dots(axis, table, places)
        axis.set_xlabel(table.names[key], fontsize=style.NORMAL)
        if i % columns == 0:
            axis.set_ylabel(table.metric, fontsize=style.NORMAL)
    return figure


def _dots(axis: Axes, table: SearchTable, places: pd.Series) -> None:
    """Draw a dot per trial that has a value; the best on top."""
    trials = table.trials
    for state, face in ((PRUNED, "none"), (FINISHED, style.BLUE)):
        of_state = (trials["state"] == state) & trials["value"].notna()
        shown = trials[of_state]
        axis.scatter(
            places[of_state],
            shown["value"],
            s=DOT,
            facecolors=face,
            edgecolors=style.BLUE,
            alpha=0.8,
        )
    is_best = trials["trial"] == table.best
    axis.scatter(
        places[is_best], trials.loc[is_best, "value"], s=2 * DOT, color=style.VERMILION, zorder=4
    )


def _text(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value))
