"""MiniGrid: what the agent sees of a room, in pixels and in symbols."""

import sys
from functools import partial

import numpy as np
import pytest

pytest.importorskip("minigrid")

from dreamer.envs import minigrid as ours
from dreamer.envs.minigrid import MiniGrid, make_minigrid
from dreamer.run.train import train

OPTIONS = dict(count=1, seed=0, processes=False, hang_seconds=60, max_restarts=0)
make_pixels = partial(make_minigrid, observation="pixels", map=False, goals=False, **OPTIONS)
LEFT, RIGHT, FORWARD = np.eye(7, dtype=np.float32)[:3]


def test_pixels_are_the_agents_view_enlarged():
    from minigrid.wrappers import RGBImgPartialObsWrapper

    env = MiniGrid("MiniGrid-DoorKey-6x6-v0", True)
    image = env.reset(3)["image"]
    assert image.shape == (3, 64, 64)
    assert image.dtype == np.uint8
    theirs = RGBImgPartialObsWrapper(env._env).observation({"image": None})["image"]
    assert theirs.shape == (56, 56, 3)
    np.testing.assert_array_equal(image[:, 0, 0], theirs[0, 0])
    np.testing.assert_array_equal(image[:, -1, -1], theirs[-1, -1])
    # Seven pixels become eight: every pixel is there, one in seven of them twice.
    assert {tuple(p) for p in image.reshape(3, -1).T} == {tuple(p) for p in theirs.reshape(-1, 3)}


def test_symbols_say_what_stands_where():
    env = MiniGrid("MiniGrid-Empty-5x5-v0", False)
    assert env.obs_shapes == {"tiles": (7 * 7 * (11 + 6 + 3),), "direction": (4,)}
    obs = env.reset(0)
    assert obs["direction"].tolist() == [1, 0, 0, 0]  # it looks to the right
    kinds, colours, states = np.split(obs["tiles"], [49 * 11, 49 * 17])
    kinds = kinds.reshape(7, 7, 11)
    np.testing.assert_array_equal(kinds.sum(-1), 1)
    assert colours.sum() == states.sum() == 49
    empty, wall, goal = 1, 2, 8
    assert kinds[3, 6, empty] == 1  # where the agent stands, below in the middle of its view
    assert kinds[3, 3, wall] == 1  # three tiles ahead
    assert kinds[5, 4, goal] == 1  # two ahead and two to the right
    assert env.step(RIGHT).obs["direction"].tolist() == [0, 1, 0, 0]


def test_the_goal_ends_the_episode_for_good_with_a_reward():
    env = MiniGrid("MiniGrid-Empty-5x5-v0", False)
    env.reset(0)
    for action in (FORWARD, FORWARD, RIGHT, FORWARD):
        transition = env.step(action)
        assert not transition.is_last
        assert transition.reward == 0
    transition = env.step(FORWARD)
    assert transition.is_last and transition.is_terminal
    assert transition.reward == pytest.approx(1 - 0.9 * 5 / 100)


def test_a_time_limit_does_not_end_it_for_good():
    env = MiniGrid("MiniGrid-Empty-5x5-v0", False)
    env.reset(0)
    transitions = [env.step(LEFT) for _ in range(100)]
    assert [transition.is_last for transition in transitions] == [False] * 99 + [True]
    assert not transitions[-1].is_terminal


def test_an_episode_reports_how_many_states_it_visited():
    env = MiniGrid("MiniGrid-Empty-5x5-v0", False)
    for _ in range(2):  # the second episode counts anew
        env.reset(0)
        transitions = [env.step(action) for action in [LEFT] * 99 + [FORWARD]]
        assert all(not transition.episode_metrics for transition in transitions[:-1])
        # Four directions in the first tile, then one tile further with one of them.
        assert transitions[-1].episode_metrics == {"visited_states": 5.0}


TRUTH = "probe/map", "probe/agent_pos", "probe/agent_dir", "probe/map_seen"
GOAL = "probe/target_vec", "probe/targets_vec", "probe/goals_visage"


