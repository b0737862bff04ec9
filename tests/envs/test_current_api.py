"""Environments of the old Gym, and rewards and flags of unusual types."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, TimeLimit, TransformReward

from dreamer.envs.current_api import (
    ARRAY_FLAG,
    ARRAY_REWARD,
    NO_INFO,
    OLD_RESET,
    OLD_STEP,
    read_flag,
    read_reward,
    with_current_api,
)
from dreamer.envs.faults import EnvironmentFault


class Old(gymnasium.Env):
    """Has the interface of the old Gym, and ends after three steps."""

    observation_space = spaces.Box(-1, 9, (2,), np.float32)
    action_space = spaces.Discrete(2)
    seeds = ()

    def seed(self, seed=None):
        self.seeds = (*self.seeds, seed)

    def reset(self):
        self.time = 0
        return self.observe()

    def step(self, action):
        self.time += 1
        return self.observe(), 1.0, self.time == 3, {}

    def observe(self):
        return np.full(2, self.time, np.float32)


class Unpacking(gymnasium.Wrapper):
    """A user's wrapper of the current interface."""

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, info


class Watching(gymnasium.ObservationWrapper):
    """A user's wrapper that reads and sets attributes of its environment."""

    def observation(self, observation):
        self.env.seen = self.env.time
        return observation


def play(env, accepted):
    env = with_current_api(env, accepted)
    obs, info = env.reset(seed=4)
    np.testing.assert_array_equal(obs, [0, 0])
    assert info == {}
    return [env.step(0)[1:4] for _ in range(3)]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: env,
        lambda env: TimeLimit(env, 9),
        lambda env: TimeLimit(OrderEnforcing(TransformReward(env, lambda reward: reward)), 9),
        lambda env: gymnasium.Wrapper(TimeLimit(env, 9)),
        lambda env: TimeLimit(gymnasium.Wrapper(env), 9),
        Watching,
        lambda env: TimeLimit(Watching(env), 9),
        lambda env: Unpacking(TimeLimit(env, 9)),
        Unpacking,
    ],
)
def test_the_old_interface_is_accepted_behind_wrappers(wrap):
    old, accepted = Old(), set()
    steps = play(wrap(old), accepted)
    assert steps == [(1.0, False, False), (1.0, False, False), (1.0, True, False)]
    assert old.seeds == (4,)
    assert accepted == {OLD_RESET, OLD_STEP}


def test_attributes_of_the_environment_can_be_read_and_set():
    old = Old()
    play(Watching(old), set())
    assert old.seen == 3


def test_the_old_time_limit_is_not_terminal(monkeypatch):
    old = Old()
    monkeypatch.setattr(old, "step", lambda action: (old.observe(), 0, True, {LIMIT: True}))
    assert play(old, set()) == [(0, False, True)] * 3


LIMIT = "TimeLimit.truncated"


def test_a_wrapper_that_expects_the_other_interface_is_explained():
    class Seeded(Old):
        def reset(self, seed=None, options=None):
            return super().reset()

    env = with_current_api(Unpacking(Seeded()), set())
    env.reset()
    with pytest.raises(EnvironmentFault, match=r"A wrapper cannot read .* old Gym\. `reset` must"):
        env.step(0)


def test_a_tuple_of_two_observations_is_not_an_observation_with_information():
    class Pair(Old):
        observation_space = spaces.Tuple(
            [spaces.Discrete(2), spaces.Dict(a=spaces.Discrete(2))], seed=0
        )

        def observe(self):
            return 1, {"a": 1}

    accepted = set()
    assert with_current_api(Pair(), accepted).reset() == ((1, {"a": 1}), {})
    assert accepted == {OLD_RESET}


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("info", [None, {}])
def test_the_current_interface_passes_unchanged(info, kind):
    class New(Old):
        def reset(self, *, seed=None, options=None):
            return kind([super().reset(), info])

        def step(self, action):
            obs, *_ = super().step(action)
            return obs, 2.0, False, True, info

    accepted = set()
    assert play(New(), accepted) == [(2.0, False, True)] * 3
    assert accepted == (set() if info == {} else {NO_INFO})


@pytest.mark.parametrize("result", [None, (), (np.zeros(2), 0.0, False), np.zeros(5)])
def test_anything_else_is_a_fault(result, monkeypatch):
    old = Old()
    monkeypatch.setattr(old, "step", lambda action: result)
    with pytest.raises(EnvironmentFault, match="`step` must return observation, reward, .* got"):
        with_current_api(old, set()).step(0)


@pytest.mark.parametrize(
    "value", [2, 2.0, np.float64(2), np.array(2), np.int8([[2]]), [2.0], torch.tensor([2.0])]
)
def test_a_reward_may_be_any_single_number(value):
    accepted = set()
    assert read_reward(value, accepted) == 2.0
    assert accepted == ({ARRAY_REWARD} if np.ndim(value) else set())


@pytest.mark.parametrize(
    "value", [None, "2", np.zeros(2), [], 2j, {}, torch.zeros(1, requires_grad=True)]
)
def test_any_other_reward_is_a_fault(value):
    with pytest.raises(EnvironmentFault, match="The reward must be a number, got "):
        read_reward(value, set())


@pytest.mark.parametrize("value", [True, 1, np.True_, np.array([True]), torch.tensor(True)])
def test_a_flag_may_be_any_single_truth_value(value):
    accepted = set()
    assert read_flag("terminated", value, accepted) is True
    assert accepted == ({ARRAY_FLAG} if np.ndim(value) else set())
    assert read_flag("terminated", None, set()) is False


@pytest.mark.parametrize("value", ["False", {}, np.zeros(2, bool), [], np.nan])
def test_any_other_flag_is_a_fault(value):
    with pytest.raises(EnvironmentFault, match="`terminated` must be true or false, got "):
        read_flag("terminated", value, set())
