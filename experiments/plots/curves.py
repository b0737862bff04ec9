"""Learning curves: the mean over seeds as a line, the lowest and highest seed as a band.

One panel per task, up to the 55 games of the paper's appendix, with published curves in the
background. It reads tables of curves (env, task, variant, seed, frames, score) and no files.
"""

from collections.abc import Sequence
from math import floor, log10
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import experiments.plots.style as style
from experiments.plots.style import PUBLISHED, PYDREAMER, plural, readable, short_number
from experiments.tables import RUN

# A run with this share of the frames of its variant's longest run counts as complete.
COMPLETE_SHARE = 0.95
BINS = 50
# A published curve that begins after this many times our last frame is not drawn.
MAX_FRAME_RATIO = 3
# With more panels than this they are small, five in a row, as in the paper's appendix.
MANY = 12
RETURN = "return of the training episodes"
REFERENCE_STYLES = {PUBLISHED: style.PUBLISHED_STYLE, PYDREAMER: style.PYDREAMER_STYLE}


class Band(NamedTuple):
    """Statistics over the seeds of one variant on one task.

    Attributes:
        frames: (P,) right edges of the bins.
        mean: (P,) over the seeds that have a score there.
        low: (P,) lowest seed.
        high: (P,) highest seed.
        seeds: number of runs.
        stops: frames at which runs end early; empty if all are complete.
    """

    frames: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int
    stops: list[int]


def band_text(bin_frames: int) -> str:
    """Explain line, band, cross and points of these figures."""
    return (
        "Line: mean over seeds; band: lowest to highest seed; one seed has no band. "
        "Cross: a run stops early, and the mean continues without it. "
        f"Each point averages the training episodes of {short_number(bin_frames)} frames."
    )


def bin_width(curves: pd.DataFrame, bins: int = BINS) -> int:
    """Choose 1, 2 or 5 times a power of ten frames, for 1 to 2.5 times `bins` bins."""
    target = max(1.0, float(curves["frames"].max()) / bins)
    power = 10 ** floor(log10(target))
    return int(power * max(step for step in (1, 2, 5) if step * power <= target))


def binned(curves: pd.DataFrame, width: int, *, by: Sequence[str] = RUN) -> pd.DataFrame:
    """Average the points of a run within bins, so that the seeds of a variant can be averaged.

    The point of a bin `(x - width, x]` is at x, its right edge, as in the published data.

    Args:
        curves: table of curves; the optional column `episodes` is the number of episodes averaged
            in a point.
        width: of a bin, frames.
        by: columns that identify a curve.

    Returns:
        A table of curves: one point per run and bin in which an episode ended.
    """
    edges = np.ceil(curves["frames"] / width).astype(int) * width
    weight = curves.get("episodes", 1)
    sums = curves.assign(frames=edges, weight=weight, score=curves["score"] * weight)
    sums = sums.groupby([*by, "frames"], observed=True)
    totals = sums[["score", "weight"]].sum()
    return (totals["score"] / totals["weight"]).rename("score").reset_index()


def band(curves: pd.DataFrame) -> Band:
    """Compute statistics over the seeds of one task and variant.

    In a bin without a finished episode, a run keeps its previous score. Runs are not extended: the
    mean continues without a run that stopped, which `stops` lists. The band ends with the shortest
    complete run, to avoid jumps of the mean.

    Args:
        curves: table of curves of one task and variant.
    """
    scores = curves.pivot(index="frames", columns="seed", values="score").sort_index()
    last = curves.groupby("seed")["frames"].max()
    complete = last >= COMPLETE_SHARE * last.max()
    scores = scores.ffill().where(scores.bfill().notna())
    scores = scores.loc[: last[complete].min()]
    return Band(
        frames=scores.index.to_numpy(),
        mean=scores.mean(axis=1).to_numpy(),
        low=scores.min(axis=1).to_numpy(),
        high=scores.max(axis=1).to_numpy(),
        seeds=scores.shape[1],
        stops=sorted(int(x) for x in last[~complete]),
    )


def learning_curves(
    curves: pd.DataFrame,
    published: pd.DataFrame | None = None,
    *,
    pydreamer: pd.DataFrame | None = None,
    bin_frames: int | None = None,
) -> Figure:
    """Draw one panel per task: mean and band of every variant, over the published curve.

    The legend has the number of seeds; panels list variants with fewer seeds or no run.

    Args:
        curves: table of curves of one environment, with at least one row.
        published: table of curves of one agent, drawn dashed in black in the panels of its tasks
            up to the last frame of `curves`, at least its first point. If that point is too far
            beyond, a text replaces it.
        pydreamer: the same of another published agent, drawn dotted in grey.
        bin_frames: width of the bins, frames; None if the seeds have the same points.

    Raises:
        ValueError: A table is empty, or has several envs or published variants.
    """
    _check_lines(curves, published, pydreamer)
    references = {PUBLISHED: published, PYDREAMER: pydreamer}
    references = {name: x for name, x in references.items() if x is not None}
    curves = curves if bin_frames is None else binned(curves, bin_frames)
    looks = style.variant_styles(curves["variant"])
    tasks = sorted(curves["task"].unique())
    many = len(tasks) > MANY
    width, height = (1.65, 1.35) if many else (3.0, 2.3) if len(tasks) > 1 else (5.0, 3.0)
    columns = 5 if many else style.columns_of(len(tasks))
    figure, axes = style.panels(len(tasks), columns=columns, width=width, height=height)
    drawn: dict[str, dict[str, Band]] = {}
    for axis, task in zip(axes, tasks, strict=True):
        of_task = curves[curves["task"] == task]
        drawn[task] = {v: band(x) for v, x in of_task.groupby("variant", observed=True)}
        end = of_task["frames"].max()
        last = end
        for name, reference in references.items():
            of_reference = reference[reference["task"] == task]
            below = None if of_reference.empty else _draw_published(axis, of_reference, name, end)
            if below is not None:
                drawn[task][name] = below
                last = max(last, below.frames[-1])
        for variant, look in looks.items():
            if variant in drawn[task]:
                draw_band(axis, drawn[task][variant], look, label=variant)
        axis.set_title(readable(task), fontsize=style.NORMAL if many else style.LARGE, pad=3)
        axis.set_xlim(0, last * 1.02)
    for axis in axes[-columns:]:
        axis.set_xlabel("frames", fontsize=style.NORMAL)
    if many:
        figure.supylabel(RETURN, fontsize=style.NORMAL)
    for axis in [] if many else axes[::columns]:
        axis.set_ylabel(RETURN, fontsize=style.NORMAL)
    _write_legend(figure, axes, drawn, looks)
    return figure


