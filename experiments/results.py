"""The results of a report, of run folders or of the published data, with notes on the data.

`experiments/report.py` prints and writes them. Missing, short or mixed data are reported in notes
and problems.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from experiments import data_warnings, published, tables, text_tables
from experiments.exported import exported_agents
from experiments.learning import chart_groups
from experiments.page import ChartGroup, Video
from experiments.plots.curves import binned
from experiments.plots.search import SearchTable
from experiments.plots.style import FULL_AGENT, PUBLISHED, PYDREAMER
from experiments.probes import probe_table
from experiments.runs import Runs, everything, read_runs
from experiments.videos import latest_videos

TABLE_1_FRAMES = 199_000_000  # the bin of the published curves that gives the paper's Table 1
PUBLISHED_BIN = 1_000_000  # frames, of the published Atari curves
# Published curves by env.
PUBLISHED_CURVES = {
    "atari": ("atari-dreamerv2",),
    "dmc_vision": ("dmc-vision-dreamerv2", "humanoid-dreamerv2"),
}
# Another agent's, by env, with compare=pydreamer; not on the grid of the others.
PYDREAMER_CURVES = {"atari": ("pydreamer-atari",)}
Compare = Literal["published", "pydreamer"]
MAX_VIDEOS = 12  # in a report
CHARTS = (
    "Charts: a line is the mean over the seeds of a variant, its band the lowest to the highest "
    "seed. A cross marks where a run ends before the others; the mean continues without it."
)


@dataclass
class Results:
    """The numbers, and notes on them.

    Attributes:
        title: of the report.
        tidy: a row per number, see `tables.score_table`.
        extra: other tables, by the name of their CSV file.
        shown: tables of the page and of the terminal besides those of the scores, by title.
        charts: for the page.
        debug: runs of debug=fast, which no number contains; None if there are none.
        search: the trials of a search, for its figures; None for runs.
        curves: the curves of the runs, for the figures; None for the published data.
        published: published curves, for the same figures.
        videos: videos of the runs.
        notes: remarks on how the numbers were computed.
        problems: errors and missing data.
    """

    title: str
    tidy: pd.DataFrame
    extra: dict[str, pd.DataFrame] = field(default_factory=dict)
    shown: dict[str, pd.DataFrame] = field(default_factory=dict)
    charts: list[ChartGroup] = field(default_factory=list)
    debug: pd.DataFrame | None = None
    search: SearchTable | None = None
    curves: pd.DataFrame | None = None
    published: pd.DataFrame | None = None
    videos: list[Video] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def of_published(frames: int | None) -> Results:
    """Compute the results of the published agents on the paper's 55 games.

    Args:
        frames: Where scores are read; None: where the paper's Table 1 was read.

    Raises:
        ValueError: The curves begin after `frames`.
    """
    frames, problems = frames or TABLE_1_FRAMES, []
    curves = published.curves("atari-dreamerv2")
    first, last = curves["frames"].min(), curves["frames"].max()
    if frames < first:
        raise ValueError(f"`frames` must be at least {first:,}, the first point, got {frames:,}")
    if frames > last:
        problems.append(
            f"No published run reaches frames={frames:,}, the longest ends at {last:,}. The scores "
            f"are those at {TABLE_1_FRAMES:,}."
        )
        frames = TABLE_1_FRAMES
    runs = tables.published_runs(frames)
    tidy = tables.score_table(runs, frames, np.random.default_rng(0))
    notes = [
        f"{variant}: {part['seed'].nunique()} seeds per game; {part['short'].sum()} of {len(part)} "
        "runs end earlier and count with their last score, as in the paper."
        for variant, part in runs[runs["seed"] != ""].groupby("variant", sort=False)
    ]
    notes.append(
        f"{', '.join(tables.MODEL_FREE)}: one number per game, at 200,000,000 frames, whatever the "
        "frames above."
    )
    return Results(
        title=f"Published agents, {len(published.games())} Atari games, {frames:,} frames",
        tidy=tidy,
        extra={"table_k1.csv": tables.table_k1(tidy).reset_index()},
        notes=[*notes, data_warnings.INTERVALS],
        problems=problems,
    )


def of_runs(folder: Path, frames: int | None, *, compare: Compare | None) -> Results:
    """Compute the results of all runs in and under a folder, separately for each env.

    Args:
        folder: Where to look for run folders.
        frames: Where scores are read; None: the most that all runs of an env have reached.
        compare: Add the published DreamerV2, on the same tasks and at the same frames; with
            `pydreamer`, PyDreamer, too.

    Raises:
        ValueError: There is no run.
        FileNotFoundError: There is no such folder.
    """
    found = read_runs(folder)
    if found.runs.empty:
        raise ValueError(" ".join([f"No runs in {folder}.", *found.problems]))
    kept, debug = _without_debug(found)
    curves, _, runs, problems = kept
    played = curves[curves["counter"] == "frames"]
    videos, probed = _videos(runs), probe_table(runs)
    results = Results(
        title=f"Runs in {folder}",
        tidy=pd.DataFrame(columns=list(tables.TIDY)),
        extra={"runs.csv": found.runs, "curves.csv": found.curves}
        | ({} if probed.empty else {"probes.csv": probed}),
        curves=played,
        debug=None if debug.empty else text_tables.run_list(debug, folder),
        videos=videos[:MAX_VIDEOS],
        notes=[*data_warnings.states(runs), *data_warnings.budgets(runs)],
        problems=[
            *problems,
            *data_warnings.failures(runs),
            *data_warnings.missing(folder),
            *data_warnings.without_score(runs),
        ],
    )
    if len(videos) > MAX_VIDEOS:
        results.notes.append(f"{MAX_VIDEOS} of {len(videos)} videos are shown.")
    if not probed.empty:
        results.shown["Probes, latest means over seeds"] = probed
    if not (agents := exported_agents(runs)).empty:
        results.shown["Exported agents, mean return [95 % interval] over episodes"] = agents
    results.shown["Runs"] = text_tables.run_list(runs, folder)
    parts, compared = [], []
    for env, of_env in played.groupby("env"):
        reference = compare and _published_curves(str(env), of_env, results, compare)
        if reference is not None:
            compared.append(reference)
        parts.append(_scores(str(env), of_env, reference, frames, results))
    for env, of_env in curves[curves["counter"] == "updates"].groupby("env"):
        parts.append(_evaluations(str(env), of_env, results))
    if compared:
        results.published = pd.concat(compared, ignore_index=True)
    if parts:
        results.tidy = pd.concat(parts, ignore_index=True)
        results.notes.append(data_warnings.INTERVALS)
    results.charts = chart_groups(everything(kept), _references(results.published))
    if results.charts:
        results.notes.append(CHARTS)
    return results


def _without_debug(found: Runs) -> tuple[Runs, pd.DataFrame]:
    """Separate the runs of debug=fast, unless there is nothing else."""
    is_debug = found.runs["debug"].astype(bool)
    if is_debug.all():
        return found, found.runs.iloc[:0]
    others = found.runs[~is_debug]
    names = others[tables.RUN]
    curves, numbers = (x.merge(names, on=tables.RUN) for x in (found.curves, found.numbers))
    return Runs(curves, numbers, others, found.problems), found.runs[is_debug]


def _references(curves: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    """Return the published curves by the name of their line in charts."""
    if curves is None:
        return {}
    lines = {PUBLISHED: FULL_AGENT, PYDREAMER: "pydreamer"}
    found = {name: curves[curves["variant"] == variant] for name, variant in lines.items()}
    return {name: table for name, table in found.items() if len(table)}


def _scores(
    env: str,
    of_env: pd.DataFrame,
    reference: pd.DataFrame | None,
    frames: int | None,
    results: Results,
) -> pd.DataFrame:
    """Compute the numbers of one env at one frame count."""
    frames = _choose_frames(env, of_env, frames, results)
    window = max(1, min(PUBLISHED_BIN, frames // 10))
    runs = tables.at_frames(of_env, frames, window=window)
    results.notes.append(
        f"{env}: a run's score at {frames:,} frames is the mean return of its training episodes, "
        f"over the points of its curve in the last {window:,} frames up to there."
    )
    results.problems += data_warnings.read_at(env, runs, frames)
    if reference is not None:
        at = tables.at_frames(reference, frames)
        if at["score"].isna().all():
            results.problems.append(
                f"{env}: the published curves begin at {reference['frames'].min():,} frames; no "
                f"scores are published at {frames:,}."
            )
        runs = pd.concat([runs, at.assign(variant="published " + at["variant"])])
    results.notes += data_warnings.shared(env, runs)
    return tables.score_table(runs, frames, np.random.default_rng(0))


def _evaluations(env: str, of_env: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Compute the numbers of one env of runs that collect nothing, from their evaluations."""
    updates = int(of_env.groupby(tables.RUN)["frames"].max().min())
    window = max(1, updates // 10)
    runs = tables.at_frames(of_env, updates, window=window)
    results.notes.append(
        f"{env}, stored data: scores are read at {updates:,} updates, the most that all runs have "
        "reached. A run's score is the mean return of its evaluations in the last "
        f"{window:,} updates up to there."
    )
    results.problems += data_warnings.read_at(env, runs, updates, "updates")
    results.notes += data_warnings.shared(env, runs)
    return tables.score_table(runs, updates, np.random.default_rng(0), counter="updates")


def _choose_frames(env: str, of_env: pd.DataFrame, requested: int | None, results: Results) -> int:
    """Return the requested frame count if any run has reached it, else what all have reached."""
    ends = of_env.groupby(tables.RUN)["frames"].max()
    common, first = int(ends.min()), int(of_env.groupby(tables.RUN)["frames"].min().min())
    if requested is not None and first <= requested <= ends.max():
        return requested
    if requested is not None:
        results.problems.append(
            f"{env}: frames={requested:,} must be between {first:,} and {ends.max():,}."
        )
    last = ends.sort_values(kind="stable").reset_index().head(1)
    results.notes.append(
        f"{env}: scores are read at {common:,} frames, the most that all runs have reached "
        f"(the shortest: {data_warnings.names(last)}); `frames=` changes this."
    )
    return common


def _published_curves(
    env: str, of_env: pd.DataFrame, results: Results, compare: Compare
) -> pd.DataFrame | None:
    """Return the published curves on the tasks of the runs; None if there are none."""
    tasks = set(of_env["task"])
    found = [published.curves(name) for name in PUBLISHED_CURVES.get(env, ())]
    if compare == "pydreamer":
        others = [published.curves(name) for name in PYDREAMER_CURVES.get(env, ())]
        found += [binned(curves, PUBLISHED_BIN) for curves in others]
        with_it = {task for curves in others for task in curves["task"]}
        if absent := sorted(tasks - with_it):
            results.problems.append(
                f"{env}: PyDreamer has published nothing for {data_warnings.listed(absent)}."
            )
        if tasks & with_it:
            results.notes.append(
                f"{env}: PyDreamer's agent differs from the paper's, among others in its colour "
                "images and batches of 48 x 32. Its frames are those of the stored episodes; about "
                "5 % more were played."
            )
    found = [curves[curves["task"].isin(tasks)] for curves in found]
    there = {task for curves in found for task in curves["task"]}
    if absent := sorted(tasks - there):
        results.problems.append(f"{env}: nothing is published for {data_warnings.listed(absent)}.")
    return pd.concat(found, ignore_index=True) if there else None


def _videos(runs: pd.DataFrame) -> list[Video]:
    """Return the latest videos of one run per variant and task."""
    videos: list[Video] = []
    for _, of_variant in runs.groupby(["env", "task", "variant"]):
        run = of_variant.iloc[0]
        name = f"{run['env']}, {run['task']}, {run['variant']}, seed {run['seed']}"
        videos += latest_videos(Path(run["path"]), name, run["counter"])
    return videos
