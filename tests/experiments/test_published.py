"""The published data are those of the authors, and read as the paper counts them."""

import numpy as np
import pytest

from experiments import published


def test_the_paper_has_55_games_with_all_baselines():
    games = published.games()
    needed = ["random", "human_gamer", "human_record", "iqn_sticky_2e8", "dqn_sticky_2e8"]
    assert len(set(games)) == 55
    assert published.baselines().loc[list(games), needed].notna().all(axis=None)


@pytest.mark.parametrize(
    ("name", "tasks", "seeds", "bin_frames", "last"),
    [
        ("atari-dreamerv2", 55, 8, 1_000_000, 200_000_000),
        ("atari-dreamerv2-nosched", 55, 3, 1_000_000, 200_000_000),
        ("atari-dreamerv2-schedules", 55, 4, 1_000_000, 199_000_000),
        ("montezuma-dreamerv2", 1, 6, 1_000_000, 199_000_000),
        ("dmc-vision-dreamerv2", 20, 5, 30_000, 1_980_000),
        ("humanoid-dreamerv2", 1, 10, 300_000, 44_100_000),
    ],
)
def test_curves_hold_every_run_at_its_frames(name, tasks, seeds, bin_frames, last):
    curves = published.curves(name)
    runs = curves.groupby(["task", "seed"])["frames"]
    assert tuple(curves.columns) == published.CURVE_COLUMNS
    assert (curves["task"].nunique(), runs.ngroups) == (tasks, tasks * seeds)
    assert (runs.min() == bin_frames).all()
    assert curves["frames"].max() == last
    assert np.isfinite(curves["score"]).all()


def test_curves_of_pong_are_those_of_the_file():
    pong = published.curves("atari-dreamerv2").query("task == 'pong' and frames == 199_000_000")
    assert sorted(pong["seed"], key=int) == [str(seed) for seed in range(3, 11)]
    assert pong["score"].mean() == pytest.approx(19.55)


def test_the_nine_runs_of_pydreamer_are_those_of_its_file():
    curves = published.curves("pydreamer-atari")
    assert tuple(curves.columns) == published.CURVE_COLUMNS
    assert set(curves["variant"]) == {"pydreamer"} and np.isfinite(curves["score"]).all()
    last = curves.groupby(["task", "seed"])["frames"].max()
    assert last.groupby("task").size().to_dict() == {
        **{"breakout": 2, "montezuma_revenge": 2, "pong": 3, "space_invaders": 2}
    }
    millions = {task: int(x / 1e6) for task, x in last.groupby("task").max().items()}
    assert millions == {
        **{"breakout": 99, "montezuma_revenge": 199, "pong": 14, "space_invaders": 216}
    }


def test_unknown_curves_name_the_nearest():
    with pytest.raises(ValueError, match="Unknown published curves `atari-dreamer`.*`atari-dreame"):
        published.curves("atari-dreamer")


def test_games_are_found_under_the_names_of_the_emulator():
    assert published.game("jamesbond") == "james_bond"
    assert published.game("MsPacman") == "ms_pacman"
    assert published.game("memory") is None


def test_the_printed_tables_are_whole():
    assert published.table_1().shape == (7, 4)
    assert published.table_2().shape == (7, 4)
    assert published.table_k1().shape == (55, 6)
    assert published.table_k1().loc["up_n_down", "dreamerv2"] == 653662
