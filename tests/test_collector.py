"""The collector, on environments whose episodes have known lengths and returns."""

import numpy as np
import pytest

from dreamer.collector import Collector, EpisodeStats
from dreamer.types import ActionSpace, TimeStep


class Clocks:
    """Environment e has episodes of lengths[e] steps, and pays 10 ** e a step."""

    action_repeat = 1
    action_space = ActionSpace(2, discrete=False)
    obs_shapes = {"image": (1, 64, 64), "time": (1,)}

    def __init__(self, *lengths):
        self.count, self.lengths = len(lengths), np.array(lengths)
        self.resets, self.actions = 0, []
        self.spoil = {}  # field or key -> environment whose value becomes NaN

    def reset(self):
        self.resets += 1
        self.time = self.lengths.copy()
        step = self.step(np.zeros((self.count, 2), np.float32))
        self.actions.clear()
        return step

    def step(self, action):
        self.actions.append(action)
        is_first = self.time == self.lengths
        self.time = np.where(is_first, 0, self.time + 1)
        reward = np.where(is_first, 0, 10.0 ** np.arange(self.count)).astype(np.float32)
        obs = {
            "image": np.zeros((self.count, 1, 64, 64), np.uint8),
            "time": self.time[:, None].astype(np.float32),
        }
        for key, env in self.spoil.items():
            (reward if key == "reward" else obs[key])[env] = np.nan
        is_last = self.time == self.lengths
        return TimeStep(obs, reward, is_first, is_last, np.zeros(self.count, bool))

    def render(self):
        return np.zeros((self.count, 64, 64, 3), np.uint8)

    def close(self):
        pass


class InBackground(Clocks):
    """The same, stepping in the background; notes when."""

    def __init__(self, *lengths):
        super().__init__(*lengths)
        self.calls = []

    def start_step(self, action):
        self.calls.append("start")
        self.asked = action

    def finish_step(self):
        self.calls.append("finish")
        return self.step(self.asked)


class Counting:
    """Acts with the number of its calls since it started afresh, and keeps what it was given."""

    def __init__(self):
        self.steps, self.states = [], []

    def __call__(self, step, state):
        self.steps.append(step)
        self.states.append(state)
        calls = 1 if state is None else state + 1
        return np.full((len(step.reward), 2), calls, np.float32), calls


class Recorder:
    def __init__(self):
        self.steps, self.prev_actions = [], []

    def __call__(self, step, prev_action):
        self.steps.append(step)
        self.prev_actions.append(prev_action)


def test_every_step_arrives_with_the_action_that_led_to_it():
    envs, policy, record = Clocks(2, 3), Counting(), Recorder()
    Collector(envs).collect(policy, steps=8, on_step=record)
    times = [step.obs["time"][:, 0].tolist() for step in record.steps]
    assert times == [[0, 0], [1, 1], [2, 2], [0, 3], [1, 0], [2, 1]]
    actions = [action[:, 1].tolist() for action in record.prev_actions]
    assert actions == [[0, 0], [1, 1], [2, 2], [0, 3], [4, 0], [5, 5]]
    assert all(action.shape == (2, 2) for action in record.prev_actions)
    assert all(action.dtype == np.float32 for action in record.prev_actions)
    # The policy is asked at every step, and sees the very steps that were recorded.
    assert all(a is b for a, b in zip(policy.steps, record.steps, strict=False))
    assert [action[0, 0] for action in envs.actions] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("counts", [{"steps": 40}, {"episodes": 7}])
def test_in_the_background_the_same_steps_are_made_and_told(counts):
    envs, policies = (Clocks(4, 7), InBackground(4, 7)), (Counting(), Counting())
    records = Recorder(), Recorder()
    collectors = [Collector(group) for group in envs]
    stats = [
        collector.collect(policy, **counts, on_step=record)
        for collector, policy, record in zip(collectors, policies, records, strict=True)
    ]
    assert stats[0] == stats[1]
    assert policies[0].states == policies[1].states
    assert collectors[0].policy_steps == collectors[1].policy_steps
    assert len(records[0].steps) == len(records[1].steps)
    np.testing.assert_array_equal(records[0].prev_actions, records[1].prev_actions)
    for here, there in zip(records[0].steps, records[1].steps, strict=True):
        np.testing.assert_array_equal(here.obs["time"], there.obs["time"])
        np.testing.assert_array_equal(here.is_last, there.is_last)


