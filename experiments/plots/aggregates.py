"""Aggregates over Atari games, over frames and at the end: Figures 4 and 5, Table 2.

One line per variant, of human-normalised scores, with 95 % bootstrap intervals over seeds. It reads
tables of curves; `experiments/scores.py` defines the measures.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import experiments.plots.style as style
from experiments import published, scores
from experiments.plots.curves import Band, draw_band
from experiments.plots.style import FULL_AGENT, plural, readable
from experiments.tables import REFERENCE_SCORES, RUN, TABLE_1, shared_tasks

CLIPPED = "clipped_record_mean"
# Each point of a line has its own bootstrap, which takes milliseconds.
POINTS = 50
RESAMPLES = 300
INTERVAL_TEXT = (
    "Band or bar: 95 % bootstrap interval over the seeds of each game; none with one seed per "
    "game. As in the paper's Table 1, raw scores are averaged over seeds before normalising, and a "
    "run that stops early keeps its last score."
)


def common_end(curves: pd.DataFrame) -> int:
    """Return the frame count that all runs have reached."""
    return int(curves.groupby(RUN, observed=True)["frames"].max().min())


def aggregate_bands(curves: pd.DataFrame, frames: Sequence[int]) -> dict[str, Band]:
    """Compute the four measures of the paper's Table 1 for one variant, at several frame counts.

    Args:
        curves: table of curves of one variant, on Atari games with their published names.
        frames: (P,) where to read the scores; left out where a game has no score yet.

    Returns:
        By measure: the value, its interval (the value itself if no game has two seeds), and the
        largest number of seeds of a game.
    """
    cube = _scores_at(curves, frames)  # (P, S, G)
    known = ~np.isnan(cube).all(axis=1).any(axis=-1)
    cube, kept = cube[known], np.asarray(frames)[known]
    tasks = sorted(curves["task"].unique())
    random, gamer, record = (
        published.baselines().loc[tasks, list(REFERENCE_SCORES)].to_numpy(float).T
    )

    def measures(chosen: np.ndarray) -> np.ndarray:  # (S, G) indices of seeds -> (4, P)
        seeds = np.nan_to_num(chosen).astype(int)
        raw = np.where(np.isnan(chosen), np.nan, np.take_along_axis(cube, seeds[None], axis=1))
        # `scores.atari_aggregates` for all frame counts at once: a hundred times as fast.
        mean = np.nanmean(raw, axis=1)  # (P, G)
        by_gamer = scores.normalize(mean, random, gamer)
        by_record = scores.normalize(mean, random, record)
        return np.array(
            [
                np.median(by_gamer, -1),
                by_gamer.mean(-1),
                by_record.mean(-1),
                np.minimum(by_record, 1).mean(-1),
            ]
        )

    # The bootstrap draws whole runs by index, so that a resample is a whole line.
    runs = np.where(np.isnan(cube).all(0), np.nan, np.arange(cube.shape[1])[:, None])
    rng = np.random.default_rng(0)
    value = measures(runs)
    low, high = scores.bootstrap_interval(measures, runs, rng=rng, resamples=RESAMPLES)
    low, high = (np.where(np.isnan(end), value, end) for end in (low, high))
    return {
        name: Band(kept, value[i], low[i], high[i], cube.shape[1], [])
        for i, name in enumerate(TABLE_1)
    }


def _scores_at(curves: pd.DataFrame, frames: Sequence[int]) -> np.ndarray:
    """Read every run's last score up to each frame count: (P, S, G), NaN before its first."""
    curves = curves.drop_duplicates(["task", "seed", "frames"], keep="last")
    wide = curves.pivot(index="frames", columns=["task", "seed"], values="score").sort_index()
    rows = wide.index.searchsorted(np.asarray(frames), side="right")
    values = np.vstack([np.full(wide.shape[1], np.nan), wide.ffill().to_numpy(float)])[rows]
    by_task = [
        values[:, wide.columns.get_level_values("task") == task]
        for task in sorted(curves["task"].unique())
    ]
    cube = np.full((len(frames), max(x.shape[1] for x in by_task), len(by_task)), np.nan)
    for i, of_task in enumerate(by_task):
        cube[:, : of_task.shape[1], i] = of_task
    return cube


