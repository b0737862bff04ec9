"""Gymnasium's environments: how they step, what they show, and how they are found."""

import sys
from pathlib import Path

import entry_points
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import MultiDiscrete
from toys import SIGHT, Toy

from dreamer.envs import gym
from dreamer.envs.group import EnvironmentFault
from dreamer.envs.gym import GymEnv, make_gym
from dreamer.run.train import train
from dreamer.types import ActionSpace

OPTIONS = dict(
    count=1,
    seed=0,
    action_repeat=1,
    time_limit_frames=None,
    grayscale=False,
    flat_keys="$^",
    processes=False,
    hang_seconds=60,
    max_restarts=0,
    kwargs={},
)
FIRST, SECOND = np.eye(2, dtype=np.float32)


def make(task, **options):
    return make_gym(task, **OPTIONS | options)


def length_of_episode(envs):
    """Policy steps until the first end, and whether that is terminal."""
    action = np.zeros((1, envs.action_space.size), np.float32)
    envs.reset()
    for length in range(1, 1000):
        step = envs.step(action)
        if step.is_last[0]:
            return length, bool(step.is_terminal[0])
    raise AssertionError("the episode does not end")


# One environment


def test_an_environment_shows_its_observations_in_our_words():
    env = GymEnv(Toy())
    assert env.obs_shapes == {"camera/left": (3, 64, 64), "gear": (3,), "joints": (4,)}
    obs = env.reset(seed=3)
    SIGHT.seed(3)
    raw = SIGHT.sample()
    np.testing.assert_array_equal(obs["joints"], raw["joints"].reshape(-1))
    assert obs["gear"].argmax() == raw["gear"]


def test_what_cannot_be_observed_is_noted():
    (note,) = GymEnv(Toy()).notes
    assert note.startswith("The observation `mission` is ignored: Text(")


@pytest.mark.parametrize(("terminal", "ends"), [(True, (True, True)), (False, (False, True))])
def test_ends_and_time_limits_are_told_apart(terminal, ends):
    env = GymEnv(Toy(length=2, terminal=terminal))
    env.reset(seed=0)
    assert env.step(FIRST)[1:4] == (1.0, False, False)
    assert env.step(FIRST)[1:4] == (2.0, *ends)


def test_action_repeat_sums_rewards_and_stops_at_the_end():
    toy = Toy(length=5)
    env = GymEnv(toy, action_repeat=3)
    env.reset(seed=0)
    assert env.step(SECOND)[1:4] == (1 + 2 + 3, False, False)
    assert env.step(FIRST)[1:4] == (4 + 5, True, True)
    assert toy.actions == [1, 1, 1, 0, 0]


def test_actions_arrive_in_the_environments_own_terms():
    toy = Toy(actions=MultiDiscrete([3, 2], start=[1, 0]))
    env = GymEnv(toy)
    assert env.action_space == ActionSpace(5, True, (3, 2))
    env.reset(seed=0)
    env.step(np.array([0, 0, 1, 0, 1], np.float32))
    assert toy.actions[0].tolist() == [3, 1]


# Pictures


def test_an_environments_own_picture_is_taken_where_it_draws_one():
    class Drawing(Toy):
        render_mode = "rgb_array"

        def render(self):
            return np.full((30, 40, 3), 7, np.uint8)

    assert (GymEnv(Drawing()).render() == np.full((30, 40, 3), 7)).all()


def test_an_environment_that_gives_no_pictures_shows_its_observation():
    env = GymEnv(Toy())
    env.reset(seed=0)
    assert env.render().shape == (256, 256, 3)


# Registered environments


def test_options_reach_the_environment():
    envs = make("CartPole-v1", kwargs={"sutton_barto_reward": True})
    assert length_of_episode(envs) == (pytest.approx(9, abs=2), True)
    envs.reset()
    rewards = [envs.step(FIRST[None]).reward[0] for _ in range(15)]
    assert min(rewards) == -1


