"""The DeepMind Control Suite: our steps are the suite's own, and bad input is told."""

import importlib
import os
import sys
from functools import partial

import numpy as np
import pytest

pytest.importorskip("dm_control")

from dreamer.envs import dmc
from dreamer.envs.dmc import DMControl, make_dmc
from dreamer.envs.opengl import NoRenderer, choose_renderer
from dreamer.run.train import train

OPTIONS = dict(
    count=1,
    seed=0,
    action_repeat=2,
    time_limit_frames=1000,
    processes=False,
    hang_seconds=60,
    max_restarts=0,
)
make_proprio = partial(make_dmc, observation="proprio", **OPTIONS)


@pytest.fixture(autouse=True, scope="module")
def choose_how_to_draw():
    """And import the suite at once: it never asks again, and a test below says "disable"."""
    try:
        choose_renderer()
    except NoRenderer:
        os.environ["MUJOCO_GL"] = "disable"
    importlib.import_module("dm_control.suite")


def one(domain, task, **options):
    defaults = dict(vision=False, action_repeat=2, time_limit_frames=1000, can_render=False)
    return DMControl(domain, task, **defaults | options)


def raw(domain, task, seed):
    """The suite itself, at the same place of the same random stream."""
    from dm_control import suite

    random = np.random.RandomState(0)
    env = suite.load(domain, task, task_kwargs={"random": random})
    random.seed(seed)
    return env


def test_steps_are_those_of_the_suite_with_rewards_summed():
    ours, suites = one("walker", "walk"), raw("walker", "walk", 5)
    obs, first = ours.reset(5), suites.reset()
    assert obs.keys() == first.observation.keys()
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(-1, 1, 6)
        transition = ours.step(action)
        steps = [suites.step(action) for _ in range(2)]
        assert transition.reward == pytest.approx(steps[0].reward + steps[1].reward)
        for key, value in steps[1].observation.items():
            assert transition.obs[key].dtype == np.float32
            np.testing.assert_allclose(transition.obs[key], np.ravel(value), rtol=1e-6)


def test_vectors_have_the_suites_names_and_numbers_become_vectors():
    env = make_proprio("walker_walk")
    assert env.obs_shapes == {"orientations": (14,), "height": (1,), "velocity": (9,)}
    assert env.action_space == (6, False, ())
    assert env.action_repeat == 2


def test_episodes_end_at_the_time_limit_and_are_not_over():
    env = one("cartpole", "balance", time_limit_frames=1000)
    env.reset(0)
    for _ in range(499):
        assert not env.step(np.zeros(1)).is_last
    transition = env.step(np.zeros(1))
    assert transition.is_last
    assert not transition.is_terminal


def test_a_time_limit_of_our_own_cuts_an_action_repeat_short():
    env = one("cartpole", "balance", action_repeat=4, time_limit_frames=6)
    env.reset(0)
    assert 3.5 < env.step(np.zeros(1)).reward <= 4
    transition = env.step(np.zeros(1))
    assert transition.is_last
    assert 1.5 < transition.reward <= 2
    env.reset(None)
    assert not env.step(np.zeros(1)).is_last


def test_actions_reach_from_limit_to_limit():
    ours, suites = one("quadruped", "walk", action_repeat=1), raw("quadruped", "walk", 3)
    ours.reset(3), suites.reset()
    limits = suites.action_spec()
    assert limits.maximum.max() == 1.1
    for action, motors in ((1.0, limits.maximum), (-7.0, limits.minimum)):
        transition = ours.step(np.full(12, action, np.float32))
        expected = suites.step(motors).observation
        np.testing.assert_allclose(
            transition.obs["egocentric_state"], expected["egocentric_state"], rtol=1e-5
        )


def test_motors_without_limits_take_actions_as_they_are():
    ours, suites = one("lqr", "lqr_2_1", action_repeat=1), raw("lqr", "lqr_2_1", 3)
    ours.reset(3), suites.reset()
    transition, step = ours.step(np.float32([0.75])), suites.step([0.75])
    np.testing.assert_allclose(transition.obs["velocity"], step.observation["velocity"], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "domain", "task"),
    [
        ("ball_in_cup_catch", "ball_in_cup", "catch"),
        ("cup_catch", "ball_in_cup", "catch"),
        ("point_mass_easy", "point_mass", "easy"),
        ("humanoid_CMU_walk", "humanoid_CMU", "walk"),
        ("humanoid_walk", "humanoid", "walk"),
        ("lqr_lqr_2_1", "lqr", "lqr_2_1"),
    ],
)
def test_tasks_are_named_by_domain_and_task(monkeypatch, name, domain, task):
    built = []
    monkeypatch.setattr(dmc, "make_group", lambda make, **_: built.append(make.args))
    make_proprio(name)
    assert built == [(domain, task)]


