"""Groups of environments: what they do when a member fails."""

import re
from functools import partial

import numpy as np
import pytest

from dreamer.envs.group import EnvGroup, EnvironmentFault, SingleEnv, Transition
from dreamer.envs.rendering import RenderingFault
from dreamer.types import ActionSpace

STAY = np.eye(2, dtype=np.float32)[[0]]  # the action of one environment


class Counter(SingleEnv):
    """Shows how many steps it has made and how it was seeded; ends after five."""

    obs_shapes = {"vector": (2,)}
    action_space = ActionSpace(2, discrete=True)

    def __init__(self, log: list[str]):
        self.log, self.seed, self.time = log, -1, 0
        log.append("made")

    def reset(self, seed):
        self.log.append("reset")
        self.seed, self.time = self.seed if seed is None else seed, 0
        return self.observe()

    def step(self, action):
        self.time += 1
        return Transition(self.observe(), 1.0, self.time == 5, self.time == 5)

    def observe(self):
        return {"vector": np.array([self.time, self.seed % 2**20], np.float32)}

    def render(self):
        return np.full((4, 5, 3), self.time, np.uint8)

    def close(self):
        self.log.append("closed")


class Faulty(Counter):
    """Does what it is told instead of step number `at`, the first time in all or every time."""

    def __init__(self, log, fault, at=3, every_time=False):
        super().__init__(log)
        self.fault, self.at, self.every_time = fault, at, every_time

    def step(self, action):
        transition = super().step(action)
        if self.time == self.at and (self.every_time or "failed" not in self.log):
            self.log.append("failed")
            return self.fault(transition)
        return transition


class FaultyReset(Counter):
    """Fails in the resets of these numbers, counted over all environments of one log."""

    def __init__(self, log, numbers):
        super().__init__(log)
        self.numbers = numbers

    def reset(self, seed):
        obs = super().reset(seed)
        if self.log.count("reset") in self.numbers:
            raise RuntimeError("no level to load")
        return obs


def raise_error(transition):
    raise KeyError("the user's own bug")


def with_obs(value):
    return lambda transition: transition._replace(obs={"vector": value})


FAULTS = {
    'KeyError: "the user\'s own bug"': raise_error,
    "The reward must be finite, got nan": lambda a: a._replace(reward=float("nan")),
    "`vector` must be finite": with_obs(np.array([np.inf, 0], np.float32)),
    r"Observation `vector` must be \(2,\) float32, got \(3,\)": with_obs(np.zeros(3, np.float32)),
    r"must be \(2,\) float32, got \(2,\) float64": with_obs(np.zeros(2)),
    r"Observations must be \['vector'\], got \[\]": lambda a: a._replace(obs={}),
}


def group(*makers, seed=0, max_restarts=2):
    return EnvGroup(makers, seed=seed, action_repeat=1, max_restarts=max_restarts)


def times(steps, env=0):
    return [step.obs["vector"][env, 0] for step in steps]


def play(envs, rounds):
    action = STAY.repeat(envs.count, 0)
    return [envs.reset()] + [envs.step(action) for _ in range(rounds)]


