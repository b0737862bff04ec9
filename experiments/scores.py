"""Scores of agents over many tasks, from matrices of raw returns: seeds x tasks.

Reports and figures use it. It knows arrays only: no files, no names of games, no tables.

Letters: `S` seeds, `G` tasks (games). A matrix is (S, G) float; NaN marks a seed that a task lacks,
so tasks may rest on different numbers of seeds, but each needs one at least. Randomness comes as an
`np.random.Generator`.

Written here because rliable 1.2.0, the authors' library for the measures of Agarwal et al. (2021,
https://arxiv.org/abs/2108.13264), does not import with pandas 3.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def normalize(score: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """Put raw scores on a scale where `low` is 0 and `high` is 1; nothing is clipped."""
    low = np.asarray(low, float)
    return (np.asarray(score, float) - low) / (np.asarray(high, float) - low)


def task_means(scores: ArrayLike) -> Array:
    """Average each task over the seeds it has: (S, G) -> (G,).

    Raises:
        ValueError: A task has no score at all; leave such tasks out, and say so.
    """
    return np.nanmean(_matrix(scores), axis=0)


def gamer_median(scores: ArrayLike, random: ArrayLike, gamer: ArrayLike) -> float:
    """Median over tasks of gamer-normalised scores.

    This and the next three are the columns of the paper's Table 1.

    Differs from the paper: it says that aggregates are computed before averaging over seeds; its
    numbers come out only if raw scores are averaged over seeds first, as here.

    Args:
        scores: (S, G) raw returns.
        random: (G,) raw returns of random play.
        gamer: (G,) raw returns of the professional gamer.

    Source: DreamerV2, Section 3.  https://arxiv.org/abs/2010.02193
    """
    return float(np.median(normalize(task_means(scores), random, gamer)))


def gamer_mean(scores: ArrayLike, random: ArrayLike, gamer: ArrayLike) -> float:
    """Mean over tasks of gamer-normalised scores; arguments as of `gamer_median`."""
    return float(np.mean(normalize(task_means(scores), random, gamer)))


def record_mean(scores: ArrayLike, random: ArrayLike, record: ArrayLike) -> float:
    """Mean over tasks of scores normalised by the human world record, (G,)."""
    return float(np.mean(normalize(task_means(scores), random, record)))


def clipped_record_mean(scores: ArrayLike, random: ArrayLike, record: ArrayLike) -> float:
    """The paper's measure: `record_mean` in which no task counts more than its record.

    Clipped at 1 after averaging over seeds; there is no lower clip.
    """
    return float(np.mean(np.minimum(normalize(task_means(scores), random, record), 1)))


def atari_aggregates(
    scores: ArrayLike, *, random: ArrayLike, gamer: ArrayLike, record: ArrayLike
) -> dict[str, float]:
    """The four aggregates of Table 1 of one agent, by the names of its columns."""
    return {
        "gamer_median": gamer_median(scores, random, gamer),
        "gamer_mean": gamer_mean(scores, random, gamer),
        "record_mean": record_mean(scores, random, record),
        "clipped_record_mean": clipped_record_mean(scores, random, record),
    }


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of all runs, over all tasks at once, each task weighing the same.

    A quarter of the weight is dropped at either end, rounded down to whole runs. Less noisy than
    the median and not ruled by outliers as the mean is. Where every task has as many seeds, this
    is the trimmed mean of all runs.

    Args:
        scores: (S, G) normalised.

    Source: Agarwal et al. 2021, Section 4.3.
    """
    scores = _matrix(scores)
    there = np.isfinite(scores)
    weight = (there / there.sum(0))[there] / scores.shape[1]  # (runs,), sums to 1
    order = np.argsort(scores[there], kind="stable")
    runs, weight = scores[there][order], weight[order]
    quarter = 0.25 + 1e-9  # sums of weights are not exact
    middle = (np.cumsum(weight) > quarter) & (np.cumsum(weight[::-1])[::-1] > quarter)
    return float(np.average(runs[middle], weights=weight[middle]))


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> float:
    """How far runs stay below `target` on average; less is better, beyond it counts as at it.

    Args:
        scores: (S, G) normalised.
        target: The normalised score beyond which more does not matter.

    Source: Agarwal et al. 2021, Section 4.3.
    """
    return float(target - task_means(np.minimum(_matrix(scores), target)).mean())


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Share of runs whose score exceeds each threshold, each task weighing the same.

    Args:
        scores: (S, G) normalised.
        thresholds: (K,) normalised scores.

    Returns:
        (K,) in [0, 1], falling with the threshold.

    Source: Agarwal et al. 2021, Section 4.2.
    """
    scores = _matrix(scores)
    above = scores > np.asarray(thresholds, float)[:, None, None]  # (K, S, G)
    return (above.sum(1) / np.isfinite(scores).sum(0)).mean(1)


def probability_of_improvement(scores: ArrayLike, others: ArrayLike) -> float:
    """Probability that a run of one agent beats a run of another on a task drawn at random.

    A draw counts half. Per task this is the Mann-Whitney statistic over its greatest value.

    Args:
        scores: (S, G) of the agent, raw or normalised.
        others: (S', G) of the other agent, on the same tasks and scale.

    Source: Agarwal et al. 2021, Section 4.3.
    """
    scores, others = _matrix(scores), _matrix(others)
    if scores.shape[1] != others.shape[1]:
        raise ValueError(
            f"Expect two matrices of the same tasks, actually: {scores.shape[1]} and "
            f"{others.shape[1]} tasks"
        )
    difference = scores[:, None] - others  # (S, S', G), NaN where either run is missing
    wins = (difference > 0) + 0.5 * (difference == 0)
    return float((wins.sum((0, 1)) / np.isfinite(difference).sum((0, 1))).mean())


def bootstrap_interval(
    statistic: Callable[..., float | Array],
    *matrices: ArrayLike,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[Array, Array]:
    """Say how far a statistic could move if the agents were trained again on the same tasks.

    Percentile bootstrap, stratified by task: each resample draws, for every task of every matrix on
    its own, as many seeds as it has, with replacement. Tasks with one seed do not vary, which makes
    intervals too narrow; with few seeds they are rough.

    Args:
        statistic: Of the matrices, in their order; a number, or an array (K,).
        matrices: (S, G) each; S may differ between them.
        rng: Source of the draws.
        resamples: Number of them.
        confidence: Share of the resampled values between the two ends.

    Returns:
        Lower and upper end, each of the statistic's shape; NaN where no task has two seeds.

    Source: Agarwal et al. 2021, Section 4.1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"Expect `confidence` in (0, 1), actually: {confidence}")
    if resamples < 1:
        raise ValueError(f"Expect `resamples` to be at least 1, actually: {resamples}")
    packed = [_pack(_matrix(scores)) for scores in matrices]
    if all(seeds.max() < 2 for _, seeds in packed):
        nothing = np.full_like(statistic(*(pair[0] for pair in packed)), np.nan, dtype=float)
        return nothing, nothing
    values = np.array(
        [statistic(*(_resample(*pair, rng) for pair in packed)) for _ in range(resamples)]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high


def _pack(scores: Array) -> tuple[Array, NDArray[np.int64]]:
    """Move the seeds that each task has to the top: (S, G), and their number (G,)."""
    order = np.argsort(np.isnan(scores), axis=0, kind="stable")
    return np.take_along_axis(scores, order, axis=0), np.isfinite(scores).sum(0)


def _resample(scores: Array, seeds: NDArray[np.int64], rng: np.random.Generator) -> Array:
    """Draw every task's seeds with replacement; what was missing stays missing."""
    chosen = rng.integers(0, seeds, size=scores.shape)  # (S, G)
    drawn = np.take_along_axis(scores, chosen, axis=0)
    return np.where(np.arange(len(scores))[:, None] < seeds, drawn, np.nan)


def _matrix(scores: ArrayLike) -> Array:
    """(S, G) with at least one seed per task.

    Raises:
        ValueError: It is not.
    """
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"Expect `scores` as seeds x tasks, actually of shape {scores.shape}")
    if np.isinf(scores).any():
        raise ValueError("Expect `scores` to be finite, or NaN where missing, actually: infinite")
    empty = np.flatnonzero(np.isnan(scores).all(0))
    if len(empty):
        raise ValueError(
            f"Expect a seed for every task, actually none in column {empty.tolist()} of `scores`"
        )
    return scores
