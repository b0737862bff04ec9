"""Crafter: rewards, achievements and ends as the game gives them, the same from every process."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("crafter")

from dreamer.envs.crafter import Crafter, make_crafter
from dreamer.run.train import train

OPTIONS = dict(
    count=1, seed=0, time_limit_frames=10_000, processes=False, hang_seconds=60, max_restarts=0
)
ACTIONS = np.eye(17, dtype=np.float32)


def play(env, steps, seed=0):
    """Play at random; return all transitions."""
    rng = np.random.default_rng(seed)
    return [env.step(ACTIONS[rng.integers(17)]) for _ in range(steps)]


@pytest.fixture(scope="module")
def episode():
    """A world, and all transitions in it up to its time limit."""
    env = Crafter(True, 60)
    env.reset(1)
    return env, play(env, 60)


@pytest.mark.slow
def test_a_seed_repeats_an_episode_with_rewards_or_without(episode):
    _, some = episode
    elsewhere = [Crafter(False, 60) for _ in range(3)]  # the last lies elsewhere in memory
    elsewhere[-1].reset(1)
    none = play(elsewhere[-1], 60)
    for a, b in zip(some, none, strict=True):
        np.testing.assert_array_equal(a.obs["image"], b.obs["image"])
    assert max(transition.reward for transition in some) >= 0.9  # random play unlocks something
    assert not any(transition.reward for transition in none)


@pytest.mark.slow
def test_the_end_tells_which_achievements_were_unlocked(episode):
    _, (*before, end) = episode
    assert end.is_last and not end.is_terminal
    assert all(not transition.episode_metrics for transition in before)
    names = [name for name in end.episode_metrics if name.startswith("achievement/")]
    assert len(names) == 22
    assert {"achievement/collect_wood", "achievement/wake_up"} <= set(names)
    unlocked = sum(end.episode_metrics[name] for name in names)
    assert set(end.episode_metrics.values()) <= {0.0, 1.0, unlocked}
    assert unlocked == end.episode_metrics["achievements"] >= 1
    # Each unlocking paid 1 in its step; health comes in tenths, and never so much at once.
    assert unlocked == sum(transition.reward > 0.5 for transition in (*before, end))


@pytest.mark.slow
def test_creatures_keep_an_order_in_their_areas_while_they_move(episode):
    world = episode[0]._env._world
    where = {creature: area for area, those in world.chunks.items() for creature in those}
    assert where == {creature: world.chunk_key(creature.pos) for creature in world.objects}
    assert not any(isinstance(creatures, set) for creatures in world.chunks.values())


@pytest.mark.slow
def test_death_is_for_good():
    env = Crafter(True, 10_000)
    env.reset(0)
    assert env.render().shape == (288, 288, 3)
    env._env._player.health = 0
    transition = env.step(ACTIONS[0])
    assert transition.is_last and transition.is_terminal


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


@pytest.mark.slow
def test_every_option_of_the_group_reaches_it():
    envs = partial(make_crafter, "noreward")(**OPTIONS | {"count": 3})
    assert envs.count == 3
    assert envs.obs_shapes == {"image": (3, 64, 64)}
    assert envs.action_space == (17, True, ())
    assert envs.reference_returns == {}
