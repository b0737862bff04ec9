"""Chooses the figures for a table of runs, and writes their captions.

`experiments/report.py` and docs/ use it. Captions explain the bands and list runs that stop early.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from experiments import published as paper
from experiments import scores, tables
from experiments.plots.aggregates import (
    INTERVAL_TEXT,
    ablation_summary,
    aggregate_curves,
    common_end,
)
from experiments.plots.bars import (
    DIFFERENCES_TEXT,
    FINALS_TEXT,
    final_scores,
    score_differences,
)
from experiments.plots.curves import COMPLETE_SHARE, MANY, band_text, bin_width, learning_curves
from experiments.plots.profiles import PROFILES_TEXT, performance_profiles
from experiments.plots.style import (
    FULL_AGENT,
    PUBLISHED,
    plural,
    readable,
    save,
    short_number,
)

Captioned = tuple[Path, str]

NAMED = 5  # maximum number of runs in a caption
MIN_GAMES = 3  # for aggregates over games
TABLE_1_FRAMES = 199_000_000  # the bin of the published curves that gives the paper's Table 1
CURVES = "curves_"  # begins the names of figures with learning curves of runs
BIN = 1_000_000  # frames, of the published Atari curves


def figures(
    curves: pd.DataFrame,
    published: pd.DataFrame | None,
    out: Path,
    *,
    frames: Mapping[str, int] | None = None,
) -> list[Captioned]:
    """Draw all figures that apply to a table of runs, as PNG and PDF.

    These are learning curves; with several variants, the score of every run; with at least three
    Atari games, aggregates over games.

    Args:
        curves: table of curves (env, task, variant, seed, frames, score); may be empty.
        published: table of published curves, of which the full agent and PyDreamer are drawn, or
            None.
        out: folder for the files, created if needed.
        frames: by env, where scores are read; the default is what all runs of an env have reached.

    Returns:
        The PNG files with their captions, in order.
    """
    found: list[Captioned] = []
    curves = curves.dropna(subset=["score"])
    for name, of_env in curves.groupby("env", observed=True, sort=True):
        env = str(name)
        of_env = _published_spelling(of_env) if env == "atari" else of_env
        end = (frames or {}).get(env) or common_end(of_env)
        reference = _agent(FULL_AGENT, published, of_env)
        pydreamer = _agent("pydreamer", published, of_env)
        found.append(_learning_curves(env, of_env, reference, pydreamer, out))
        several = of_env["variant"].nunique() > 1
        if several and of_env["task"].nunique() <= MANY:
            found.append(_final_scores(env, of_env, end, out))
        games = of_env[of_env["task"].isin(paper.games())]
        if env == "atari" and games["task"].nunique() >= MIN_GAMES:
            found += _aggregates(games, reference, end, out)
    return found


def shows_curves(figure: Path) -> bool:
    """Return whether a figure holds the learning curves of runs."""
    return figure.name.startswith(CURVES)


def published_figures(out: Path, *, frames: int = TABLE_1_FRAMES) -> list[Captioned]:
    """Draw the figures of the published Atari data, as PNG and PDF.

    Args:
        out: folder for the files, created if needed.
        frames: where scores are read and aggregates end.

    Returns:
        The PNG files with their captions: the learning curves of 55 games, Figure 4, Figure E1,
        and performance profiles.
    """
    curves = paper.curves("atari-dreamerv2")
    both = pd.concat([curves, paper.curves("atari-dreamerv2-schedules")])
    runs = tables.published_runs(frames)
    where = f"at {frames:,} frames (agents published with one score per game: at 200M)"
    agents = tables.MODEL_FREE
    return [
        (
            save(
                aggregate_curves(both, _measures(agents), end=frames),
                out / "published_aggregates",
            ),
            "Published agents on 55 Atari games, as in the paper's Figure 4. Horizontal lines: "
            f"agents published with one score per game, at 200M frames. {INTERVAL_TEXT}",
        ),
        (
            save(score_differences(runs, FULL_AGENT, agents), out / "published_differences"),
            f"DreamerV2 against four agents, as in Figure E1, {where}. {DIFFERENCES_TEXT}",
        ),
        (
            save(performance_profiles(runs), out / "published_profiles"),
            f"Performance profiles of the published agents {where}. {PROFILES_TEXT}",
        ),
        (
            save(learning_curves(curves), out / "published_curves"),
            "The published learning curves of DreamerV2 on 55 games. "
            + band_text(BIN)
            + _early_stops(curves),
        ),
    ]


def _published_spelling(curves: pd.DataFrame) -> pd.DataFrame:
    """Rename games to the published spelling: james_bond, in ale-py jamesbond."""
    names = {task: paper.game(task) or task for task in curves["task"].unique()}
    return curves.assign(task=curves["task"].map(names))


def _agent(name: str, published: pd.DataFrame | None, curves: pd.DataFrame) -> pd.DataFrame | None:
    """Return the published curves of an agent on these tasks; None if there are none."""
    if published is None:
        return None
    tasks = published["task"].isin(curves["task"].unique())
    env = published["env"] == curves["env"].iloc[0]
    chosen = published[tasks & env & (published["variant"] == name)]
    return None if chosen.empty else chosen


def _learning_curves(
    env: str,
    of_env: pd.DataFrame,
    reference: pd.DataFrame | None,
    pydreamer: pd.DataFrame | None,
    out: Path,
) -> Captioned:
    width = bin_width(of_env)
    figure = learning_curves(of_env, reference, pydreamer=pydreamer, bin_frames=width)
    caption = f"Learning curves, {env}. {band_text(width)}"
    if reference is not None:
        caption += " Black, dashed: the published curve of DreamerV2, if it begins near them."
        absent = sorted(set(of_env["task"]) - set(reference["task"]))
        if absent:
            caption += f" Nothing is published for {', '.join(map(readable, absent))}."
    if pydreamer is not None:
        caption += " Grey, dotted: the published curve of PyDreamer, likewise."
    return save(figure, out / f"{CURVES}{file_name(env)}"), caption + _early_stops(of_env)


def file_name(env: str) -> str:
    """Return a name that leads to no other folder, whatever the configuration of a run says."""
    return re.sub(r"[^\w.=+-]", "_", env)


def _read(curves: pd.DataFrame, frames: int) -> tuple[pd.DataFrame, str]:
    """Read one score per run, as in the report's tables, and describe where."""
    window = max(1, min(BIN, frames // 10))
    where = f"at {frames:,} frames (mean over the last {window:,})"
    return tables.at_frames(curves, frames, window=window), where


def _final_scores(env: str, of_env: pd.DataFrame, frames: int, out: Path) -> Captioned:
    runs, where = _read(of_env, frames)
    caption = f"Every run, {env}, {where}. {FINALS_TEXT}"
    return save(final_scores(runs), out / f"finals_{file_name(env)}"), caption


def _aggregates(
    of_env: pd.DataFrame, reference: pd.DataFrame | None, frames: int, out: Path
) -> list[Captioned]:
    """Draw comparisons of variants and the published agent over the games that all have."""
    known, where = _read(of_env, frames)
    if reference is not None and frames >= BIN:
        reference = reference.assign(variant=PUBLISHED)
        of_env = pd.concat([of_env, reference], ignore_index=True)
        known = pd.concat([known, tables.at_frames(reference, frames)], ignore_index=True)
    known = known.dropna(subset=["score"])
    shared = tables.shared_tasks(known)
    if len(shared) < MIN_GAMES:
        return []
    # Leave out variants without a score at this frame count: no game would be shared.
    of_env = of_env[of_env["task"].isin(shared) & of_env["variant"].isin(known["variant"])]
    over = f"{plural(len(shared), 'game')} that all variants have"
    found = [
        (
            save(aggregate_curves(of_env, end=frames), out / "aggregates_atari"),
            f"The measures of the paper's Table 1 over the {over}. {INTERVAL_TEXT}",
        ),
        (
            save(performance_profiles(known), out / "profiles_atari"),
            f"Performance profiles over the {over}, {where}. {PROFILES_TEXT}",
        ),
    ]
    others = sorted(set(known["variant"]) - {FULL_AGENT})
    if not others or FULL_AGENT not in set(known["variant"]):
        return found
    summary = (
        save(ablation_summary(of_env, end=frames), out / "ablations_atari"),
        f"Each variant against the full agent (dotted), over the {over}. {INTERVAL_TEXT}",
    )
    differences = (
        save(score_differences(known, FULL_AGENT, others), out / "differences_atari"),
        f"The full agent against each variant, {where}. {DIFFERENCES_TEXT}",
    )
    return [summary, *found, differences]


def _measures(agents: Sequence[str]) -> dict[str, dict[str, float]]:
    """Compute the measures of Table 1 of agents published with one score per game."""
    table = paper.baselines().loc[list(paper.games())]
    references = {
        "random": table["random"],
        "gamer": table["human_gamer"],
        "record": table["human_record"],
    }
    raw = {agent: table[[f"{agent}_sticky_2e8"]].to_numpy().T for agent in agents}  # (1, G)
    return {agent: scores.atari_aggregates(x, **references) for agent, x in raw.items()}


def _early_stops(curves: pd.DataFrame) -> str:
    """List runs that end before the others of their task and variant, up to a few."""
    last = curves.groupby(["task", "variant", "seed"], observed=True)["frames"].max()
    longest = last.groupby(["task", "variant"], observed=True).transform("max")
    early = last[last < COMPLETE_SHARE * longest]
    if early.empty:
        return ""
    named = [
        f"{readable(task)} {readable(variant)} seed {seed} at {short_number(frames)}"
        for (task, variant, seed), frames in list(early.items())[:NAMED]
    ]
    more = "" if len(early) <= NAMED else f", and {len(early) - NAMED} more"
    stop = "stops" if len(early) == 1 else "stop"
    return f" {plural(len(early), 'run')} {stop} early: {', '.join(named)}{more}."
