"""What there is to report, of run folders or of the published data, and what it rests on.

`experiments/report.py` prints and writes it. Whatever is missing, short or mixed becomes a sentence
here, next to the numbers that it concerns.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from experiments import data_warnings, published, tables
from experiments.runs import read_runs

TABLE_1_FRAMES = 199_000_000  # the bin of the published curves that gives the paper's Table 1
PUBLISHED_BIN = 1_000_000  # frames, of the published Atari curves
# Where published curves of an env are.
PUBLISHED = {
    "atari": ("atari-dreamerv2",),
    "dmc_vision": ("dmc-vision-dreamerv2", "humanoid-dreamerv2"),
}
FILMS = 12  # a report shows so many at most


@dataclass
class Results:
    """Numbers, and what a reader must know about them.

    Attributes:
        title: of the report.
        tidy: one table with a row for each number, as of `tables.score_table`.
        extra: further tables, by the name of their CSV file.
        curves: the runs' curves, for the figures; None for the published data alone.
        published: published curves to lay under them.
        films: videos of the runs.
        notes: what the numbers rest on.
        problems: what is wrong or missing.
    """

    title: str
    tidy: pd.DataFrame
    extra: dict[str, pd.DataFrame] = field(default_factory=dict)
    curves: pd.DataFrame | None = None
    published: pd.DataFrame | None = None
    films: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def of_published(frames: int | None) -> Results:
    """The published agents on the paper's 55 games; without frames, where Table 1 was read.

    Raises:
        ValueError: The curves begin later than the frames asked for.
    """
    frames, problems = frames or TABLE_1_FRAMES, []
    curves = published.curves("atari-dreamerv2")
    first, last = curves["frames"].min(), curves["frames"].max()
    if frames < first:
        raise ValueError(f"Expect `frames` from {first:,}, the first point, actually: {frames:,}")
    if frames > last:
        problems.append(
            f"No published run reaches frames={frames:,}, the longest ends at {last:,}: the scores "
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
        f"{', '.join(tables.MODEL_FREE)}: one number per game, at 200,000,000 frames; the same "
        "whatever the frames above."
    )
    return Results(
        title=f"Published agents, {len(published.games())} Atari games, {frames:,} frames",
        tidy=tidy,
        extra={"table_k1.csv": tables.table_k1(tidy).reset_index()},
        notes=[*notes, data_warnings.INTERVALS],
        problems=problems,
    )


def of_runs(folder: Path, frames: int | None, *, compare: bool) -> Results:
    """The runs in and under a folder, each env on its own.

    Args:
        folder: Where to look for run folders.
        frames: Where scores are read; None: at what every run of an env has reached.
        compare: Set the published DreamerV2 beside them, on their tasks and at their frames.

    Raises:
        ValueError: There is no run.
        FileNotFoundError: There is no such folder.
    """
    curves, runs, problems = read_runs(folder)
    if runs.empty:
        raise ValueError(" ".join([f"No runs in {folder}.", *problems]))
    films = _films(runs)
    results = Results(
        title=f"Runs in {folder}",
        tidy=pd.DataFrame(columns=list(tables.TIDY)),
        extra={"runs.csv": runs, "curves.csv": curves},
        curves=curves,
        films=films[:FILMS],
        notes=data_warnings.states(runs),
        problems=[
            *problems,
            *data_warnings.failures(runs),
            *data_warnings.missing(runs),
            *data_warnings.budgets(runs),
        ],
    )
    if len(films) > FILMS:
        results.notes.append(f"{FILMS} of {len(films)} videos are shown.")
    parts, compared = [], []
    for env, own in curves.groupby("env"):
        theirs = _published_curves(str(env), own, results.problems) if compare else None
        if theirs is not None:
            compared.append(theirs)
        parts.append(_scores(str(env), own, theirs, frames, results))
    if compared:
        results.published = pd.concat(compared, ignore_index=True)
    if parts:
        results.tidy = pd.concat(parts, ignore_index=True)
        results.notes.append(data_warnings.INTERVALS)
    return results


def _scores(
    env: str,
    own: pd.DataFrame,
    theirs: pd.DataFrame | None,
    frames: int | None,
    results: Results,
) -> pd.DataFrame:
    """The numbers of one env at one frame count."""
    frames = _choose_frames(env, own, frames, results)
    window = max(1, min(PUBLISHED_BIN, frames // 10))
    runs = tables.at_frames(own, frames, window=window)
    results.notes.append(
        f"{env}: a run's score at {frames:,} frames is the mean return of its training episodes, "
        f"over the points of its curve in the last {window:,} frames up to there."
    )
    results.problems += data_warnings.read_at(env, runs, frames)
    if theirs is not None:
        at = tables.at_frames(theirs, frames)
        if at["score"].isna().all():
            results.problems.append(
                f"{env}: the published curves begin at {theirs['frames'].min():,} frames, so there "
                f"is nothing of them at {frames:,}."
            )
        runs = pd.concat([runs, at.assign(variant="published " + at["variant"])])
    results.notes += data_warnings.shared(env, runs)
    return tables.score_table(runs, frames, np.random.default_rng(0))


def _choose_frames(env: str, own: pd.DataFrame, asked: int | None, results: Results) -> int:
    """The frame count asked for, if any run has come so far, else what every run has reached."""
    ends = own.groupby(tables.RUN)["frames"].max()
    common, first = int(ends.min()), int(own.groupby(tables.RUN)["frames"].min().min())
    if asked is not None and first <= asked <= ends.max():
        return asked
    if asked is not None:
        results.problems.append(
            f"{env}: frames={asked:,} lies outside what there is, {first:,} to {ends.max():,}."
        )
    last = ends.sort_values(kind="stable").reset_index().head(1)
    results.notes.append(
        f"{env}: scores are read at {common:,} frames, the most that every run has reached "
        f"(the shortest: {data_warnings.names(last)}); `frames=` reads them elsewhere."
    )
    return common


def _published_curves(env: str, own: pd.DataFrame, problems: list[str]) -> pd.DataFrame | None:
    """The published DreamerV2 on the tasks of the runs; None if there is nothing of them."""
    tasks = set(own["task"])
    found = [published.curves(name) for name in PUBLISHED.get(env, ())]
    found = [curves[curves["task"].isin(tasks)] for curves in found]
    there = {task for curves in found for task in curves["task"]}
    if absent := sorted(tasks - there):
        problems.append(f"{env}: nothing is published for {data_warnings.listed(absent)}.")
    return pd.concat(found, ignore_index=True) if there else None


def _films(runs: pd.DataFrame) -> list[Path]:
    """The newest dream and the newest episode of one run of each variant on each task."""
    films: list[Path] = []
    for path in runs.groupby(["env", "task", "variant"])["path"].first():
        for kind in ("policy", "open_loop"):
            films += sorted((Path(path) / "videos").glob(f"{kind}_*.mp4"))[-1:]
    return films
