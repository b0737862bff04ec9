"""Turns curves into scores at a frame count, and scores into one tidy table.

Reports use it. It knows tables of curves, published or from run folders, but no files.

A table of curves has a row per point: env, task, variant, seed, frames, score, and optionally
`episodes`, the number of episodes averaged in the score.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments import published, scores

RESAMPLES = 1000  # of the bootstrap
RUN = ["env", "task", "variant", "seed"]
REFERENCE_SCORES = ("random", "human_gamer", "human_record")  # columns of the baselines
MODEL_FREE = ("iqn", "rainbow", "c51", "dqn")
TABLE_1 = ("gamer_median", "gamer_mean", "record_mean", "clipped_record_mean")
TIDY = (
    *("env", "task", "variant", "measure", "frames", "value", "low", "high"),
    *("runs", "short_runs", "tasks", "counter"),
)


def at_frames(curves: pd.DataFrame, frames: int, *, window: int = 1) -> pd.DataFrame:
    """Read the score of each run at a frame count.

    It is the mean of the points in the last `window` frames before the last point up to `frames`,
    weighted by their episodes. A run that ended earlier counts with its last score, as in the
    paper.

    Args:
        curves: A table of curves.
        frames: Emulator frames.
        window: Frames; 1 uses the last point only.

    Returns:
        A row per run: env, task, variant, seed, reached (frames of its last point), score (NaN if
        its first point is after `frames`) and short (it ended before `frames`).
    """
    reached = curves.groupby(RUN, sort=False)["frames"].max().rename("reached")
    points = curves[curves["frames"] <= frames]
    end = points.groupby(RUN, sort=False)["frames"].transform("max")
    points = points[points["frames"] > end - window]
    weight = points["episodes"] if "episodes" in points else pd.Series(1.0, points.index)
    sums = points.assign(weight=weight, total=weight * points["score"])
    sums = sums.groupby(RUN, sort=False)[["weight", "total"]].sum()
    runs = reached.to_frame().join((sums["total"] / sums["weight"]).rename("score"))
    return runs.assign(short=runs["reached"] < frames).reset_index()


def published_runs(frames: int) -> pd.DataFrame:
    """Return the scores of the published agents of Table 1 at a frame count.

    DreamerV2 and its variant with schedules are published as curves of several seeds; IQN, Rainbow,
    C51 and DQN as one number per game at 200M frames, whatever `frames` is, with an empty seed.

    Returns:
        A table like that of `at_frames`, for the paper's 55 games.
    """
    curves = [published.curves(name) for name in ("atari-dreamerv2", "atari-dreamerv2-schedules")]
    games = list(published.games())
    scores_of = published.baselines().loc[games]
    others = [
        pd.DataFrame(
            {"task": games, "variant": agent, "score": list(scores_of[f"{agent}_sticky_2e8"])}
        )
        for agent in MODEL_FREE
    ]
    one_number = {"env": "atari", "seed": "", "reached": 200_000_000, "short": False}
    others = pd.concat(others).assign(**one_number)
    return pd.concat([at_frames(pd.concat(curves), frames), others], ignore_index=True)


def matrix(runs: pd.DataFrame) -> pd.DataFrame:
    """Arrange one variant's runs, as from `at_frames`, as seeds x tasks; NaN if missing."""
    return runs.dropna(subset="score").pivot(index="seed", columns="task", values="score")


def shared_tasks(runs: pd.DataFrame) -> list[str]:
    """Return the tasks on which every variant of runs, as from `at_frames`, has a score."""
    runs = runs.dropna(subset="score")
    variants = runs.groupby("task", sort=False)["variant"].nunique()
    return list(variants.index[variants == runs["variant"].nunique()])


def score_table(
    runs: pd.DataFrame, frames: int, rng: np.random.Generator, *, counter: str = "frames"
) -> pd.DataFrame:
    """Compute all numbers at a frame count, as a tidy table with a row per number.

    Args:
        runs: As from `at_frames`, of one env, with at least one score.
        frames: Where they were read.
        rng: Draws the resamples of the bootstrap.
        counter: What `frames` counts: frames, or updates of runs that collect nothing.

    Returns:
        Columns `TIDY`: `measure` is the name of `value`, `low` and `high` are its 95 % interval
        (NaN with one seed), `runs` is the number of runs, `short_runs` that of runs that ended
        before `frames`, and `tasks` that of tasks. Per task: `score` (raw, mean over seeds) and,
        with published baselines, `gamer_normalized` and `record_normalized`. Over the tasks that
        all variants share, with an empty `task`: `probability_of_improvement:<other variant>` and,
        for the paper's games, the columns of Table 1, and interquartile mean and optimality gap of
        gamer-normalised scores.
    """
    runs = runs.dropna(subset="score")
    env, shared = runs["env"].iloc[0], shared_tasks(runs)
    known = set(published.games()) if env == "atari" else set()
    matrices = {str(name): matrix(part) for name, part in runs.groupby("variant", sort=False)}
    numbers: list[_Number] = []
    for variant, table in matrices.items():
        numbers += _per_task(variant, table, known, rng)
        if games := [task for task in shared if task in known]:
            numbers += _aggregates(variant, table[games], rng)
    for one, other in combinations(matrices if shared else [], 2):
        numbers += _improvement(one, matrices[one][shared], other, matrices[other][shared], rng)

    cells = runs.groupby(["variant", "task"])["short"]
    size, short = cells.size().to_dict(), cells.sum().to_dict()
    return pd.DataFrame(numbers).assign(
        env=env,
        frames=frames,
        runs=[sum(size[n.variant, task] for task in n.over) for n in numbers],
        short_runs=[sum(short[n.variant, task] for task in n.over) for n in numbers],
        tasks=[len(number.over) for number in numbers],
        counter=counter,
    )[list(TIDY)]


