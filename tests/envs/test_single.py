"""An agent's own environment for programs: what it returns is what the agent takes."""

import warnings

import gymnasium
import numpy as np
import pytest
import test_contract
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import PassiveEnvChecker

from dreamer.envs.codecs import codec_of
from dreamer.envs.gym import make_gym
from dreamer.envs.single import GroupOfOne, single_env
from dreamer.envs.user import make_user
from dreamer.types import visible

NAMES = ("atari", "cartpole", "dmc_proprio", "maze", "memory", "minigrid", "pendulum")
SUITES = {name: test_contract.SUITES[name] for name in NAMES}


@pytest.fixture(params=SUITES)
def make(request):
    """Makes a group of one environment of each suite, from a seed."""
    return lambda seed: SUITES[request.param](count=1, seed=seed)


@pytest.mark.slow
def test_the_codec_takes_what_it_returns_and_it_takes_the_codecs_actions(make):
    group = make(0)
    codec = codec_of(group)
    env = single_env(make)
    raw, _ = env.reset(seed=3)
    rng, ended = np.random.default_rng(0), False
    while not ended:
        obs, leading = codec.encode_observations(raw)
        assert leading == ()
        assert {k: x.shape for k, x in obs.items()} == visible(codec.obs_shapes)
        space = codec.action_space
        one_hot = np.concatenate(
            [np.eye(n, dtype=np.float32)[rng.integers(n)] for n in space.choices or (space.size,)]
        )
        action = one_hot if space.discrete else rng.uniform(-1, 1, space.size).astype(np.float32)
        raw, reward, terminated, truncated, info = env.step(codec.decode_actions(action))
        assert isinstance(reward, float) and isinstance(info, dict)
        ended = terminated or truncated
    assert env.render().dtype == np.uint8 and env.render().ndim == 3
    env.close()
    group.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memory", "minigrid", "dmc_proprio"])
def test_it_follows_gymnasiums_rules(name):
    env = single_env(lambda seed: SUITES[name](count=1, seed=seed))
    assert isinstance(env, GroupOfOne)
    with warnings.catch_warnings(action="ignore"):  # vectors have no bounds
        check_env(env, skip_render_check=True)


def played(env, seed, steps=6):
    env = PassiveEnvChecker(env)
    found = [env.reset(seed=seed)[0]["image"]]
    return found + [env.step(step % 2)[0]["image"] for step in range(steps)]


def test_a_seed_starts_the_same_episode_and_no_seed_another():
    env = single_env(lambda seed: SUITES["memory"](count=1, seed=seed))
    first, again = played(env, 5), played(env, 5)
    np.testing.assert_array_equal(first, again)
    cues = {env.reset()[0]["image"].tobytes() for _ in range(20)}
    assert len(cues) == 2  # the random stream continues


def test_the_steps_of_a_users_environment_are_its_own_but_for_the_action_repeat():
    options = test_contract.GYM | {"action_repeat": 3}
    env = single_env(lambda seed: make_gym("CartPole-v1", count=1, seed=seed, **options))
    bare = gymnasium.make("CartPole-v1")
    np.testing.assert_array_equal(env.reset(seed=4)[0], bare.reset(seed=4)[0])
    raw, reward, *_ = env.step(1)
    for _ in range(3):
        expected = bare.step(1)[0]
    np.testing.assert_array_equal(raw, expected)
    assert reward == 3
    assert env.observation_space == bare.observation_space


class Blind(gymnasium.Env):
    """Cannot render."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 0.0, False, False, {}


def test_an_environment_that_cannot_render_shows_its_observation():
    options = test_contract.GYM | {"factory": f"{__name__}:Blind", "time_limit_frames": None}
    env = single_env(lambda seed: make_user("blind", count=1, seed=seed, **options))
    env.reset()
    assert env.render().shape == (256, 256, 3)


def test_one_in_another_process_is_refused():
    options = test_contract.GYM | {"processes": True}
    with pytest.raises(ValueError, match="must be a Gymnasium environment in this process, got"):
        single_env(lambda seed: make_gym("CartPole-v1", count=1, seed=seed, **options))