def wander(env, steps, seed=0):
    """The observations of random steps, after a reset, in one or more episodes."""
    rng = np.random.default_rng(seed)
    one_hot = np.eye(env.action_space.size, dtype=np.float32)
    yield env.reset(seed)
    for _ in range(steps):
        transition = env.step(one_hot[rng.integers(len(one_hot))])
        yield transition.obs
        if transition.is_last:
            yield env.reset(None)


def test_an_agent_observes_the_same_with_the_truth_beside_it():
    plain = MiniGrid("MiniGrid-DoorKey-6x6-v0", False)
    env = MiniGrid("MiniGrid-DoorKey-6x6-v0", False, with_map=True, with_goals=True)
    assert list(env.obs_shapes) == [*plain.obs_shapes, *TRUTH, *GOAL]
    for expected, obs in zip(wander(plain, 30), wander(env, 30), strict=True):
        assert list(obs) == list(env.obs_shapes)
        for key, value in obs.items():
            assert value.shape == env.obs_shapes[key]
            assert value.dtype == (np.uint8 if key == "probe/map" else np.float32)
        for key, value in expected.items():
            np.testing.assert_array_equal(obs[key], value)


def test_the_map_is_the_grid_without_the_agent():
    env = MiniGrid("MiniGrid-DoorKey-6x6-v0", False, with_map=True)
    carried = 0
    for obs in wander(env, 300):
        cells = env._room.grid.encode()[..., 0].T  # (height, width) of MiniGrid's kinds, from 1
        np.testing.assert_array_equal(obs["probe/map"].argmax(0) + 1, cells)
        np.testing.assert_array_equal(obs["probe/map"].sum(0), 1)
        carried += env._room.carrying is not None
    assert carried > 0  # the key left the map


def test_what_was_seen_is_what_was_in_view_at_any_time():
    env = MiniGrid("MiniGrid-FourRooms-v0", False, with_map=True)
    room, expected, ends = env._room, np.zeros((19, 19), bool), []
    for obs in wander(env, 60):
        _, mask = room.gen_obs_grid()  # of the cells in view, as the agent sees them
        for x, y in np.ndindex(19, 19):
            place = room.relative_coords(x, y)
            expected[y, x] |= place is not None and mask[place]
        np.testing.assert_array_equal(obs["probe/map_seen"].reshape(19, 19) > 0, expected)
        np.testing.assert_array_equal(obs["probe/agent_pos"], room.agent_pos)
        np.testing.assert_array_equal(obs["probe/agent_dir"], room.dir_vec)
        ends.append(expected.sum())
    assert ends[0] < ends[-1] < 19 * 19
    assert env.reset(1)["probe/map_seen"].sum() < ends[-1]  # a new episode begins unseen


def test_the_goal_is_ahead_or_to_the_right_and_is_forgotten():
    env = MiniGrid("MiniGrid-Empty-8x8-v0", False, with_goals=True)
    obs = env.reset(0)  # at (1, 1), looking to the right; the goal is at (6, 6)
    assert obs["probe/target_vec"].tolist() == [5, 5]
    assert obs["probe/goals_visage"] > 1000  # three columns to the right are in view
    obs = env.step(RIGHT).obs  # looking down
    assert obs["probe/target_vec"].tolist() == [5, -5]
    for _ in range(3):
        obs = env.step(FORWARD).obs
    assert obs["probe/target_vec"].tolist() == [2, -5]
    for _ in range(2):
        env.step(FORWARD)
    obs = env.step(LEFT).obs  # in the same row, looking at it
    assert obs["probe/target_vec"].tolist() == [5, 0]
    assert obs["probe/targets_vec"].tolist() == [5, 0]
    assert obs["probe/goals_visage"] == 0
    ages = [float(env.step(LEFT).obs["probe/goals_visage"][0]) for _ in range(4)]
    assert ages == [1, 2, 3, 0]


def test_a_task_without_a_goal_tile_is_refused_for_goals():
    env = MiniGrid("MiniGrid-Fetch-5x5-N2-v0", False, with_goals=True)
    with pytest.raises(ValueError, match="must not need goals in a task without a goal tile"):
        env.reset(0)