@pytest.mark.parametrize("message", FAULTS)
def test_a_fault_ends_the_episode_as_cut_short_and_the_next_step_begins_anew(message, capsys):
    log = []
    envs = group(partial(Faulty, log, FAULTS[message]))
    steps = play(envs, 6)
    assert times(steps) == [0, 1, 2, 2, 0, 1, 2]  # its last good observation stays
    assert [bool(s.is_last[0]) for s in steps] == [False] * 3 + [True] + [False] * 3
    assert [bool(s.is_first[0]) for s in steps] == [True] + [False] * 3 + [True] + [False] * 2
    assert not any(s.is_terminal.any() for s in steps)
    assert [s.reward[0] for s in steps] == [0, 1, 1, 0, 0, 1, 1]
    assert log == ["made", "reset", "failed", "closed", "made", "reset"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("environment 0 (environment) failed in step 3 of episode 1: ")
    assert "Restart 1 of at most 2" in said
    assert re.search(message, said)


def test_the_neighbours_of_a_fault_go_on(capsys):
    envs = group(partial(Counter, []), partial(Faulty, [], raise_error), partial(Counter, []))
    steps = play(envs, 7)
    assert times(steps, 0) == times(steps, 2) == [0, 1, 2, 3, 4, 5, 0, 1]
    assert times(steps, 1) == [0, 1, 2, 2, 0, 1, 2, 3]
    assert "environment 1 (environment) failed in step 3" in capsys.readouterr().err


def test_too_many_faults_end_the_run_with_the_last_one(capsys):
    envs = group(partial(Faulty, [], raise_error, every_time=True), max_restarts=2)
    steps = [envs.reset()]
    with pytest.raises(
        EnvironmentFault,
        match=r"Environment 0 \(environment\) failed again, in step 3 of episode 3, after 2 .*Key",
    ) as fault:
        for _ in range(20):
            steps.append(envs.step(STAY))
    assert times(steps) == [0, 1, 2, 2] * 2 + [0, 1, 2]
    assert isinstance(fault.value.__cause__, KeyError)
    assert capsys.readouterr().err.count("\n") == 2
    assert [fault.traceback.count("Traceback") for fault in envs.faults] == [1, 1]


def test_without_restarts_the_first_fault_ends_the_run(capsys):
    envs = group(partial(Faulty, [], raise_error), max_restarts=0)
    with pytest.raises(EnvironmentFault, match="after 0 of `max_restarts` 0 restarts"):
        play(envs, 3)


def test_a_reset_that_fails_is_tried_again(capsys):
    log = []
    steps = play(group(partial(FaultyReset, log, [2, 3])), 7)
    assert times(steps) == [0, 1, 2, 3, 4, 5, 0, 1]
    assert steps[6].is_first[0]
    assert log.count("made") == log.count("closed") + 1 == 3


def test_an_environment_that_cannot_even_begin_ends_the_run_at_once(capsys):
    log = []
    with pytest.raises(EnvironmentFault, match="in its first reset.*no level to load"):
        group(partial(FaultyReset, log, [1])).reset()
    assert log == ["made", "reset"]


def test_an_environment_that_cannot_be_made_again_is_tried_again(capsys):
    log = []

    def make():
        if log.count("closed") == 1 and "refused" not in log:
            log.append("refused")
            raise OSError("the port is taken")
        return Faulty(log, raise_error)

    assert times(play(group(make), 5)) == [0, 1, 2, 2, 0, 1]
    assert "the port is taken" in capsys.readouterr().err


def test_an_environment_that_cannot_close_hinders_nothing(capsys):
    class Clinging(Counter):
        def close(self):
            raise OSError("still in use")

    group(partial(Clinging, [])).close()
    assert "still in use" in capsys.readouterr().err


def test_the_first_reset_of_every_environment_made_gets_a_seed_of_its_own(capsys):
    def seeds(seed, count=2):
        makers = [partial(Faulty, [], raise_error) for _ in range(count)]
        return [step.obs["vector"][:, 1] for step in play(group(*makers, seed=seed), 12)]

    first = np.stack(seeds(4))  # (steps, E)
    assert len(set(first[0])) == 2
    assert (first[:4] == first[0]).all()
    assert (first[4] != first[3]).all()  # made anew after the fault
    assert (first[4:] == first[4]).all()  # two episodes on one stream
    np.testing.assert_array_equal(seeds(4), first)
    np.testing.assert_array_equal(np.stack(seeds(4, count=1))[:, 0], first[:, 0])
    assert not np.intersect1d(seeds(5), first).size


def test_members_start_together_before_any_is_waited_for():
    log = []

    class Told(Counter):
        def start_step(self, action):
            log.append("start")
            super().start_step(action)

        def finish(self):
            log.append("finish")
            return super().finish()

    envs = group(partial(Told, []), partial(Told, []))
    envs.reset()
    log.clear()
    envs.step(STAY.repeat(2, 0))
    assert log == ["start", "start", "finish", "finish"]


def test_environments_of_several_kinds_are_refused_and_closed():
    class Other(Counter):
        obs_shapes = {"vector": (3,)}

    log = []
    with pytest.raises(ValueError, match="the same spaces, got .*2,.* for 0 and .*3,.* for 1"):
        group(partial(Counter, log), partial(Other, log))
    assert log.count("closed") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_restarts": -1}, "`max_restarts` must be at least 0, got -1"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        group(partial(Counter, []), **options)


def test_pictures_are_stacked():
    envs = group(partial(Counter, []), partial(Counter, []))
    play(envs, 2)
    assert envs.render().shape == (2, 4, 5, 3)
    assert (envs.render() == 2).all()


def test_pictures_of_several_sizes_take_that_of_the_first():
    class Wide(Counter):
        def render(self):
            return super().render().repeat(2, 1)

    envs = group(partial(Counter, []), partial(Wide, []))
    play(envs, 2)
    assert envs.render().shape == (2, 4, 5, 3)
    assert (envs.render() == 2).all()


def test_what_gives_no_picture_is_named_and_steps_on():
    class Blind(Counter):
        name = "Blind-v0"

        def render(self):
            return None

    envs = group(partial(Counter, []), partial(Blind, []))
    play(envs, 2)
    with pytest.raises(RenderingFault, match="Blind-v0: `render` must .*, got None"):
        envs.render()
    play(envs, 3)
    assert envs.restarts == [0, 0]
