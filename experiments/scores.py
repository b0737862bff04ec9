"""Aggregate scores over many tasks, from matrices of raw returns: seeds x tasks.

Reports and figures use it. It knows arrays only: no files, names of games or tables.

Letters: `S` seeds, `G` tasks (games). A matrix is (S, G) float; NaN marks a missing run, so tasks
may have different numbers of seeds, but each needs at least one. Random draws use a given
`np.random.Generator`.

It exists because rliable 1.2.0, the authors' library for the measures of Agarwal et al. (2021,
https://arxiv.org/abs/2108.13264), does not import with pandas 3.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def normalize(score: ArrayLike, low: ArrayLike, high: ArrayLike) -> Array:
    """Scale raw scores so that `low` is 0 and `high` is 1, without clipping."""
    low = np.asarray(low, float)
    return (np.asarray(score, float) - low) / (np.asarray(high, float) - low)


def task_means(scores: ArrayLike) -> Array:
    """Average each task over the seeds it has: (S, G) -> (G,).

    Raises:
        ValueError: A task has no score.
    """
    return np.nanmean(_matrix(scores), axis=0)


def gamer_median(scores: ArrayLike, random: ArrayLike, gamer: ArrayLike) -> float:
    """Median over tasks of gamer-normalised scores.

    This and the next three functions are the columns of the paper's Table 1.

    Differs from the paper: according to its text, aggregates are computed before averaging over
    seeds; its numbers result only from averaging raw scores over seeds first, as here.

    Args:
        scores: (S, G) raw returns.
        random: (G,) raw returns of a random agent.
        gamer: (G,) raw returns of a professional gamer.

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
    """Mean over tasks of record-normalised scores clipped at 1: the paper's measure.

    Clipping follows averaging over seeds; there is no lower clip.
    """
    return float(np.mean(np.minimum(normalize(task_means(scores), random, record), 1)))


def atari_aggregates(
    scores: ArrayLike, *, random: ArrayLike, gamer: ArrayLike, record: ArrayLike
) -> dict[str, float]:
    """Compute the four aggregates of Table 1, by the names of its columns."""
    return {
        "gamer_median": gamer_median(scores, random, gamer),
        "gamer_mean": gamer_mean(scores, random, gamer),
        "record_mean": record_mean(scores, random, record),
        "clipped_record_mean": clipped_record_mean(scores, random, record),
    }


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of all runs of all tasks, with equal weight for each task.

    A quarter of the weight is dropped at either end, rounded down to whole runs. It is less noisy
    than the median and less sensitive to outliers than the mean. If all tasks have as many seeds,
    it is the trimmed mean of all runs.

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
    """Mean distance of runs below `target`; lower is better, scores above it count as `target`.

    Args:
        scores: (S, G) normalised.
        target: The normalised score above which differences do not count.

    Source: Agarwal et al. 2021, Section 4.3.
    """
    return float(target - task_means(np.minimum(_matrix(scores), target)).mean())


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Share of runs whose score exceeds each threshold, with equal weight for each task.

    Args:
        scores: (S, G) normalised.
        thresholds: (K,) normalised scores.

    Returns:
        (K,) in [0, 1], decreasing.

    Source: Agarwal et al. 2021, Section 4.2.
    """
    scores = _matrix(scores)
    above = scores > np.asarray(thresholds, float)[:, None, None]  # (K, S, G)
    return (above.sum(1) / np.isfinite(scores).sum(0)).mean(1)


def probability_of_improvement(scores: ArrayLike, others: ArrayLike) -> float:
    """Probability that a run of one agent beats a run of another on a random task.

    A tie counts half. Per task, it is the Mann-Whitney statistic divided by its maximum.

    Args:
        scores: (S, G) of the agent, raw or normalised.
        others: (S', G) of the other agent, on the same tasks and scale.

    Source: Agarwal et al. 2021, Section 4.3.
    """
    scores, others = _matrix(scores), _matrix(others)
    if scores.shape[1] != others.shape[1]:
        raise ValueError(
            f"`scores` and `others` must have the same tasks, got {scores.shape[1]} and "
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
    """Compute a confidence interval of a statistic for training the agents again on the same tasks.

    Percentile bootstrap, stratified by task: each resample draws as many seeds as a task has, with
    replacement, separately for every task and matrix. Tasks with one seed do not vary, which makes
    intervals too narrow; with few seeds they are rough.

    Args:
        statistic: Of the matrices, in their order; a number, or an array (K,).
        matrices: (S, G) each; S may differ between them.
        rng: Generator of the draws.
        resamples: Number of them.
        confidence: Share of the resampled values within the interval.

    Returns:
        Lower and upper end, each of the statistic's shape; NaN if no task has two seeds.

    Source: Agarwal et al. 2021, Section 4.1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be in (0, 1), got {confidence}")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples}")
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
    """Move the existing seeds of each task to the top: (S, G), and count them: (G,)."""
    order = np.argsort(np.isnan(scores), axis=0, kind="stable")
    return np.take_along_axis(scores, order, axis=0), np.isfinite(scores).sum(0)


def _resample(scores: Array, seeds: NDArray[np.int64], rng: np.random.Generator) -> Array:
    """Draw the seeds of every task with replacement; missing ones stay missing."""
    chosen = rng.integers(0, seeds, size=scores.shape)  # (S, G)
    drawn = np.take_along_axis(scores, chosen, axis=0)
    return np.where(np.arange(len(scores))[:, None] < seeds, drawn, np.nan)


def _matrix(scores: ArrayLike) -> Array:
    """Convert to an array (S, G) with at least one seed per task.

    Raises:
        ValueError: The shape or a value is wrong, or a task has no seed.
    """
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"`scores` must have shape (seeds, tasks), got {scores.shape}")
    if np.isinf(scores).any():
        raise ValueError("`scores` must be finite, or NaN where missing, got infinity")
    empty = np.flatnonzero(np.isnan(scores).all(0))
    if len(empty):
        raise ValueError(
            f"`scores` must have a seed for every task, got none in column {empty.tolist()}"
        )
    return scores
