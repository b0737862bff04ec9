"""Different observations are counted from the replays of runs, and averaged over seeds."""

import numpy as np
import pandas as pd
import pytest
from folders import make_run

from dreamer.replay.storage import Column, RingFiles, peek
from experiments import coverage


def store(replay, vectors, is_first=None, *, capacity=None):
    """Write a replay of vectors (E, T, O), with is_first (E, T); by default only at the start."""
    vectors = np.asarray(vectors, np.float32)
    count, steps, size = vectors.shape
    if is_first is None:
        is_first = np.arange(steps) == np.zeros((count, 1))
    columns = {
        "obs_cell": Column((size,), "float32"),
        "obs_time": Column((), "float32"),  # a second observation, here constant
        "is_first": Column((), "bool"),
    }
    files = RingFiles(replay, columns, env_count=count, capacity=capacity or steps + 3)
    for step in range(steps):
        slot = step % files.slots
        files.columns["obs_cell"][:, slot] = vectors[:, step]
        files.columns["is_first"][:, slot] = np.asarray(is_first)[:, step]
        files.commit()


def run_with(root, cells, *, seed=0, **options):
    """A run of one environment with these cells after the reset in cell 0."""
    path = make_run(root, task="maze", seed=seed, **options)
    store(path / "replay", [[[0], *([cell] for cell in cells)]])
    return path


def test_states_are_counted_after_each_policy_step_of_each_environment(tmp_path):
    left = [[0, 0], [0, 1], [0, 0], [0, 2], [5, 0], [0, 1]]
    right = [[0, 0], [0, 1], [3, 3], [0, 3], [3, 3], [0, 4]]
    resets = [[1, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0]]
    store(tmp_path / "replay", [left, right], np.array(resets, bool))
    # reset, reset; 01, 01; 00, 33; 02, reset to 03; reset to 50, 33; 01, 04
    assert coverage.states_seen(tmp_path / "replay").tolist() == [2, 2, 2, 3, 4, 6, 6, 7]


def test_every_observation_makes_a_difference(tmp_path):
    store(tmp_path / "replay", [[[1], [1], [1]]])
    columns = peek(tmp_path / "replay").columns
    assert coverage.states_seen(tmp_path / "replay").tolist() == [1, 1]
    path = tmp_path / "replay" / "obs_time"
    times = np.memmap(path, "float32", "r+", shape=columns["obs_time"].shape)
    times[0, 2] = 1
    times.flush()
    assert coverage.states_seen(tmp_path / "replay").tolist() == [1, 2]


def test_a_replay_that_forgot_its_first_steps_is_refused(tmp_path):
    store(tmp_path / "replay", np.zeros((2, 9, 1)), capacity=8)
    with pytest.raises(ValueError, match="every step of the run, got the last 8 of 9.*capacity"):
        coverage.states_seen(tmp_path / "replay")
    store(tmp_path / "full", np.zeros((2, 8, 1)), capacity=8)
    assert coverage.states_seen(tmp_path / "full").tolist() == [1] * 14


def test_a_folder_without_a_replay_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold a replay, got no steps"):
        coverage.states_seen(tmp_path / "replay")


def test_counts_are_averaged_as_far_as_all_seeds_reach(tmp_path):
    run_with(tmp_path, [1, 2, 3, 4, 5, 6], seed=0)
    run_with(tmp_path, [1, 1, 2, 2], seed=1)
    run_with(tmp_path, [1, 0, 1, 0, 1, 0], variant="other", seed=0)
    counts, problems = coverage.read_counts([tmp_path])
    assert problems == []
    summary = coverage.summarize(counts, 2)
    found = dict(iter(summary.groupby("variant")))
    assert found["tiny"]["frames"].tolist() == [2, 4]
    assert found["tiny"]["value"].tolist() == [2.5, 4]
    assert found["tiny"]["low"].tolist() == [2, 3]
    assert found["tiny"]["high"].tolist() == [3, 5]
    assert found["tiny"]["seeds"].tolist() == [2, 2]
    assert found["other"]["frames"].tolist() == [2, 4, 6]
    assert found["other"]["value"].tolist() == [2, 2, 2]
    assert found["other"]["low"].isna().all()


def test_frames_are_policy_steps_times_the_action_repeat(tmp_path):
    run_with(tmp_path, [1, 2, 3, 4], action_repeat=3)
    counts, _ = coverage.read_counts([tmp_path])
    assert counts["frames"].tolist() == [3, 6, 9, 12]
    assert counts["states"].tolist() == [2, 3, 4, 5]


def test_the_command_prints_a_table_and_writes_numbers_and_a_figure(tmp_path, capsys):
    for seed, cells in enumerate(([1, 2, 3], [1, 1, 1])):
        run_with(tmp_path / "runs", cells, seed=seed)
    run_with(tmp_path / "runs", [1, 2, 2], variant="other")
    without = make_run(tmp_path / "runs", task="maze", variant="empty")
    out = tmp_path / "out"
    assert coverage.main([str(tmp_path / "runs"), f"out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "dummy/maze: different observations, mean [95 % interval]" in printed
    assert "3.000 [2.000, 4.000]" in printed
    assert "tiny (2 seeds)" in printed and "other (1 seed)" in printed
    assert f"! {without}: {without / 'replay'} must hold a replay, got no steps. Left" in printed
    table = pd.read_csv(out / "coverage.csv")
    assert table[table["variant"] == "other"]["value"].tolist() == [2, 3, 3]
    assert {path.name for path in out.iterdir()} == {"coverage.csv", "coverage.png", "coverage.pdf"}


def test_the_figure_has_a_line_per_variant(tmp_path, monkeypatch):
    run_with(tmp_path, [1, 2, 3, 4])
    run_with(tmp_path, [1, 1, 1, 1], variant="other")
    counts, _ = coverage.read_counts([tmp_path])
    figures = []
    monkeypatch.setattr(coverage.style, "save", lambda figure, stem: figures.append(figure))
    coverage.draw(coverage.summarize(counts, 1), tmp_path / "figure")
    (axis,) = figures[0].axes
    drawn = {line.get_label(): line.get_ydata().tolist() for line in axis.lines}
    assert drawn == {"Tiny": [2, 3, 4, 5], "Other": [2, 2, 2, 2]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "must be one or more folders of runs, got none"),
        (["nothing", "none"], "must hold runs with a replay, got nothing, none"),
        (["nothing", "ut=x"], "ut"),
    ],
)
def test_wrong_words_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert coverage.main(words) == 2
    assert message in capsys.readouterr().err


def test_help_names_the_keys(capsys):
    assert coverage.main(["--help"]) == 0
    assert "out" in capsys.readouterr().out


@pytest.mark.slow
def test_the_cells_of_a_run_in_the_maze_are_counted(compose_any, tmp_path):
    from dreamer.run.train import train

    train(
        compose_any(
            "env=dummy",
            "task=maze_noreward",
            "env.count=2",
            "debug=fast",
            "total_frames=500",
            "prefill_policy_steps=400",
            "collect_policy=random",
            "logger=jsonl",
            f"root={tmp_path}",
        )
    )
    counts, problems = coverage.read_counts([tmp_path])
    assert problems == []
    assert counts["frames"].tolist() == list(range(1, len(counts) + 1))
    assert len(counts) >= 500
    assert counts["states"].is_monotonic_increasing
    assert 5 <= counts["states"].iloc[-1] <= 30
