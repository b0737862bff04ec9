"""The measures, against values computed by hand, by SciPy and by plain loops."""

import itertools
from functools import partial

import numpy as np
import pytest
from scipy import stats

from experiments import scores

NAN = np.nan
RANDOM, GAMER, RECORD = [0.0, 10.0, -20.0], [10.0, 30.0, 0.0], [100.0, 50.0, 20.0]
RAW = [[5.0, 70.0, -10.0], [15.0, 90.0, NAN]]  # means 10, 80, -10


def ragged(rng: np.random.Generator, seeds: int, tasks: int) -> np.ndarray:
    """Random scores in which task g lacks g seeds, the first ones."""
    matrix = rng.normal(size=(seeds, tasks))
    matrix[np.arange(seeds)[:, None] < np.arange(tasks)] = NAN
    return matrix


def test_aggregates_equal_those_worked_out_by_hand():
    # gamer: 10/10 = 1, 70/20 = 3.5, 10/20 = 0.5; record: 10/100, 70/40 = 1.75, 10/40
    aggregates = scores.atari_aggregates(RAW, random=RANDOM, gamer=GAMER, record=RECORD)
    assert aggregates == pytest.approx(
        {
            "gamer_median": 1.0,
            "gamer_mean": 5 / 3,
            "record_mean": 2.1 / 3,
            "clipped_record_mean": 1.35 / 3,
        }
    )


def test_clipping_comes_after_averaging_over_seeds_and_only_from_above():
    assert scores.clipped_record_mean([[0.0], [4.0]], [0.0], [1.0]) == 1.0
    assert scores.clipped_record_mean([[0.0], [1.0]], [0.0], [1.0]) == 0.5
    assert scores.clipped_record_mean([[-3.0]], [0.0], [1.0]) == -3.0


@pytest.mark.parametrize(("seeds", "tasks"), [(3, 5), (8, 55), (1, 2), (7, 1)])
def test_interquartile_mean_equals_scipys_trimmed_mean(seeds, tasks):
    matrix = np.random.default_rng(0).normal(size=(seeds, tasks))
    expected = stats.trim_mean(matrix, 0.25, axis=None)
    assert scores.interquartile_mean(matrix) == pytest.approx(expected)


def test_interquartile_mean_weighs_tasks_alike_where_seeds_are_missing():
    # A third each for 0, 2 and 100; 1 counts whole. Of the weight 2, a quarter is 0.5.
    assert scores.interquartile_mean([[0.0, 1.0], [2.0, NAN], [100.0, NAN]]) == pytest.approx(1.25)
    whole = np.array([[1.0, 2.0, 3.0, 900.0], [1.0, 2.0, 3.0, 900.0]])
    holes = whole.copy()
    holes[1, 2] = NAN
    assert scores.interquartile_mean(whole) == scores.interquartile_mean(holes) == 2.5


def test_optimality_gap_counts_what_is_beyond_the_target_as_at_it():
    assert scores.optimality_gap([[0.5, 3.0], [-1.0, NAN]]) == pytest.approx(1 - (-0.25 + 1) / 2)
    assert scores.optimality_gap([[0.5, 3.0]], target=2.0) == pytest.approx(0.75)