def table_1(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Select the columns of the paper's Table 1 of a tidy table: {variant: {aggregate: value}}."""
    rows = table[table["measure"].isin(TABLE_1)]
    return {
        str(variant): {str(row["measure"]): float(row["value"]) for _, row in part.iterrows()}
        for variant, part in rows.groupby("variant", sort=False)
    }


def table_k1(table: pd.DataFrame) -> pd.DataFrame:
    """Select the paper's Table K1, unrounded, from a tidy table of `published_runs`."""
    rows = table[table["measure"] == "score"]
    agents = rows.pivot(index="task", columns="variant", values="value")
    references = published.baselines()[list(REFERENCE_SCORES)].set_axis(
        ["random", "gamer", "record"], axis=1
    )
    games = list(published.games())
    return references.join(agents).loc[games, list(published.table_k1().columns)]


class _Number(NamedTuple):
    """One value of one variant: of `task`, or, if that is empty, of the tasks in `over`."""

    variant: str
    task: str
    measure: str
    value: float
    low: float
    high: float
    over: list[str]


def _per_task(
    variant: str, table: pd.DataFrame, known: set[str], rng: np.random.Generator
) -> Iterator[_Number]:
    """Compute the mean score of each task, also normalised for the known games."""
    references = published.baselines()
    low, high = scores.bootstrap_interval(scores.task_means, table, rng=rng, resamples=RESAMPLES)
    single = table.notna().sum().to_numpy() < 2  # one seed has no interval
    ends = np.where(single, np.nan, [low, high])
    for task, *raw in zip(table.columns, scores.task_means(table), *ends, strict=True):
        scales = {"score": np.array(raw)}  # (3,) value, low, high
        if task in known:
            random, gamer, record = references.loc[task, list(REFERENCE_SCORES)].to_numpy(float)
            scales["gamer_normalized"] = scores.normalize(raw, random, gamer)
            scales["record_normalized"] = scores.normalize(raw, random, record)
        for measure, (value, lower, upper) in scales.items():
            yield _Number(variant, task, measure, value, lower, upper, [task])


def _aggregates(variant: str, table: pd.DataFrame, rng: np.random.Generator) -> Iterator[_Number]:
    """Compute the aggregates over all games of the table."""
    games = list(table.columns)
    random, gamer, record = (
        published.baselines().loc[games, list(REFERENCE_SCORES)].to_numpy(float).T
    )

    def everything(raw: np.ndarray) -> dict[str, float]:
        scaled = scores.normalize(raw, random, gamer)
        return {
            **scores.atari_aggregates(raw, random=random, gamer=gamer, record=record),
            "gamer_interquartile_mean": scores.interquartile_mean(scaled),
            "gamer_optimality_gap": scores.optimality_gap(scaled),
        }

    lows, highs = scores.bootstrap_interval(
        lambda raw: np.array(list(everything(raw).values())), table, rng=rng, resamples=RESAMPLES
    )
    values = everything(table.to_numpy())
    for (measure, value), low, high in zip(values.items(), lows, highs, strict=True):
        yield _Number(variant, "", measure, value, low, high, games)


def _improvement(
    one: str, left: pd.DataFrame, other: str, right: pd.DataFrame, rng: np.random.Generator
) -> Iterator[_Number]:
    """Compute the probability that a run of one variant beats one of another, and vice versa."""
    statistic = scores.probability_of_improvement
    value = statistic(left, right)
    low, high = map(
        float, scores.bootstrap_interval(statistic, left, right, rng=rng, resamples=RESAMPLES)
    )
    measure, tasks = "probability_of_improvement", list(left.columns)
    yield _Number(one, "", f"{measure}:{other}", value, low, high, tasks)
    yield _Number(other, "", f"{measure}:{one}", 1 - value, 1 - high, 1 - low, tasks)
