"""What a look at an environment finds, and what it says of it."""

import itertools
import re

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from toys import Toy

from dreamer.envs.diagnostics import Diagnostics, Range, diagnose, find_warnings, repeats
from dreamer.envs.dummy import make_dummy
from dreamer.envs.group import EnvGroup
from dreamer.envs.gym import GymEnv

FINE = Diagnostics(
    observations={"vector": Range(-1.0, 0.0, 1.0, changes=True, is_image=False)},
    rewards=np.array([0.0, 1.0]),
    returns=np.array([1.0]),
    lengths=np.array([60.0]),
    terminal=1,
    steps_per_second=100.0,
    outside={},
    restarts=0,
)
AGENT = dict(repeatable=True, sequence=50, across_episodes=False, tanh_rewards=True)


def group(toy, max_restarts=5):
    return EnvGroup([lambda: GymEnv(toy)], seed=0, action_repeat=1, max_restarts=max_restarts)


def left(step):
    return np.eye(2, dtype=np.float32)[[0] * len(step.is_first)]


def test_a_survey_counts_steps_rewards_and_episodes():
    found = diagnose(group(Toy(length=4)), left, 10)
    np.testing.assert_array_equal(found.rewards, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2])
    np.testing.assert_array_equal(found.returns, [10, 10])
    np.testing.assert_array_equal(found.lengths, [4, 4])
    assert found.terminal == 2
    assert found.steps_per_second > 0
    assert found.outside == {}
    assert found.restarts == 0


def test_a_survey_sees_ranges_of_several_environments():
    envs = make_dummy(
        "memory", count=3, seed=0, rounds=2, corridor=1, length=5, speed=0.5, maze_length=9
    )
    image = diagnose(envs, left, 30).observations["image"]
    assert (image.minimum, image.maximum) == (0, 255)
    assert image.changes
    assert image.is_image


@pytest.mark.parametrize(
    ("observations", "shown", "what"),
    [
        (Box(-1, 1, (2,)), np.array([0, 1.5], np.float32), "`observation` is above the upper"),
        (Box(-1, 1, (2,)), np.array([0, -1.5], np.float32), "`observation` is below the lower"),
        (Box(-1, 1, (2,)), np.zeros(2), "`observation` is float64, its space float32"),
        (
            Dict(a=Box(-1, 1, (1,)), b=Discrete(2)),
            {"a": np.ones(1, np.float32), "b": "no"},
            r"`b` is not in Discrete\(2\)",
        ),
    ],
)
def test_observations_outside_their_space_are_counted(observations, shown, what):
    class Stray(Toy):
        def step(self, action):
            _, *others = super().step(action)
            return shown, *others

    found = diagnose(group(Stray(observations, length=3), max_restarts=99), left, 6)
    (said, times), *others = found.outside.items()
    assert not others
    assert said.startswith(what.replace("\\", ""))
    assert times >= 4
    (line,) = find_warnings(found, **AGENT | {"sequence": 2})[:1]
    assert line == f"{times} observations: {said}."


def test_faults_are_counted_and_survived(capsys):
    class Faulty(Toy):
        def step(self, action):
            obs, *others = super().step(action)
            if self.time == 3:
                obs["joints"] = np.full((2, 2), np.nan)
            return obs, *others

    found = diagnose(group(Faulty()), left, 9)
    assert found.restarts == 3
    assert found.outside == {"`joints` contains NaN or infinity": 3}
    assert "failed 3 times" in " ".join(find_warnings(found, **AGENT))


@pytest.mark.parametrize("value", [np.array([[None, 1], [1, 1]]), [[1], [1, 2]]])
def test_what_no_space_can_compare_is_reported_by_its_encoder(value, capsys):
    class Faulty(Toy):
        def step(self, action):
            obs, *others = super().step(action)
            return obs | {"joints": value}, *others

    found = diagnose(group(Faulty()), left, 2)
    assert "`joints` must be an array of numbers" in found.faults[0].line
    assert [key.partition(" in ")[0] for key in found.outside] == ["`joints` is not"]
    capsys.readouterr()


def test_environments_repeat_where_all_chance_comes_from_the_seed():
    class Forgetful(Toy):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=next(others))

    others = itertools.count()
    assert repeats(lambda: (group(Toy()), left), 9)
    assert not repeats(lambda: (group(Forgetful()), left), 9)


def test_nothing_is_said_of_what_is_fine():
    assert find_warnings(FINE, **AGENT) == []


@pytest.mark.parametrize(
    ("change", "agent", "message"),
    [
        ({"rewards": np.zeros(9)}, {}, "All rewards in 9 policy steps are 0"),
        ({"rewards": np.array([1.0, 50.0])}, {}, "50% of the rewards are beyond 2.*=identity"),
        ({"lengths": np.array([])}, {}, "No episode ended in 2 policy steps"),
        ({"lengths": np.array([48.0, 49.0])}, {}, "1 of 2 episodes are shorter .*=50 .*never"),
        ({"lengths": np.array([48.0])}, {"across_episodes": True}, "continue in the next"),
        ({}, {"repeatable": False}, "The same seed gives different steps"),
        (
            {"observations": {"image": Range(3.0, 3.0, 3.0, changes=False, is_image=True)}},
            {},
            "`image` never changes",
        ),
        (
            {"observations": {"far": Range(-500.0, 0.0, 1.0, changes=True, is_image=False)}},
            {},
            r"`far` reaches -500\. Scale it",
        ),
    ],
)
def test_each_doubt_is_one_sentence_that_names_it(change, agent, message):
    (line,) = find_warnings(FINE._replace(**change), **AGENT | agent)
    assert re.search(message, line)


def test_bright_images_and_large_rewards_learned_as_they_are_are_fine():
    image = Range(0.0, 9.0, 255.0, changes=True, is_image=True)
    found = FINE._replace(observations={"image": image}, rewards=np.array([50.0]))
    assert find_warnings(found, **AGENT | {"tanh_rewards": False}) == []
