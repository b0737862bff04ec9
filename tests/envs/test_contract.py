"""What every suite of environments promises, held against each of them."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dreamer.envs.atari import make_atari
from dreamer.envs.crafter import make_crafter
from dreamer.envs.dmc import make_dmc
from dreamer.envs.dummy import make_dummy
from dreamer.envs.gym import make_gym
from dreamer.envs.minigrid import make_minigrid
from dreamer.envs.user import make_user

ATARI = dict(
    action_repeat=4,
    sticky_action_prob=0.25,
    max_no_op_frames=30,
    time_limit_frames=50,  # 13 policy steps
    full_action_space=True,
    grayscale=True,
    native_render=False,
)
DUMMY = dict(rounds=3, corridor=1, length=7, speed=0.25, maze_length=9)
GYM = dict(
    action_repeat=2,
    time_limit_frames=15,  # 8 policy steps
    grayscale=False,
    flat_keys="$^",
    processes=False,
    hang_seconds=60,
    max_restarts=0,
    kwargs={},
)
HERE = dict(processes=False, hang_seconds=60, max_restarts=0)
APART = HERE | dict(processes=True)
DMC = dict(action_repeat=4, time_limit_frames=50)  # 13 policy steps
CRAFTER = dict(time_limit_frames=30)  # a world takes longer to make than to live in
OBSTACLES = "Dynamic-Obstacles-Random-5x5"  # a random walk soon hits one

SUITES = {
    "atari": partial(make_atari, "pong", **ATARI),
    "atari_colour": partial(
        make_atari, "breakout", **ATARI | dict(grayscale=False, full_action_space=False)
    ),
    "memory": partial(make_dummy, "memory", **DUMMY),
    "vector_memory": partial(make_dummy, "vector_memory", **DUMMY),
    "point": partial(make_dummy, "point", **DUMMY),
    "pixel_point": partial(make_dummy, "pixel_point", **DUMMY),
    "catch": partial(make_dummy, "catch", **DUMMY),
    "maze": partial(make_dummy, "maze", **DUMMY),
    "maze_noreward": partial(make_dummy, "maze_noreward", **DUMMY),
    "cartpole": partial(make_gym, "CartPole-v1", **GYM),
    "pendulum": partial(make_gym, "Pendulum-v1", **GYM),
    "dmc_proprio": partial(make_dmc, "finger_spin", observation="proprio", **DMC, **HERE),
    "dmc_vision": partial(make_dmc, "cartpole_swingup", observation="vision", **DMC, **APART),
    "minigrid": partial(make_minigrid, OBSTACLES, observation="pixels", **HERE),
    "minigrid_symbolic": partial(make_minigrid, OBSTACLES, observation="symbolic", **HERE),
    "minigrid_apart": partial(make_minigrid, OBSTACLES, observation="symbolic", **APART),
    "crafter": partial(make_crafter, "reward", **CRAFTER, **HERE),
    "own": partial(
        make_user, "pole", factory="gymnasium:make", **GYM | dict(kwargs={"id": "CartPole-v1"})
    ),
}
WITHOUT_RANDOMNESS = ("maze", "maze_noreward")  # every seed gives the same
SLOW = ("atari", "atari_colour", "dmc_vision", "minigrid_apart")
LONG = ("crafter",)  # seconds to make a world
MARKS = {"slow": SLOW, "long": LONG}
PACKAGES = {"dmc": "dm_control", "minigrid": "minigrid", "crafter": "crafter"}  # optional ones
POLICY_STEPS = 40  # several episodes of each


def marks(suite):
    """How long the tests of a suite take."""
    return [getattr(pytest.mark, mark) for mark, suites in MARKS.items() if suite in suites]


@pytest.fixture(params=[pytest.param(suite, marks=marks(suite)) for suite in SUITES])
def make(request):
    need(request.param, request)
    return SUITES[request.param]


def need(suite, request):
    """Skip a test where a suite is not installed, or cannot draw."""
    package = PACKAGES.get(suite.partition("_")[0])
    if package is not None:
        pytest.importorskip(package)
    if suite == "dmc_vision":
        request.getfixturevalue("renderer")


def actions_for(envs, seed, rounds=POLICY_STEPS):
    """(rounds, E, A) random actions; environment e gets the same whatever E is."""
    size = envs.action_space.size
    choices = envs.action_space.choices or (size,)
    columns = []
    for env in range(envs.count):
        rng = np.random.default_rng([seed, env])
        columns.append(
            np.concatenate(
                [np.eye(n, dtype=np.float32)[rng.integers(n, size=rounds)] for n in choices], 1
            )
            if envs.action_space.discrete
            else rng.uniform(-1, 1, (rounds, size)).astype(np.float32)
        )
    return np.stack(columns, 1)


def play(envs, seed=0, rounds=POLICY_STEPS):
    return [envs.reset()] + [envs.step(action) for action in actions_for(envs, seed, rounds)]


def assert_same(left, right, env=slice(None)):
    for a, b in zip(left, right, strict=True):
        for key in a.obs:
            np.testing.assert_array_equal(a.obs[key][env], b.obs[key][env])
        for a_field, b_field in zip(a[1:], b[1:], strict=True):
            np.testing.assert_array_equal(a_field[env], b_field[env])


@pytest.mark.parametrize("count", [1, 3])
def test_steps_have_the_promised_shapes_and_types(make, count):
    envs = make(count=count, seed=0)
    assert envs.count == count
    assert envs.action_repeat >= 1
    assert envs.action_space.size >= 1
    for step in play(envs):
        assert step.obs.keys() == envs.obs_shapes.keys()
        for key, shape in envs.obs_shapes.items():
            assert step.obs[key].shape == (count, *shape)
            assert step.obs[key].dtype == (np.uint8 if len(shape) == 3 else np.float32)
            assert step.obs[key].flags.c_contiguous
        assert step.reward.dtype == np.float32
        assert step.is_first.dtype == step.is_last.dtype == step.is_terminal.dtype == bool
        assert all(field.shape == (count,) for field in step[1:])
    envs.close()


@pytest.mark.parametrize("count", [1, 3])
def test_episodes_restart_on_the_step_after_the_last(make, count):
    steps = play(make(count=count, seed=0))
    assert steps[0].is_first.all()
    assert sum(step.is_first.sum() for step in steps) >= 2 * count
    for before, step in zip(steps, steps[1:], strict=False):
        np.testing.assert_array_equal(step.is_first, before.is_last)
    for step in steps:
        assert not step.reward[step.is_first].any()
        assert not step.is_last[step.is_first].any()
        assert not step.is_terminal[~step.is_last].any()


def test_the_action_at_a_reset_is_ignored(make):
    left, right = make(count=1, seed=0), make(count=1, seed=0)
    actions = actions_for(left, 0)
    other = actions_for(left, 1)
    mine, yours = [left.reset()], [right.reset()]
    for round_ in range(POLICY_STEPS):
        mine.append(left.step(actions[round_]))
        reset_due = yours[-1].is_last[0]
        yours.append(right.step(other[round_] if reset_due else actions[round_]))
    assert_same(mine, yours)


def test_same_seed_and_actions_give_the_same_steps(make):
    assert_same(play(make(count=3, seed=4)), play(make(count=3, seed=4)))


def test_an_environment_does_not_depend_on_its_neighbours(make):
    alone, together = play(make(count=1, seed=4)), play(make(count=3, seed=4))
    assert_same(alone, together, env=slice(0, 1))


def test_seeds_and_environments_differ(make, request):
    def streams(seed):
        """What each of three environments shows while all are given the same actions."""
        envs = make(count=3, seed=seed)
        action = actions_for(envs, 0)[:, :1].repeat(3, 1)
        steps = [envs.reset()] + [envs.step(now) for now in action]
        return [
            b"".join(x[env].tobytes() for s in steps for x in s.obs.values()) for env in (0, 1, 2)
        ]

    # Neighbouring seeds too: environment 1 of seed 4 is not environment 0 of seed 5.
    is_random = request.node.callspec.params["make"] not in WITHOUT_RANDOMNESS
    assert len({*streams(4), *streams(5)}) == (6 if is_random else 1)


def test_a_second_reset_starts_everywhere_and_goes_on_with_the_stream(make, request):
    envs = make(count=3, seed=0)
    first = play(envs, rounds=5)
    second = play(envs)
    assert second[0].is_first.all()
    assert not second[0].reward.any()
    assert not second[0].is_last.any()
    if request.node.callspec.params["make"] in WITHOUT_RANDOMNESS:
        assert_same(first, second[: len(first)])
        return
    with pytest.raises(AssertionError):
        assert_same(first, second[: len(first)])


def test_steps_stay_as_they_were(make):
    steps, copies = [], []
    envs = make(count=3, seed=0)
    for step in play(envs, rounds=0):
        steps.append(step)
    for action in actions_for(envs, 0):
        copies.append({key: value.copy() for key, value in steps[-1].obs.items()})
        steps.append(envs.step(action))
    for step, copy in zip(steps, copies, strict=False):
        for key, value in copy.items():
            np.testing.assert_array_equal(step.obs[key], value)


def test_render_gives_pictures(make):
    envs = make(count=3, seed=0)
    play(envs, rounds=3)
    pictures = envs.render()
    assert pictures.dtype == np.uint8
    assert pictures.ndim == 4
    assert len(pictures) == 3
    assert pictures.shape[3] == 3
    assert min(pictures.shape[1:3]) >= 128
    assert (pictures.reshape(3, -1).std(1) > 0).all()


def test_closing_twice_is_harmless(make):
    envs = make(count=1, seed=0)
    envs.close()
    envs.close()


@pytest.mark.parametrize(
    ("file", "task"),
    [("atari", "pong"), ("dummy", "memory"), ("gym", "CartPole-v1"), ("minigrid", "DoorKey-6x6")],
)
def test_conf_holds_every_option_and_no_other(file, task, request):
    need(file, request)
    group = OmegaConf.load(Path(__file__).parents[2] / "conf" / "env" / f"{file}.yaml")
    config = OmegaConf.merge(group, {"task": task})
    envs = instantiate(config.env, seed=3, count=2)
    assert envs.reset().is_first.shape == (2,)
    envs.close()


@pytest.mark.parametrize("suite", ["atari", "memory"])
def test_no_environment_at_all_is_refused(suite):
    with pytest.raises(ValueError, match="`count` must be at least 1, got 0"):
        SUITES[suite](count=0, seed=0)
