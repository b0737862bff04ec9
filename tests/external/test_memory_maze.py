"""A suite from PyPI, in a package of its own, found by its entry point."""

import shutil
from pathlib import Path

import entry_points
import numpy as np
import pytest

import dreamer
from dreamer.run.build import make_envs
from dreamer.run.compose import compose

pytest.importorskip("memory_maze")
PACKAGE = Path(__file__).parent / "memory_maze_suite"


@pytest.fixture(autouse=True)
def installed(tmp_path, renderer):
    shutil.copy(PACKAGE / "memory_maze_suite.py", tmp_path)
    points = entry_points.read((PACKAGE / "pyproject.toml").read_text())
    with entry_points.installed(tmp_path, "memory-maze-suite", points):
        yield


@pytest.mark.slow
def test_mazes_follow_from_the_seed_and_end_by_their_time_limit():
    cfg = compose({"env": "memory_maze", "task": "9x9", "env.action_repeat": 50})
    envs, again, others = (make_envs(cfg, seed=seed) for seed in (0, 0, 1))
    first, same, other = (group.reset().obs["image"] for group in (envs, again, others))
    assert (envs.obs_shapes, envs.action_space.size) == ({"image": (3, 64, 64)}, 6)
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    forward = np.eye(6, dtype=np.float32)[[1]]
    steps = [envs.step(forward) for _ in range(20)]  # of 50 frames; an episode has 1000
    assert [bool(step.is_last[0]) for step in steps] == [False] * 19 + [True]
    assert not steps[-1].is_terminal.any()
    for group in (envs, again, others):
        group.close()


@pytest.mark.slow
def test_an_agent_trains_in_a_maze_by_its_name(tmp_path):
    run = dreamer.train(
        overrides={
            "env": "memory_maze",
            "task": "9x9",
            "debug": "fast",
            "logger": "jsonl",
            "env.time_limit_frames": 40,
            "total_frames": 100,
            "prefill_policy_steps": 60,
            "callbacks": {"video": None, "evaluate": None},
            "root": str(tmp_path / "runs"),
        }
    )
    assert run.run_dir == tmp_path / "runs/memory_maze/9x9/debug/seed0"
    assert run.summary.frames == 100


def test_an_unknown_maze_lists_the_known_ones():
    cfg = compose({"env": "memory_maze", "task": "8x8"})
    with pytest.raises(Exception, match="Unknown Memory Maze task 8x8, expected one of 9x9, 11x11"):
        make_envs(cfg, seed=0)