def aggregate_curves(
    curves: pd.DataFrame,
    references: Mapping[str, Mapping[str, float]] | None = None,
    *,
    end: int,
) -> Figure:
    """Draw the four measures of the paper's Table 1 over frames, as in its Figure 4.

    Args:
        curves: table of curves on Atari games; only games that all variants have are counted.
        references: measures by agent, drawn as horizontal lines for agents without curves.
        end: last frame.
    """
    shared, frames = _shared(curves, end)
    looks = style.variant_styles([*shared["variant"].unique(), *(references or {})])
    by_variant = shared.groupby("variant", observed=True)
    bands = {str(v): aggregate_bands(x, frames) for v, x in by_variant}
    figure, axes = style.panels(len(TABLE_1), columns=2, width=3.2, height=2.3)
    for axis, measure in zip(axes, TABLE_1, strict=True):
        for variant, look in looks.items():
            if variant in bands:
                draw_band(axis, bands[variant][measure], look, label=variant)
        for agent, values in (references or {}).items():
            axis.axhline(values[measure], **looks[agent]._asdict(), linewidth=1.0, label=agent)
        axis.set_title(_measure(measure), fontsize=style.NORMAL)
        axis.set_xlim(0, frames[-1] * 1.02)
    for axis in axes[-2:]:
        axis.set_xlabel("frames", fontsize=style.NORMAL)
    handles = [
        Line2D([], [], **look._asdict(), linewidth=1.6, label=_name(variant, bands.get(variant)))
        for variant, look in looks.items()
    ]
    style.legend_below(figure, handles)
    return figure


def ablation_summary(curves: pd.DataFrame, *, end: int) -> Figure:
    """Compare each variant with the full agent: clipped record mean, over frames and at the end.

    As in the paper's Figure 5 and the last column of its Table 2, best variant first.

    Args:
        curves: table of curves on Atari games; only games that all variants have are counted.
        end: last frame, where the bars are read.
    """
    shared, frames = _shared(curves, end)
    looks = style.variant_styles(shared["variant"])
    bands = {
        str(v): aggregate_bands(x, frames)[CLIPPED]
        for v, x in shared.groupby("variant", observed=True)
    }
    figure, (over, last) = style.panels(2, columns=2, width=3.4, height=0.28 * len(looks) + 1.9)
    for variant, look in looks.items():
        draw_band(over, bands[variant], look, label=variant)
    over.set_xlim(0, frames[-1] * 1.02)
    over.set_xlabel("frames", fontsize=style.NORMAL)
    over.set_title(_measure(CLIPPED), fontsize=style.NORMAL)
    _draw_ends(last, bands, looks)
    text = style.short_number(frames[-1])
    last.set_title(f"{_measure(CLIPPED)} at {text} frames", fontsize=style.NORMAL)
    return figure


def _shared(curves: pd.DataFrame, end: int) -> tuple[pd.DataFrame, list[int]]:
    """Select the games that all variants have, and the frame counts to read."""
    runs = curves.groupby(RUN, observed=True)["score"].last().reset_index()
    tasks = shared_tasks(runs)
    if not tasks:
        raise ValueError("`curves` must have a task that all variants share, got none")
    shared = curves[curves["task"].isin(tasks)]
    points = shared.loc[shared["frames"] <= end, "frames"].unique()
    if len(points) > POINTS:
        points = np.linspace(0, end, POINTS + 1)[1:]
    return shared, sorted({int(x) for x in points} | {end})


def _draw_ends(axis: Axes, bands: dict[str, Band], looks: dict[str, style.Style]) -> None:
    """Draw a bar per variant: the last value of its band with its interval, the best on top."""
    order = sorted(bands, key=lambda variant: bands[variant].mean[-1])
    for row, variant in enumerate(order):
        points = bands[variant]
        value = points.mean[-1]
        hatch = None if looks[variant].linestyle == "-" else "///"  # like its dashed line
        face = {"color": looks[variant].color, "alpha": 0.85, "hatch": hatch, "edgecolor": "white"}
        axis.barh(row, value, height=0.62, linewidth=0, label=variant, **face)
        for color, width in (("white", 3.0), ("black", 1.1)):  # visible on dark bars, too
            axis.hlines(row, points.low[-1], points.high[-1], color=color, linewidth=width)
        right = max(value, points.high[-1], 0)
        text = {"fontsize": style.SMALL, "va": "center", "xytext": (3, 0)}
        axis.annotate(f"{value:.3f}", (right, row), textcoords="offset points", **text)
    axis.set_yticks(range(len(order)), [_name(v, {CLIPPED: bands[v]}) for v in order])
    axis.tick_params(axis="y", length=0, labelsize=style.SMALL)
    axis.grid(visible=False)
    axis.margins(x=0.16)
    axis.axvline(0, color="black", linewidth=0.6)
    if FULL_AGENT in bands:
        axis.axvline(bands[FULL_AGENT].mean[-1], color=style.GREY, linestyle=":", linewidth=1)


def _name(variant: str, bands: Mapping[str, Band] | None) -> str:
    """Label a variant with its number of seeds; agents without curves have one published score."""
    number = plural(bands[CLIPPED].seeds, "seed") if bands else "one score, at 200M"
    return f"{readable(variant)}, {number}"


def _measure(name: str) -> str:
    return name.replace("_", " ")