def test_a_time_limit_replaces_the_registered_one_and_is_not_terminal():
    assert length_of_episode(make("Pendulum-v1")) == (200, False)
    assert length_of_episode(make("Pendulum-v1", time_limit_frames=12)) == (12, False)
    assert length_of_episode(make("Pendulum-v1", time_limit_frames=12, action_repeat=5)) == (
        3,
        False,
    )


def test_a_module_registers_its_own():
    envs = make("toys:toys/MultiBinary-v0")
    assert envs.obs_shapes == {"image": (1, 64, 64)}
    assert envs.action_space.choices == (2, 2, 2)
    assert length_of_episode(envs) == (4, True)


def test_a_package_registers_its_own_by_an_entry_point(tmp_path):
    (tmp_path / "arcade.py").write_text(
        "import gymnasium\ndef register():\n    gymnasium.register('arcade/Plain-v0', 'toys:Toy')\n"
    )
    point = {"arcade": "arcade:register"}
    with entry_points.installed(tmp_path, "arcade", point, group="gymnasium.envs"):
        assert length_of_episode(make("arcade:arcade/Plain-v0"))[1]


def test_ids_are_found_whatever_their_case():
    assert make("cartpole-V1").obs_shapes == {"vector": (4,)}


@pytest.mark.slow
def test_environments_in_processes_of_their_own_step_the_same(capfd):
    here, there = (make("toys:toys/Plain-v0", count=2, processes=apart) for apart in (False, True))
    try:
        assert there.user_spaces == here.user_spaces
        for mine, theirs in [(here.reset(), there.reset())] + [
            (here.step(action), there.step(action)) for action in [np.stack([FIRST, SECOND])] * 9
        ]:
            for key in here.obs_shapes:
                np.testing.assert_array_equal(mine.obs[key], theirs.obs[key])
            np.testing.assert_array_equal(mine.reward, theirs.reward)
    finally:
        there.close()
    assert capfd.readouterr().out.count("is ignored") <= 1