def test_performance_profile_weighs_tasks_alike():
    profile = scores.performance_profile([[0.0, 1.0], [2.0, NAN]], [-1.0, 0.0, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(profile, [1.0, 0.75, 0.75, 0.25, 0.0])


def test_probability_of_improvement_equals_the_mann_whitney_statistic():
    rng = np.random.default_rng(0)
    ours, theirs = (rng.integers(0, 4, size=(seeds, 6)).astype(float) for seeds in (5, 3))
    expected = [stats.mannwhitneyu(ours[:, g], theirs[:, g]).statistic / (5 * 3) for g in range(6)]
    assert scores.probability_of_improvement(ours, theirs) == pytest.approx(np.mean(expected))


def test_probability_of_improvement_equals_counting_the_pairs_that_exist():
    rng = np.random.default_rng(1)
    ours, theirs = ragged(rng, 5, 4), ragged(rng, 7, 4)
    shares = []
    for g in range(4):
        pairs = list(itertools.product(*(m[:, g][np.isfinite(m[:, g])] for m in (ours, theirs))))
        shares.append(sum(a > b for a, b in pairs) / len(pairs))
    assert scores.probability_of_improvement(ours, theirs) == pytest.approx(np.mean(shares))


def test_probability_of_improvement_refuses_other_tasks():
    with pytest.raises(ValueError, match="same tasks, got 2 and 3"):
        scores.probability_of_improvement(np.zeros((1, 2)), np.zeros((1, 3)))


def test_a_resample_draws_each_task_from_its_own_seeds():
    rng = np.random.default_rng(0)
    matrix = ragged(rng, 4, 3)
    seen = []
    scores.bootstrap_interval(lambda m: seen.append(m) or 0.0, matrix, rng=rng, resamples=200)
    for g in range(3):
        there = set(matrix[g:, g])
        drawn = [m[:, g][np.isfinite(m[:, g])] for m in seen]
        assert {len(column) for column in drawn} == {4 - g}
        assert set(np.concatenate(drawn)) == there  # nothing foreign, nothing left out
        assert any(len(set(column)) < len(column) for column in drawn)  # with replacement


def test_interval_of_a_mean_is_that_of_all_equally_likely_resamples():
    matrix = np.array([[0.0], [1.0], [5.0]])
    every = [np.mean(c) for c in itertools.product([0.0, 1.0, 5.0], repeat=3)]
    low, high = scores.bootstrap_interval(
        scores.interquartile_mean, matrix, rng=np.random.default_rng(0), confidence=0.8
    )
    assert (low, high) == pytest.approx(tuple(np.quantile(every, [0.1, 0.9])))


def test_intervals_hold_the_truth_about_as_often_as_they_claim():
    rng = np.random.default_rng(0)
    mean = partial(np.mean, axis=None)
    hits = 0
    for _ in range(50):
        sample = rng.normal(size=(10, 8))
        low, high = scores.bootstrap_interval(mean, sample, rng=rng, resamples=200, confidence=0.9)
        hits += bool(low <= 0 <= high)
    assert 40 <= hits <= 48


def test_interval_of_an_improvement_resamples_both_agents():
    rng = np.random.default_rng(0)
    ours, theirs = np.array([[1.0], [3.0]]), np.array([[2.0], [2.0]])
    low, high = scores.bootstrap_interval(
        scores.probability_of_improvement, ours, theirs, rng=rng, resamples=100
    )
    assert (low, high) == (0.0, 1.0)


def test_interval_of_a_profile_has_its_shape_and_repeats_with_its_seed():
    matrix = np.random.default_rng(0).normal(size=(5, 3))
    profile = partial(scores.performance_profile, thresholds=[-1.0, 0.0])
    first, again = (
        scores.bootstrap_interval(profile, matrix, rng=np.random.default_rng(1), resamples=50)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    assert first[0].shape == (2,)


def test_one_seed_gives_no_interval():
    interval = scores.bootstrap_interval(
        scores.interquartile_mean, [[1.0, 2.0]], rng=np.random.default_rng(0), resamples=5
    )
    assert np.isnan(interval).all()


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([1.0, 2.0], r"shape \(seeds, tasks\)"),
        (np.zeros((0, 3)), r"shape \(seeds, tasks\)"),
        ([[1.0, NAN], [2.0, NAN]], r"none in column \[1\]"),
        ([[1.0, np.inf]], "finite"),
    ],
)
def test_what_is_no_matrix_of_scores_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        scores.interquartile_mean(matrix)


@pytest.mark.parametrize("option", [{"confidence": 1.0}, {"resamples": 0}])
def test_bootstrap_refuses_what_makes_no_interval(option):
    with pytest.raises(ValueError, match=f"`{next(iter(option))}`"):
        scores.bootstrap_interval(np.mean, [[1.0]], rng=np.random.default_rng(0), **option)