def test_a_step_is_told_while_the_next_is_made():
    envs = InBackground(5)
    collector = Collector(envs)

    def on_step(step, prev_action):
        envs.calls.append(int(step.obs["time"][0, 0]))

    collector.collect(Counting(), steps=3, on_step=on_step)
    assert envs.calls == [0, "start", "finish", "start", 1, "finish", "start", 2, "finish", 3]


@pytest.mark.parametrize("kind", [Clocks, InBackground])
def test_after_an_error_what_is_counted_was_told_and_the_next_collection_resets(kind):
    envs, record = kind(9), Recorder()
    collector = Collector(envs)

    def stop_at_two(step, prev_action):
        record(step, prev_action)
        if step.obs["time"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collector.collect(Counting(), steps=8, on_step=stop_at_two)
    assert [int(step.obs["time"][0, 0]) for step in record.steps] == [0, 1, 2]
    assert collector.policy_steps == 2
    if isinstance(envs, InBackground):
        assert envs.calls[-1] == "finish"  # no step is left on its way
    collector.collect(Counting(), steps=1, on_step=record)
    assert record.steps[3].is_first.all()
    assert collector.policy_steps == 3


def test_steps_counts_policy_steps_and_no_resets():
    collector, record = Collector(Clocks(2, 3)), Recorder()
    collector.collect(Counting(), steps=7, on_step=record)
    made = sum((~step.is_first).sum() for step in record.steps)
    assert collector.policy_steps == made == 8  # 2 + 2 + 1 + 1 + 2
    collector.collect(Counting(), steps=1)
    assert collector.policy_steps == 9


def test_episodes_go_on_between_calls():
    whole, split = Collector(Clocks(4, 7)), Collector(Clocks(4, 7))
    policies = Counting(), Counting()
    expected = whole.collect(policies[0], steps=40)
    records = Recorder()
    stats = []
    while split.policy_steps < whole.policy_steps:
        stats += split.collect(policies[1], steps=1, on_step=records)
    assert stats == expected
    assert policies[1].states == policies[0].states
    assert sum(step.is_first.all() for step in records.steps) == 1


def test_stats_hold_return_and_length():
    stats = Collector(Clocks(2, 3)).collect(Counting(), steps=10)
    assert stats == [
        EpisodeStats(env=0, episode_return=2, length=2),
        EpisodeStats(env=1, episode_return=30, length=3),
        EpisodeStats(env=0, episode_return=2, length=2),
        EpisodeStats(env=1, episode_return=30, length=3),
    ]
    assert isinstance(stats[0].episode_return, float)


@pytest.mark.parametrize(("episodes", "shares"), [(1, [1, 0, 0]), (3, [1, 1, 1]), (7, [3, 2, 2])])
def test_short_episodes_are_not_preferred(episodes, shares):
    stats = Collector(Clocks(2, 50, 9)).collect(Counting(), episodes=episodes)
    assert len(stats) == episodes
    assert [sum(episode.env == env for episode in stats) for env in range(3)] == shares


def test_episodes_are_whole():
    envs = Clocks(6, 9)
    collector, policy = Collector(envs), Counting()
    collector.collect(policy, steps=4)
    stats = collector.collect(policy, episodes=2)
    assert envs.resets == 2
    assert sorted(stats) == [EpisodeStats(0, 6, 6), EpisodeStats(1, 90, 9)]
    assert policy.states[2] is None  # afresh with the fresh episodes


def test_stats_hold_what_else_an_environment_tells_of_its_episode():
    class Telling(Clocks):
        @property
        def episode_metrics(self):
            return [{"laps": 7.0}, {}]

    stats = Collector(Telling(2, 3)).collect(Counting(), steps=6)
    assert [e.metrics for e in stats] == [{"laps": 7.0} if e.env == 0 else {} for e in stats]
    assert {e.env for e in stats} == {0, 1}


def test_another_policy_starts_afresh_in_mid_episode():
    collector = Collector(Clocks(20))
    first, second = Counting(), Counting()
    collector.collect(first, steps=3)
    collector.collect(second, steps=2)
    collector.collect(first, steps=2)
    assert second.states == [None, 1]
    assert first.states == [None, 1, 2, None, 1]
    assert [step.obs["time"][0, 0] for step in second.steps] == [3, 4]


def test_restart_drops_the_running_episode():
    envs, policy, record = Clocks(5), Counting(), Recorder()
    collector = Collector(envs)
    collector.collect(policy, steps=3)
    collector.restart()
    assert envs.resets == 1  # the reset waits for the next collection
    stats = collector.collect(policy, steps=5, on_step=record)
    assert envs.resets == 2
    assert record.steps[0].is_first.all()
    assert not record.prev_actions[0].any()
    assert policy.states[3] is None
    assert stats == [EpisodeStats(0, 5, 5)]
    assert collector.policy_steps == 8


@pytest.mark.parametrize(
    "counts", [{}, dict(steps=2, episodes=1), dict(steps=-1), dict(steps=-1, episodes=2)]
)
def test_exactly_one_budget_is_wanted(counts):
    envs = Clocks(5)
    with pytest.raises(ValueError, match="One of `steps` and `episodes`"):
        Collector(envs).collect(Counting(), **counts)
    assert envs.resets == 0


@pytest.mark.parametrize("key", ["reward", "time"])
def test_values_that_are_not_finite_name_key_and_environment(key):
    envs = Clocks(5, 5, 5)
    envs.spoil = {key: 1}
    record = Recorder()
    with pytest.raises(ValueError, match=f"`{key}` of environment 1 must be finite, got.*nan"):
        Collector(envs).collect(Counting(), steps=4, on_step=record)
    assert record.steps == []  # nothing of it reaches the replay


def test_actions_that_are_not_finite_are_refused():
    action = np.float32([[0, 0], [0, np.inf]])
    with pytest.raises(ValueError, match="`action` of environment 1 must be finite"):
        Collector(Clocks(5, 5)).collect(lambda *_: (action, None), steps=1)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 3)])
