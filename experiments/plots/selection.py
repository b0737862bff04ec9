"""Which figures make sense for a table of runs, and their captions: the door of this package.

`experiments/report.py` and docs/ use it. What a figure cannot show stands in its caption: how many
runs, what the band is, which runs stop early.
"""

from pathlib import Path

import pandas as pd

from experiments import published as paper
from experiments.plots.curves import NEARLY, band_text, bin_width, learning_curves
from experiments.plots.style import FULL_AGENT, plural, readable, save, short_number

# Captions name so many runs at most.
NAMED = 5

Captioned = tuple[Path, str]


def figures(curves: pd.DataFrame, published: pd.DataFrame | None, out: Path) -> list[Captioned]:
    """Draw every figure that makes sense for a table of runs, as PNG and PDF.

    Args:
        curves: table of curves (env, task, variant, seed, frames, score); no rows, no figures.
        published: table of published curves to compare with; its full agent is drawn. None: none.
        out: folder for the files, made if needed.

    Returns:
        The PNG files with their captions, in the order in which to show them.
    """
    found: list[Captioned] = []
    curves = curves.dropna(subset=["score"])
    for env, of_env in curves.groupby("env", observed=True, sort=True):
        of_env = _published_spelling(of_env) if env == "atari" else of_env
        found.append(_curves_of(str(env), of_env, _full_agent(published, env, of_env), out))
    return found


def published_figures(out: Path) -> list[Captioned]:
    """Draw the figures of the published Atari data alone, as PNG and PDF.

    Args:
        out: folder for the files, made if needed.

    Returns:
        The PNG files with their captions.
    """
    curves = paper.curves("atari-dreamerv2")
    caption = (
        "The published learning curves of DreamerV2 on 55 games, as in the paper's appendix. "
        + band_text(1_000_000)
        + _early_stops(curves)
    )
    return [(save(learning_curves(curves), out / "published_curves"), caption)]


def _published_spelling(curves: pd.DataFrame) -> pd.DataFrame:
    """Call a game as the authors do (james_bond), where ale-py writes otherwise (jamesbond)."""
    names = {task: paper.game(task) or task for task in curves["task"].unique()}
    return curves.assign(task=curves["task"].map(names))


def _full_agent(
    published: pd.DataFrame | None, env: object, curves: pd.DataFrame
) -> pd.DataFrame | None:
    """The published curves of the full agent on these tasks; None if there are none."""
    if published is None:
        return None
    tasks = published["task"].isin(curves["task"].unique())
    chosen = published[tasks & (published["env"] == env) & (published["variant"] == FULL_AGENT)]
    return None if chosen.empty else chosen


def _curves_of(
    env: str, curves: pd.DataFrame, published: pd.DataFrame | None, out: Path
) -> Captioned:
    width = bin_width(curves)
    figure = learning_curves(curves, published, bin_frames=width)
    caption = f"Learning curves, {env}. {band_text(width)}"
    if published is not None:
        caption += " Black, dashed: the published curve of DreamerV2."
        absent = sorted(set(curves["task"]) - set(published["task"]))
        if absent:
            caption += f" Nothing is published for {', '.join(map(readable, absent))}."
    return save(figure, out / f"curves_{env}"), caption + _early_stops(curves)


def _early_stops(curves: pd.DataFrame) -> str:
    """Name the runs that end before the others of their task and variant, the first few of them."""
    last = curves.groupby(["task", "variant", "seed"], observed=True)["frames"].max()
    longest = last.groupby(["task", "variant"], observed=True).transform("max")
    early = last[last < NEARLY * longest]
    if early.empty:
        return ""
    named = [
        f"{readable(task)} {readable(variant)} seed {seed} at {short_number(frames)}"
        for (task, variant, seed), frames in list(early.items())[:NAMED]
    ]
    more = "" if len(early) <= NAMED else f", and {len(early) - NAMED} more"
    stop = "stops" if len(early) == 1 else "stop"
    return f" {plural(len(early), 'run')} {stop} early: {', '.join(named)}{more}."
