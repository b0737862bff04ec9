"""Which figures make sense for a table of runs, and their captions: the door of this package.

`experiments/report.py` and docs/ use it. What a figure cannot show stands in its caption: how many
runs, what the band is, which runs stop early.
"""

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
from experiments.plots.curves import MANY, NEARLY, band_text, bin_width, learning_curves
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

NAMED = 5  # captions name so many runs at most
FEW = 3  # what is said of all games at once is said of so many at least
TABLE_1_FRAMES = 199_000_000  # the bin of the published curves that gives the paper's Table 1
BIN = 1_000_000  # frames, of the published Atari curves


def figures(
    curves: pd.DataFrame,
    published: pd.DataFrame | None,
    out: Path,
    *,
    frames: Mapping[str, int] | None = None,
) -> list[Captioned]:
    """Draw every figure that makes sense for a table of runs, as PNG and PDF.

    Learning curves always; every run's score if there are several variants; and of three Atari
    games or more what is said of all of them at once.

    Args:
        curves: table of curves (env, task, variant, seed, frames, score); no rows, no figures.
        published: table of published curves to compare with; its full agent is drawn. None: none.
        out: folder for the files, made if needed.
        frames: by env, where scores are read; of an env that is not in it, what every run has
            reached.

    Returns:
        The PNG files with their captions, in the order in which to show them.
    """
    found: list[Captioned] = []
    curves = curves.dropna(subset=["score"])
    for name, own in curves.groupby("env", observed=True, sort=True):
        env = str(name)
        own = _published_spelling(own) if env == "atari" else own
        end = (frames or {}).get(env) or common_end(own)
        theirs = _full_agent(published, own)
        found.append(_learning_curves(env, own, theirs, out))
        several = own["variant"].nunique() > 1
        if several and own["task"].nunique() <= MANY:
            found.append(_final_scores(env, own, end, out))
        games = own[own["task"].isin(paper.games())]
        if env == "atari" and games["task"].nunique() >= FEW:
            found += _of_all_games(games, theirs, end, out)
    return found


def published_figures(out: Path, *, frames: int = TABLE_1_FRAMES) -> list[Captioned]:
    """Draw the figures of the published Atari data alone, as PNG and PDF.

    Args:
        out: folder for the files, made if needed.
        frames: where scores are read, and the aggregates end.

    Returns:
        The PNG files with their captions: the learning curves of 55 games, Figure 4, Figure E1,
        and performance profiles.
    """
    curves = paper.curves("atari-dreamerv2")
    both = pd.concat([curves, paper.curves("atari-dreamerv2-schedules")])
    runs = tables.published_runs(frames)
    where = f"at {frames:,} frames (agents published with one score a game: at 200M)"
    agents = tables.MODEL_FREE
    return [
        (
            save(
                aggregate_curves(both, _measures(agents), end=frames),
                out / "published_aggregates",
            ),
            "Published agents on 55 Atari games, as in the paper's Figure 4. Horizontal lines: "
            f"agents published with one score a game, at 200M frames. {INTERVAL_TEXT}",
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
    """Call a game as the authors do (james_bond), where ale-py writes otherwise (jamesbond)."""
    names = {task: paper.game(task) or task for task in curves["task"].unique()}
    return curves.assign(task=curves["task"].map(names))


def _full_agent(published: pd.DataFrame | None, curves: pd.DataFrame) -> pd.DataFrame | None:
    """The published curves of the full agent on these tasks; None if there are none."""
    if published is None:
        return None
    tasks = published["task"].isin(curves["task"].unique())
    env = published["env"] == curves["env"].iloc[0]
    chosen = published[tasks & env & (published["variant"] == FULL_AGENT)]
    return None if chosen.empty else chosen


def _learning_curves(
    env: str, own: pd.DataFrame, theirs: pd.DataFrame | None, out: Path
) -> Captioned:
    width = bin_width(own)
    figure = learning_curves(own, theirs, bin_frames=width)
    caption = f"Learning curves, {env}. {band_text(width)}"
    if theirs is not None:
        caption += " Black, dashed: the published curve of DreamerV2, where ours come near it."
        absent = sorted(set(own["task"]) - set(theirs["task"]))
        if absent:
            caption += f" Nothing is published for {', '.join(map(readable, absent))}."
    return save(figure, out / f"curves_{env}"), caption + _early_stops(own)


def _read(curves: pd.DataFrame, frames: int) -> tuple[pd.DataFrame, str]:
    """One score a run, as the report's tables have it, and where it was read."""
    window = max(1, min(BIN, frames // 10))
    where = f"at {frames:,} frames (mean over the last {window:,})"
    return tables.at_frames(curves, frames, window=window), where


def _final_scores(env: str, own: pd.DataFrame, frames: int, out: Path) -> Captioned:
    runs, where = _read(own, frames)
    caption = f"Every run, {env}, {where}. {FINALS_TEXT}"
    return save(final_scores(runs), out / f"finals_{env}"), caption


def _of_all_games(
    own: pd.DataFrame, theirs: pd.DataFrame | None, frames: int, out: Path
) -> list[Captioned]:
    """What compares variants, the published agent among them, over all games that they share."""
    known, where = _read(own, frames)
    if theirs is not None and frames >= BIN:
        theirs = theirs.assign(variant=PUBLISHED)
        own = pd.concat([own, theirs], ignore_index=True)
        known = pd.concat([known, tables.at_frames(theirs, frames)], ignore_index=True)
    known = known.dropna(subset=["score"])
    shared = tables.shared_tasks(known)
    if len(shared) < FEW:
        return []
    # What has no score yet where the others are read would leave nothing to draw.
    own = own[own["task"].isin(shared) & own["variant"].isin(known["variant"])]
    over = f"{plural(len(shared), 'game')} that all variants have"
    found = [
        (
            save(aggregate_curves(own, end=frames), out / "aggregates_atari"),
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
        save(ablation_summary(own, end=frames), out / "ablations_atari"),
        f"Each variant against the full agent (dotted), over the {over}. {INTERVAL_TEXT}",
    )
    differences = (
        save(score_differences(known, FULL_AGENT, others), out / "differences_atari"),
        f"The full agent against each variant, {where}. {DIFFERENCES_TEXT}",
    )
    return [summary, *found, differences]


def _measures(agents: Sequence[str]) -> dict[str, dict[str, float]]:
    """The measures of Table 1 of agents that were published with one score a game."""
    table = paper.baselines().loc[list(paper.games())]
    people = {
        "random": table["random"],
        "gamer": table["human_gamer"],
        "record": table["human_record"],
    }
    raw = {agent: table[[f"{agent}_sticky_2e8"]].to_numpy().T for agent in agents}  # (1, G)
    return {agent: scores.atari_aggregates(x, **people) for agent, x in raw.items()}


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