@pytest.mark.parametrize(
    ("task", "options", "error", "message"),
    [
        ("CartPole", {}, ValueError, "Unknown Gymnasium task `CartPole`. The nearest: `CartPole-v"),
        ("CartPole-v1", {"kwargs": {"gravitas": 1}}, ValueError, "`env.kwargs` .*gravitas"),
        (
            "CartPole-v1",
            {"time_limit_frames": 0},
            ValueError,
            "must be a whole number of at least 1",
        ),
        ("CartPole-v1", {"action_repeat": 0}, ValueError, "`action_repeat` must be at least 1"),
        ("CartPole-v1", {"count": 0}, ValueError, "`count` must be at least 1"),
        ("toys:toys/Unbounded-v0", {}, ValueError, "Actions must have finite bounds"),
        ("no_such_module:Toy-v0", {}, ImportError, "no_such_module"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_reason(task, options, error, message):
    with pytest.raises(error, match=message):
        make(task, **options)


@pytest.mark.parametrize(
    ("task", "id_"),
    [("ALE/Pong-v5", "ALE/Pong-v5"), ("PongNoFrameskip-v4", "PongNoFrameskip-v4")],
)
def test_atari_games_are_registered_when_they_are_wanted(task, id_):
    pytest.importorskip("ale_py")
    envs = make(task)
    assert envs.obs_shapes == {"image": (3, 64, 64)}
    assert envs.members[0].name == id_
    envs.reset()
    envs.close()


def test_atari_games_without_their_package_say_what_to_install(monkeypatch):
    monkeypatch.setattr(gym.gymnasium, "registry", {})
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ImportError, match="ALE/Pong-v5 needs `pip install 'ale-py"):
        make("ALE/Pong-v5")


def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_toys.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        EnvironmentFault, match=r"import of broken_toys raised RuntimeError: no licence .*py:1"
    ):
        make("broken_toys:Toy-v0")


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_error_of_a_constructor_names_the_environment(apart, monkeypatch):
    with pytest.raises(
        EnvironmentFault,
        match=r'^toys:toys/Blind-v0 cannot be built: NameError: Cannot connect to "None" '
        r"\(.*toys.py:\d+ in fail\)\. Without a screen, start the command with `xvfb-run -a`",
    ):
        make("toys:toys/Blind-v0", processes=apart)


def test_a_missing_package_is_named(monkeypatch):
    def fail(*args, **kwargs):
        raise gymnasium.error.DependencyNotInstalled("pip install swig")

    monkeypatch.setattr(gym.gymnasium, "make", fail)
    with pytest.raises(ImportError, match="CartPole-v1: pip install swig"):
        make("CartPole-v1")


# Whole runs


@pytest.fixture
def compose_run(compose_any, tmp_path):
    """A run of half a second on one of the toys."""
    small = ("total_frames=81", "prefill_policy_steps=48", "train_every_policy_steps=8")
    quiet = ("logger=jsonl", "callbacks.evaluate=null", "callbacks.video=null")

    def compose(task, *overrides):
        words = (*small, *quiet, f"root={tmp_path}", f"run_dir={tmp_path}/run", *overrides)
        return compose_any("env=gym", f"task=toys:toys/{task}-v0", "debug=fast", *words)

    return compose


@pytest.mark.slow
def test_an_agent_learns_from_images_and_bits(compose_run):
    summary = train(compose_run("MultiBinary"))
    assert (summary.frames, summary.updates) == (81, 6)
    assert np.isfinite(list(summary.metrics.values())).all()


@pytest.mark.slow
def test_an_agent_learns_from_nested_spaces_and_makes_several_choices(compose_run):
    summary = train(compose_run("MultiDiscrete"))
    assert (summary.frames, summary.updates) == (81, 6)
    files = Path(summary.run_dir) / "replay"
    action = np.fromfile(files / "prev_action", np.float32).reshape(-1, 5)
    action = action[: summary.policy_steps]
    acted = action.any(1)
    assert acted.sum() >= 60
    assert (action[acted, :3].sum(1) == 1).all()
    assert (action[acted, 3:].sum(1) == 1).all()


@pytest.mark.slow
def test_a_run_survives_faults_up_to_a_number_and_goes_on_after_more(
    compose_run, monkeypatch, capsys
):
    steps = []

    def step_with_faults(self, action):
        steps.append(action)
        if len(steps) in broken:
            raise OSError("lost the simulator")
        return step(self, action)

    step = Toy.step
    monkeypatch.setattr(Toy, "step", step_with_faults)
    broken = {20, 60, 61}
    with pytest.raises(
        EnvironmentFault, match=r"Environment 0 \(toys:.*\) failed again.*the simulator"
    ):
        train(compose_run("Bounded", "env.max_restarts=2"))
    assert capsys.readouterr().err.count("lost the simulator") == 2
    made = len(steps)
    summary = train(compose_run("Bounded", "env.max_restarts=2"))
    assert "resumed at frame" in capsys.readouterr().out
    assert summary.frames == 81
    assert len(steps) - made < 30  # it did not begin anew


@pytest.mark.slow
def test_a_run_that_fails_in_its_prefill_keeps_what_it_has(compose_run, monkeypatch, capsys):
    steps = []

    def step_with_fault(self, action):
        steps.append(action)
        if len(steps) == 30:
            raise OSError("lost the simulator")
        return step(self, action)

    step = Toy.step
    monkeypatch.setattr(Toy, "step", step_with_fault)
    with pytest.raises(EnvironmentFault):
        train(compose_run("Bounded", "env.max_restarts=0"))
    assert train(compose_run("Bounded", "env.max_restarts=0")).frames == 81
    assert len(steps) < 30 + 81 - 20