def _check_lines(
    curves: pd.DataFrame, published: pd.DataFrame | None, pydreamer: pd.DataFrame | None
) -> None:
    if curves.empty:
        raise ValueError("`curves` must have rows, got none")
    for name, table, column in (
        ("curves", curves, "env"),
        ("published", published, "env"),
        ("published", published, "variant"),
        ("pydreamer", pydreamer, "env"),
        ("pydreamer", pydreamer, "variant"),
    ):
        values = [] if table is None else sorted(table[column].unique())
        if len(values) > 1:
            found = ", ".join(values)
            raise ValueError(f"`{name}` must have one {column}, got {found}")


def _draw_published(axis: Axes, published: pd.DataFrame, name: str, end: int) -> Band | None:
    """Draw a published curve up to our last frame, unless it begins too late."""
    points = band(published)
    first, mean = points.frames[0], points.mean[0]
    if first > MAX_FRAME_RATIO * end:
        label = name if name == PUBLISHED else readable(name)
        text = f"{label} begins at {short_number(first)}: {mean:.4g}"
        look = {"fontsize": style.SMALL, "color": style.GREY, "va": "top"}
        height = 0.98 if name == PUBLISHED else 0.88
        axis.text(0.02, height, text, transform=axis.transAxes, **look)
        axis.margins(y=0.15)  # space for the text
        return None
    count = max(1, int((points.frames <= end).sum()))
    stops = [x for x in points.stops if x <= points.frames[count - 1]]
    kept = Band(*(x[:count] for x in points[:4]), seeds=points.seeds, stops=stops)
    draw_band(axis, kept, REFERENCE_STYLES[name], label=name)
    return kept


def draw_band(axis: Axes, points: Band, look: style.Style, *, label: str) -> None:
    """Draw the line, the band if there are several seeds, and a cross where a run stops early."""
    axis.plot(
        points.frames,
        points.mean,
        **look._asdict(),
        linewidth=1.2,
        marker="o" if len(points.frames) == 1 else None,
        markersize=3,
        label=label,
    )
    interval = (points.frames, points.low, points.high)
    if points.seeds > 1 and len(points.frames) == 1:
        axis.vlines(*interval, color=look.color, alpha=0.4)
    elif points.seeds > 1:
        axis.fill_between(*interval, color=look.color, alpha=0.18, linewidth=0)
    if points.stops:
        heights = np.interp(points.stops, points.frames, points.mean)
        axis.plot(points.stops, heights, "x", color=look.color, markersize=4, markeredgewidth=1)


def _write_legend(
    figure: Figure,
    axes: list[Axes],
    drawn: dict[str, dict[str, Band]],
    looks: dict[str, style.Style],
) -> None:
    """Label the lines with their usual number of seeds, and panels with the exceptions."""
    handles = []
    remarks: dict[str, list[str]] = {task: [] for task in drawn}
    for variant, look in (looks | REFERENCE_STYLES).items():
        counts = {t: lines[variant].seeds for t, lines in drawn.items() if variant in lines}
        if not counts:
            continue
        usual = max(counts.values())
        label = f"{readable(variant)}, {plural(usual, 'seed')}"
        handles.append(Line2D([], [], **look._asdict(), linewidth=1.6, label=label))
        for task in drawn:
            found = counts.get(task, 0)
            if found != usual and not (found == 0 and variant in REFERENCE_STYLES):
                many = plural(found, "seed") if found else "no run"
                remarks[task].append(f"{readable(variant)}: {many}")
    if any(points.stops for lines in drawn.values() for points in lines.values()):
        cross = {"color": style.GREY, "marker": "x", "linestyle": "none", "markersize": 5}
        handles.append(Line2D([], [], **cross, label="a run stops early"))
    for axis, lines in zip(axes, remarks.values(), strict=True):
        if lines:
            look = {"fontsize": style.SMALL - 1, "color": style.GREY, "va": "bottom"}
            axis.text(0.98, 0.02, "\n".join(lines), ha="right", transform=axis.transAxes, **look)
    style.legend_below(figure, handles)
