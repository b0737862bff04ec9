"""Who fills the replay when: prefill, first update, rhythm, end."""

import numpy as np
import pytest

from dreamer.callbacks.collect import Collect
from dreamer.callbacks.interrupt import Interrupt, Interrupted
from dreamer.callbacks.metrics import Metrics
from dreamer.collector import Collector

LEFT = np.float32([[1, 0]])


class Actor:
    def __init__(self):
        self.steps = 0

    def __call__(self, step, state):
        self.steps += 1
        return LEFT, None


@pytest.fixture
def make_collect(envs, replay):
    def make(**changes):
        options = {
            "random_policy": Actor(),
            "policy": Actor(),
            "action_repeat": 4,
            "batch_length": 5,
            "total_frames": 200,
            "prefill_policy_steps": 20,
            "pretrain_updates": 1,
            "train_every_policy_steps": 7,
        } | changes
        metrics, interrupt = Metrics(replay, every_frames=1), Interrupt()
        collect = Collect(Collector(envs), replay, metrics, interrupt, **options)
        collect.metrics, collect.interrupt, collect.options = metrics, interrupt, options
        return collect

    return make


def update(collect, trainer, agent):
    """What the Trainer does between two batches; tells the policy steps made by then."""
    collect.on_train_batch_start(trainer, agent, None, 0)
    agent.updates += 1
    collect.on_train_batch_end(trainer, agent, {}, None, 0)
    return agent.policy_steps


def test_the_prefill_is_random_and_exact(make_collect, trainer, agent, replay):
    collect = make_collect()
    collect.on_fit_start(trainer, agent)
    assert (agent.policy_steps, agent.frames, agent.updates) == (20, 80, 0)
    assert replay.policy_steps == 20
    assert collect.options["random_policy"].steps > 0
    assert collect.options["policy"].steps == 0


def test_the_actor_acts_one_step_before_its_first_update_then_every_so_many(
    make_collect, trainer, agent, replay
):
    collect = make_collect()
    collect.on_fit_start(trainer, agent)
    assert [update(collect, trainer, agent) for _ in range(4)] == [20, 21, 28, 35]
    assert replay.policy_steps == 35
    assert collect.options["policy"].steps >= 15


def test_pretraining_comes_before_the_actor_acts(make_collect, trainer, agent):
    collect = make_collect(pretrain_updates=3)
    collect.on_fit_start(trainer, agent)
    assert [update(collect, trainer, agent) for _ in range(5)] == [20, 20, 20, 21, 28]


def test_the_run_stops_with_the_update_that_reaches_the_budget(make_collect, trainer, agent):
    collect = make_collect(total_frames=110)  # 27.5 policy steps
    collect.on_fit_start(trainer, agent)
    stops = [update(collect, trainer, agent) and trainer.should_stop for _ in range(3)]
    assert stops == [False, False, True]
    assert agent.frames == 112


def test_a_run_at_its_budget_does_not_begin(make_collect, trainer, agent):
    agent.frames = 200
    make_collect().on_train_start(trainer, agent)
    assert trainer.should_stop


def test_a_resumed_run_prefills_what_is_missing_only(make_collect, trainer, agent, replay):
    agent.policy_steps, agent.frames = 4, 16
    make_collect().on_fit_start(trainer, agent)
    assert (agent.policy_steps, agent.frames, replay.policy_steps) == (20, 80, 16)


def test_episodes_are_reported_by_return_and_length(make_collect, trainer, agent):
    collect = make_collect()
    collect.on_fit_start(trainer, agent)
    collect.metrics.flush(trainer, agent)
    ((frames, values),) = trainer.loggers[0].lines
    assert frames == 80
    assert values["collect/length"] == 8
    assert values["collect/episodes"] == collect.metrics.latest["collect/episodes"] == 2
    assert -2 <= values["collect/return"] <= 2
    assert 2 >= values["collect/best_return"] >= values["collect/return"]


def test_an_interrupted_collection_still_counts(make_collect, trainer, agent, replay):
    collect = make_collect()
    advance = collect.options["random_policy"]

    def stop_in_the_middle(step, state):
        if advance.steps == 9:
            collect.interrupt.signal_number = 2
        return advance(step, state)

    collect._random_policy = stop_in_the_middle
    with pytest.raises(Interrupted, match="SIGINT"):
        collect.on_fit_start(trainer, agent)
    assert agent.policy_steps == replay.policy_steps > 0
    assert agent.frames == 4 * agent.policy_steps


def test_a_prefill_without_a_whole_sequence_is_told(make_collect, trainer, agent):
    collect = make_collect(batch_length=40)
    with pytest.raises(ValueError, match="`batch.length` 40 steps in the prefill"):
        collect.on_fit_start(trainer, agent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_frames": 80}, "exceed the prefill of 20 policy steps x 4 frames, actually: 80"),
        ({"prefill_policy_steps": 0}, "`prefill_policy_steps` >= 1"),
        ({"pretrain_updates": -1}, "`pretrain_updates` >= 0"),
    ],
)
def test_schedules_that_cannot_be_are_refused(make_collect, change, message):
    with pytest.raises(ValueError, match=message):
        make_collect(**change)