def test_actions_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(
        ValueError, match=r"array of shape \(2, 2\), got shape \(.*" + str(shape[-1])
    ):
        Collector(Clocks(5, 5)).collect(lambda *_: (np.zeros(shape), None), steps=1)


@pytest.mark.parametrize(("episodes", "max_length"), [(3, 6), (7, 6), (7, 8), (7, 20)])
def test_episodes_that_are_too_long_are_cut_and_all_are_played(episodes, max_length):
    envs = Corridor(lengths=(5, 9, 1000))
    stats = Collector(envs).collect(envs.stay, episodes=episodes, max_length=max_length)
    expected = {env: min(n, max_length) for env, n in enumerate((5, 9, 1000))}
    assert sorted(s.env for s in stats) == sorted(e % 3 for e in range(episodes))
    assert [s.length for s in stats] == [expected[s.env] for s in stats]
    assert [s.is_cut for s in stats] == [(5, 9, 1000)[s.env] > max_length for s in stats]
    assert [s.episode_return for s in stats] == [s.length for s in stats]


class Corridor:
    """Environments of given lengths, with a reward of 1 at every step."""

    obs_shapes = {"time": (1,)}
    action_space, action_repeat, reference_returns = ActionSpace(2, discrete=True), 1, {}

    def __init__(self, lengths):
        self.lengths, self.count = np.array(lengths), len(lengths)

    def reset(self):
        self.time = np.zeros(self.count, int)
        return self.observe(is_first=np.ones(self.count, bool))

    def step(self, action):
        is_first = self.time == self.lengths
        self.time = np.where(is_first, 0, self.time + 1)
        return self.observe(is_first)

    def observe(self, is_first):
        is_last = self.time == self.lengths
        reward = np.where(is_first, 0, 1).astype(np.float32)
        obs = {"time": np.float32(self.time)[:, None]}
        return TimeStep(obs, reward, is_first, is_last, is_last)

    def stay(self, step, state):
        return np.eye(2, dtype=np.float32)[[0] * self.count], None