def whole_state(env):
    """All that tells one state from another, from the whole grid."""
    room = env._room
    carried = room.carrying.encode() if room.carrying else None
    return room.grid.encode().tobytes(), tuple(room.agent_pos), room.agent_dir, carried


@pytest.mark.parametrize(
    "task",
    [
        *("MiniGrid-DoorKey-5x5-v0", "MiniGrid-Unlock-v0", "MiniGrid-KeyCorridorS3R1-v0"),
        *("MiniGrid-Dynamic-Obstacles-6x6-v0", "BabyAI-PutNextLocal-v0"),
    ],
)
def test_visited_states_differ_in_the_grid_the_position_or_what_is_carried(task):
    env = MiniGrid(task, False)
    rng = np.random.default_rng(0)
    one_hot = np.eye(env.action_space.size, dtype=np.float32)
    carried, ended = 0, 0
    env.reset(0)
    seen = {whole_state(env)}
    for _ in range(800):
        transition = env.step(one_hot[rng.integers(len(one_hot))])
        seen.add(whole_state(env))
        carried += env._room.carrying is not None
        if transition.is_last:
            ended += 1
            assert transition.episode_metrics == {"visited_states": len(seen)}
            env.reset(None)
            seen = {whole_state(env)}
    assert ended > 0
    assert carried > 0 or "Obstacles" in task


def test_layouts_repeat_if_their_number_is_given():
    def layouts(number, seed):
        env = MiniGrid("MiniGrid-FourRooms-v0", False, layouts=number)
        states = [seed, *[None] * 30]
        for i, each in enumerate(states):
            env.reset(each)
            states[i] = whole_state(env)
        return states

    assert len(set(layouts(None, 0))) > 25
    two = set(layouts(2, 0))
    assert len(two) == 2
    assert set(layouts(2, 5)) == two  # in every run
    assert len(set(layouts(1, 0))) == 1
    assert layouts(2, 0) == layouts(2, 0)


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("DoorKey-6x6", "MiniGrid-DoorKey-6x6-v0"),
        ("doorkey_6x6", "MiniGrid-DoorKey-6x6-v0"),
        ("MiniGrid-DoorKey-6x6-v0", "MiniGrid-DoorKey-6x6-v0"),
        ("MultiRoom-N4-S5", "MiniGrid-MultiRoom-N4-S5-v1"),  # the newest
        ("MultiRoom-N4-S5-v0", "MiniGrid-MultiRoom-N4-S5-v0"),
        ("BabyAI-GoToLocal", "BabyAI-GoToLocal-v0"),
    ],
)
def test_tasks_go_by_their_id_with_or_without_prefix_and_version(monkeypatch, name, id_):
    built = []
    monkeypatch.setattr(ours, "make_group", lambda make, **_: built.append(make.args[0]))
    make_pixels(name)
    assert built == [id_]


def test_an_unknown_task_is_refused_with_its_nearest():
    with pytest.raises(ValueError, match="MiniGrid task `DoorKay-6x6`.*`DoorKey-6x6`"):
        make_pixels("DoorKay-6x6")


def test_an_unknown_observation_is_refused():
    with pytest.raises(ValueError, match="`observation` must be pixels or symbolic, got `text`"):
        make_minigrid("DoorKey-6x6", observation="text", **OPTIONS)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(ImportError, match="pip install 'minigrid"):
        make_pixels("DoorKey-6x6")


@pytest.mark.slow
@pytest.mark.parametrize("observation", ["pixels", "symbolic"])
def test_a_run_trains(compose_any, tmp_path, observation):
    summary = train(
        compose_any(
            "env=minigrid",
            "task=Empty-5x5",
            f"env.observation={observation}",
            "env.count=2",
            "env.processes=true",
            "debug=fast",
            "total_frames=400",
            "prefill_policy_steps=200",
            "callbacks.evaluate.video_policy_steps=3",
            "logger=jsonl",
            f"root={tmp_path}",
        )
    )
    assert summary.updates >= 5
    assert np.isfinite(summary.metrics["world_model/loss"])
