"""Scores at one frame count: differences per game (Figure E1), and every run of every variant.

It reads one score per run, as from `experiments.tables.at_frames`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

import experiments.plots.style as style
from experiments import published, scores
from experiments.plots.style import FULL_AGENT, readable

DIFFERENCES_TEXT = (
    "Each bar is the difference of the two agents' gamer-normalised scores; raw scores are "
    "averaged over seeds. The axis is linear between -1 and 1 and logarithmic beyond, so that a "
    "few games do not hide the others; the lengths of long bars are not comparable."
)
TICKS = (-100, -1, 1, 100)  # the black line is zero
FINALS_TEXT = (
    "A dot is a run, hollow if it stopped early; the black mark is the mean, the line the range of "
    "seeds. Dotted: the mean of the full agent."
)


def gamer_differences(runs: pd.DataFrame, agent: str, other: str) -> pd.Series:
    """Compute the differences of two agents' gamer-normalised scores, game by game.

    Args:
        runs: as from `at_frames`, on Atari games with their published names.
        agent: a variant.
        other: the variant to compare it with.

    Returns:
        By task, the largest first: the normalised score of `agent` minus that of `other`, for
        games that both have.
    """
    means = (
        runs.dropna(subset=["score"]).groupby(["variant", "task"], observed=True)["score"].mean()
    )
    both = pd.concat([means.loc[agent], means.loc[other]], axis=1, join="inner")
    references = published.baselines().loc[both.index]
    first, second = (
        scores.normalize(both.iloc[:, i], references["random"], references["human_gamer"])
        for i in (0, 1)
    )
    return pd.Series(first - second, both.index).sort_values(ascending=False)


def score_differences(runs: pd.DataFrame, agent: str, others: Sequence[str]) -> Figure:
    """Draw a panel per other agent: a bar per game, the largest gain on top, as in Figure E1.

    Args:
        runs: as from `at_frames`, on Atari games with their published names.
        agent: the variant whose gains point to the right.
        others: variants to compare it with.
    """
    bars = [gamer_differences(runs, agent, other) for other in others]
    most = max(len(x) for x in bars)
    lowest, highest = (float(pick([pick(x) for x in bars])) for pick in (min, max))
    limits = (1.4 * min(-1.0, lowest), 1.4 * max(1.0, highest))
    columns = min(len(others), 4)
    figure, axes = style.panels(
        len(others), columns=columns, width=9.2 / max(columns, 2), height=0.135 * most + 0.9
    )
    for axis, other, differences in zip(axes, others, bars, strict=True):
        _draw_differences(axis, differences)
        axis.set_xlim(limits)  # the same in all panels, to be comparable
        axis.set_title(f"{readable(agent)} vs {readable(other)}", fontsize=style.NORMAL)
        axis.set_ylim(len(differences) - 0.4, -0.6)  # the first on top
    figure.supxlabel("difference of gamer-normalised scores", fontsize=style.NORMAL)
    return figure


def _draw_differences(axis: Axes, differences: pd.Series) -> None:
    rows = np.arange(len(differences))
    colors = [style.BLUE if x >= 0 else style.VERMILION for x in differences]
    axis.barh(rows, differences, color=colors, height=0.75)
    axis.set_yticks(rows, [readable(str(task)) for task in differences.index])
    axis.tick_params(axis="y", labelsize=style.SMALL - 1, length=0, pad=1)
    axis.set_xscale("symlog", linthresh=1)
    axis.xaxis.set_major_locator(FixedLocator(TICKS))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(style.short_number))
    axis.axvline(0, color="black", linewidth=0.6)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="x", labelsize=style.SMALL - 1)
    axis.grid(visible=False, axis="y")
    axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)


def final_scores(runs: pd.DataFrame) -> Figure:
    """Draw a panel per task: every run of every variant as a dot.

    Args:
        runs: as from `at_frames`, of one environment.
    """
    looks = style.variant_styles(runs["variant"])
    tasks = sorted(runs["task"].unique())
    names = [readable(variant) for variant in looks]
    columns = style.columns_of(len(tasks))
    figure, axes = style.panels(
        len(tasks), columns=columns, width=3.0, height=0.26 * len(looks) + 0.9
    )
    for i, (axis, task) in enumerate(zip(axes, tasks, strict=True)):
        of_task = runs[(runs["task"] == task) & runs["score"].notna()]
        for row, (variant, look) in enumerate(looks.items()):
            _draw_runs(axis, row, of_task[of_task["variant"] == variant], look.color)
        full = of_task.loc[of_task["variant"] == FULL_AGENT, "score"]
        if len(full):
            axis.axvline(full.mean(), color=style.GREY, linestyle=":", linewidth=1)
        axis.set_yticks(range(len(looks)), names if i % columns == 0 else [""] * len(names))
        axis.set_ylim(len(looks) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        axis.set_title(readable(task), fontsize=style.LARGE)
    for axis in axes[-columns:]:
        axis.set_xlabel("return of the training episodes", fontsize=style.NORMAL)
    if runs["short"].any():
        handles = [_dot("a run", style.GREY), _dot("a run that stopped early", "white")]
        style.legend_below(figure, handles)
    return figure


def _dot(label: str, face: str) -> Line2D:
    dot = Line2D([], [], linestyle="none", marker="o", color=style.GREY, label=label)
    dot.set_markerfacecolor(face)
    return dot


def _draw_runs(axis: Axes, row: int, runs: pd.DataFrame, color: str) -> None:
    if runs.empty:
        place = {"transform": axis.get_yaxis_transform(), "va": "center", "ha": "center"}
        axis.text(0.5, row, "no score", fontsize=style.SMALL, color=style.GREY, **place)
        return
    values = runs["score"]
    axis.hlines(row, values.min(), values.max(), color=color, linewidth=1.2, alpha=0.6)
    faces = ["white" if short else color for short in runs["short"]]
    axis.scatter(values, [row] * len(values), s=22, c=faces, edgecolors=color, zorder=3)
    axis.plot(values.mean(), row, "|", color="black", markersize=11, markeredgewidth=1.6, zorder=4)
