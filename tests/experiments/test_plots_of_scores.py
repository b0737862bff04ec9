"""Bars, aggregates and profiles: the numbers in their axes, not their pixels."""

import numpy as np
import pandas as pd
import pytest
from drawing import bars, labels, legend, lines, remarks, run, table
from matplotlib.collections import PathCollection

from experiments import published, scores, tables
from experiments.plots.aggregates import ablation_summary, aggregate_bands
from experiments.plots.bars import final_scores, gamer_differences, score_differences
from experiments.plots.profiles import performance_profiles
from experiments.plots.style import readable


@pytest.fixture(scope="module")
def atari() -> pd.DataFrame:
    return published.curves("atari-dreamerv2")


@pytest.fixture(scope="module")
def agents() -> pd.DataFrame:
    return tables.published_runs(199_000_000)


def test_bars_are_differences_of_gamer_normalised_scores(agents):
    axis = score_differences(agents, "dreamerv2", ["dqn"]).axes[0]
    people = published.baselines().loc["breakout"]
    own = agents[(agents["variant"] == "dreamerv2") & (agents["task"] == "breakout")]["score"]
    expected = (own.mean() - people["dqn_sticky_2e8"]) / (people["human_gamer"] - people["random"])
    assert bars(axis)[labels(axis).index("Breakout")] == pytest.approx(expected, rel=1e-12)
    assert (np.diff(bars(axis)) <= 0).all()


# As printed in Figure E1, from the top: the first ten games, and the last four.
@pytest.mark.parametrize(
    ("agent", "first", "last"),
    [
        (
            "dqn",
            "James Bond, Up N Down, Assault, Demon Attack, Krull, Gopher, Road Runner, Time Pilot, "
            "Double Dunk, Asterix",
            "Venture, Solaris, Star Gunner, Video Pinball",
        ),
        (
            "c51",
            "James Bond, Up N Down, Assault, Demon Attack, Krull, Gopher, Road Runner, Time Pilot, "
            "Atlantis, Double Dunk",
            "Space Invaders, Venture, Star Gunner, Video Pinball",
        ),
        (
            "rainbow",
            "James Bond, Up N Down, Krull, Assault, Gopher, Demon Attack, Road Runner, Time Pilot, "
            "Atlantis, Breakout",
            "Chopper Command, Double Dunk, Star Gunner, Video Pinball",
        ),
        (
            "iqn",
            "James Bond, Up N Down, Krull, Gopher, Demon Attack, Assault, Road Runner, Time Pilot, "
            "Breakout, Asterix",
            "Space Invaders, Double Dunk, Star Gunner, Video Pinball",
        ),
    ],
)
def test_games_come_in_the_order_of_figure_e1(agents, agent, first, last):
    found = [readable(task) for task in gamer_differences(agents, "dreamerv2", agent).index]
    assert len(found) == 55
    assert ", ".join(found[:10]) == first
    assert ", ".join(found[-4:]) == last


def test_games_that_one_agent_lacks_have_no_bar(agents):
    less = agents[~((agents["variant"] == "dqn") & (agents["task"] == "pong"))]
    assert "pong" not in gamer_differences(less, "dreamerv2", "dqn").index


def test_final_scores_show_every_run_and_what_is_missing():
    runs = tables.at_frames(
        table(
            run([1, 2, 3]),
            run([5, 6, 7], seed="1"),
            run([4], variant="no_kl_balancing"),
            run([8, 9, 9], task="alien"),
        ),
        frames=30,
    )
    alien, pong = final_scores(runs).axes
    dots = [x.get_offsets() for x in pong.collections if isinstance(x, PathCollection)]
    assert np.concatenate(dots).tolist() == [[3, 0], [7, 0], [4, 1]]
    strokes = [line.get_xydata().tolist() for line in pong.lines if line.get_marker() == "|"]
    assert strokes == [[[5, 0]], [[4, 1]]]
    assert labels(alien) == ["DreamerV2", "No KL Balancing"]
    assert remarks(alien) == "no score"
    assert legend(alien.figure) == ["a run", "a run that stopped early"]


# ------------------------------------------------------------------------- many games at once


def test_aggregates_end_at_the_printed_table_1(atari):
    bands = aggregate_bands(atari, [20_000_000, 199_000_000])
    printed = published.table_1().loc["dreamerv2"]
    for measure in ("gamer_median", "gamer_mean", "record_mean", "clipped_record_mean"):
        points = bands[measure]
        assert round(points.mean[-1], 2) == printed[measure]
        assert (points.low < points.high).all()
        assert points.seeds == 8
    np.testing.assert_allclose(bands["clipped_record_mean"].mean[0], 0.1910632460387814)


def test_aggregates_agree_with_the_recipe_where_seeds_are_missing():
    games = ("pong", "alien", "boxing")
    curves = table(
        *(run([k, 3 * k + i], seed=str(k), task=x) for i, x in enumerate(games) for k in range(3))
    )
    curves = curves[~((curves["task"] == "alien") & (curves["seed"] == "1"))]
    people = published.baselines().loc[sorted(games)]
    raw = tables.matrix(tables.at_frames(curves, 20)).to_numpy()
    expected = scores.atari_aggregates(
        raw,
        random=people["random"],
        gamer=people["human_gamer"],
        record=people["human_record"],
    )
    found = {name: points.mean[-1] for name, points in aggregate_bands(curves, [10, 20]).items()}
    assert found == pytest.approx(expected)


def test_frames_before_every_game_has_a_score_are_left_out():
    curves = table(run([1, 2, 3]), run([1, 2, 3], task="alien").iloc[1:])
    assert aggregate_bands(curves, [10, 20, 30])["gamer_mean"].frames.tolist() == [20, 30]


def test_ablation_bars_hold_the_last_values_best_on_top():
    games = ("pong", "alien", "boxing")
    curves = table(
        *(run([-20, 5], task=x, seed=k) for x in games for k in "01"),
        *(run([-20, 9], task=x, variant="no_kl_balancing") for x in (*games, "hero")),
    )
    over, end = ablation_summary(curves, end=20).axes
    people = published.baselines().loc[list(games)]
    expected = [
        np.minimum((x - people["random"]) / (people["human_record"] - people["random"]), 1).mean()
        for x in (5, 9)
    ]
    np.testing.assert_allclose(bars(end), expected)  # from below
    assert labels(end) == ["DreamerV2, 2 seeds", "No KL Balancing, 1 seed"]
    assert lines(over)["dreamerv2"][-1].tolist() == pytest.approx([20, expected[0]])


def test_profiles_are_shares_of_runs_above_each_level(agents):
    dqn = agents[agents["variant"] == "dqn"]
    drawn = lines(performance_profiles(dqn).axes[0])["DQN, one score per game"]
    people = published.baselines().loc[dqn["task"]]
    low, high = people["random"].to_numpy(), people["human_gamer"].to_numpy()
    beyond_gamer = ((dqn["score"].to_numpy() - low) / (high - low) > 1).mean()
    assert drawn[np.isclose(drawn[:, 0], 1), 1].tolist() == pytest.approx([beyond_gamer])
    assert (np.diff(drawn[:, 1]) <= 0).all()


def test_agents_without_a_common_game_cannot_be_compared():
    curves = table(run([1, 2]), run([1, 2], task="alien", variant="no_kl_balancing"))
    with pytest.raises(ValueError, match="a task that all variants share"):
        ablation_summary(curves, end=20)
    with pytest.raises(ValueError, match="a task that all variants share"):
        performance_profiles(tables.at_frames(curves, 20))
