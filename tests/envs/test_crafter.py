"""Crafter: rewards, achievements and ends as the game gives them, the same from every process."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("crafter")

from dreamer.envs.crafter import Crafter, make_crafter
from dreamer.runner import train

OPTIONS = dict(
    count=1, seed=0, time_limit_frames=10_000, processes=False, hang_seconds=60, max_restarts=0
)
ACTIONS = np.eye(17, dtype=np.float32)


def play(env, steps, seed=0):
    """Play at random; return all arrivals."""
    rng = np.random.default_rng(seed)
    return [env.step(ACTIONS[rng.integers(17)]) for _ in range(steps)]


def test_rewards_are_the_games_and_none_without():
    rewarded, unrewarded = Crafter(True, 200), Crafter(False, 200)
    rewarded.reset(1), unrewarded.reset(1)
    some, none = play(rewarded, 150), play(unrewarded, 150)
    assert max(arrival.reward for arrival in some) >= 0.9  # random play unlocks something
    assert not any(arrival.reward for arrival in none)
    for a, b in zip(some, none, strict=True):
        np.testing.assert_array_equal(a.obs["image"], b.obs["image"])


def test_the_end_tells_which_achievements_were_unlocked():
    env = Crafter(True, 150)
    env.reset(1)
    *before, end = play(env, 150)
    assert end.is_last and not end.is_terminal
    assert all(not arrival.episode_metrics for arrival in before)
    names = [name for name in end.episode_metrics if name.startswith("achievement/")]
    assert len(names) == 22
    assert {"achievement/collect_wood", "achievement/wake_up"} <= set(names)
    unlocked = sum(end.episode_metrics[name] for name in names)
    assert set(end.episode_metrics.values()) <= {0.0, 1.0, unlocked}
    assert unlocked == end.episode_metrics["achievements"] >= 1
    # Each unlocking paid 1 in its step; health comes in tenths, and never so much at once.
    assert unlocked == sum(arrival.reward > 0.5 for arrival in (*before, end))


def test_death_is_for_good():
    env = Crafter(True, 10_000)
    env.reset(0)
    env._env._player.health = 0
    arrival = env.step(ACTIONS[0])
    assert arrival.is_last and arrival.is_terminal


def test_a_seed_repeats_an_episode_whatever_lies_where_in_memory():
    left = Crafter(True, 10_000)
    left.reset(5)
    mine = play(left, 120)
    ballast = [Crafter(True, 10) for _ in range(3)]  # other objects elsewhere in memory
    right = Crafter(True, 10_000)
    right.reset(5)
    yours = play(right, 120)
    assert len(ballast) == 3
    for a, b in zip(mine, yours, strict=True):
        np.testing.assert_array_equal(a.obs["image"], b.obs["image"])
    for areas in (left._env._world.chunks, right._env._world.chunks):
        assert sum(map(len, areas.values())) == len(left._env._world.objects)
        assert not any(isinstance(creatures, set) for creatures in areas.values())


def test_creatures_keep_their_areas_while_they_move():
    env = Crafter(True, 10_000)
    env.reset(2)
    play(env, 100)
    world = env._env._world
    where = {creature: area for area, those in world.chunks.items() for creature in those}
    assert where == {creature: world.chunk_key(creature.pos) for creature in world.objects}


def test_pictures_are_large():
    env = Crafter(True, 10)
    env.reset(0)
    assert env.render().shape == (288, 288, 3)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="Unknown Crafter task `rewards`.*`reward`"):
        make_crafter("rewards", **OPTIONS)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "crafter", None)
    with pytest.raises(ImportError, match="pip install 'crafter"):
        make_crafter("reward", **OPTIONS)


@pytest.mark.slow
def test_achievements_reach_the_metrics(compose_any, tmp_path):
    summary = train(
        compose_any(
            "env=crafter",
            "task=reward",
            "env.time_limit_frames=60",
            "env.count=2",
            "env.processes=true",
            "debug=fast",
            "total_frames=600",
            "prefill_policy_steps=200",
            "callbacks.metrics.every_frames=100",
            "callbacks.evaluate.video_policy_steps=3",
            "logger=jsonl",
            f"root={tmp_path}",
        )
    )
    assert summary.updates >= 5
    lines = (Path(summary.run_dir) / "metrics.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    rates = [line["collect/achievement/wake_up"] for line in written if "collect/length" in line]
    assert rates
    assert all(0 <= rate <= 1 for rate in rates)
    assert any("eval/achievement/collect_wood" in line for line in written)
    assert any(line.get("collect/achievements", 0) > 0 for line in written)


def test_every_option_of_the_group_reaches_it():
    envs = partial(make_crafter, "noreward")(**OPTIONS | {"count": 3})
    assert envs.count == 3
    assert envs.obs_shapes == {"image": (3, 64, 64)}
    assert envs.action_space == (17, True, ())
    assert envs.reference_returns == {}