def test_an_unknown_task_is_refused_with_its_nearest():
    with pytest.raises(ValueError, match="Control task `walker_wlk`. The nearest: `walker_walk`"):
        make_proprio("walker_wlk")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observation": "pixels"}, "`observation` must be vision or proprio, got `pixels`"),
        ({"action_repeat": 0}, "`action_repeat` must be at least 1"),
        ({"time_limit_frames": 0}, "`time_limit_frames` must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_dmc("walker_walk", **{"observation": "proprio"} | OPTIONS | options)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(ImportError, match="pip install 'dm_control"):
        make_proprio("walker_walk")


def test_without_a_renderer_vision_is_refused_and_vectors_get_on(monkeypatch):
    def nothing():
        raise NoRenderer("Install libegl1 or libosmesa6.")

    monkeypatch.setattr(dmc, "choose_renderer", nothing)
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", ""))  # restored after the test
    with pytest.raises(NoRenderer, match="libegl1 or libosmesa6"):
        make_dmc("walker_walk", observation="vision", **OPTIONS)
    with pytest.warns(UserWarning, match="Videos .* libegl1 or libosmesa6"):
        envs = make_proprio("cartpole_balance")
    envs.reset()
    assert envs.render().shape == (1, 256, 256, 3)


# ------------------------------------------------------------------------------------- drawing


@pytest.mark.slow
def test_images_show_what_moves(renderer):
    env = one("cheetah", "run", vision=True, can_render=True)
    before = env.reset(0)["image"]
    for _ in range(5):
        after = env.step(np.ones(6)).obs["image"]
    assert before.shape == after.shape == (3, 64, 64)
    assert before.dtype == np.uint8
    assert before.std() > 10
    assert (before != after).any()
    assert env.obs_shapes == {"image": (3, 64, 64)}


@pytest.mark.slow
def test_the_camera_is_the_papers(renderer):
    env = one("quadruped", "walk", vision=True, can_render=True)
    env.reset(0)
    pictures = [env._env.physics.render(64, 64, camera_id=n).transpose(2, 0, 1) for n in (0, 2)]
    image = env._observe({})["image"]
    np.testing.assert_array_equal(image, pictures[1])
    assert (image != pictures[0]).any()


def test_what_draws_has_a_process_of_its_own(renderer, monkeypatch):
    chosen = []
    monkeypatch.setattr(dmc, "make_group", lambda make, **options: chosen.append(options))
    for processes in ("auto", False):
        make_dmc("walker_walk", observation="vision", **OPTIONS | {"processes": processes})
    make_proprio("walker_walk", processes="auto")
    assert [options["processes"] for options in chosen] == [True, False, "auto"]


@pytest.mark.slow
def test_every_task_of_the_suite_runs():
    from dm_control import suite

    for domain, task in suite.ALL_TASKS:
        env = one(domain, task)
        obs = env.reset(0)
        assert {key: value.shape for key, value in obs.items()} == env.obs_shapes
        transition = env.step(np.zeros(env.action_space.size))
        assert np.isfinite(np.concatenate(list(transition.obs.values()))).all(), (domain, task)
        assert not transition.is_last


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["dmc_proprio", "dmc_vision"])
def test_a_run_trains(compose_any, tmp_path, suite, request):
    if suite == "dmc_vision":
        request.getfixturevalue("renderer")
    summary = train(
        compose_any(
            f"env={suite}",
            "task=walker_walk",
            "debug=fast",
            "env.time_limit_frames=100",
            "total_frames=500",
            "prefill_policy_steps=150",
            "callbacks.evaluate.video_policy_steps=3",
            "pretrain_updates=1",
            "logger=jsonl",
            f"root={tmp_path}",
        )
    )
    assert summary.updates >= 5
    assert summary.metrics["eval/length"] == 50
    assert np.isfinite(summary.metrics["world_model/loss"])
