"""Who fills the replay when: prefill, first update, rhythm, end."""

import threading

import numpy as np
import pytest
import torch

from dreamer.callbacks.collect import Collect
from dreamer.callbacks.interrupt import Interrupt, Interrupted
from dreamer.callbacks.metrics import Metrics
from dreamer.collector import Collector
from dreamer.policy import ExplorerThenActor

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


def test_a_collection_ends_at_the_budget(make_collect, trainer, agent, replay):
    collect = make_collect(total_frames=110, train_every_policy_steps=10**12)
    collect.on_fit_start(trainer, agent)
    assert [update(collect, trainer, agent) for _ in range(3)] == [20, 21, 28]
    assert trainer.should_stop
    assert agent.frames == 4 * replay.policy_steps == 112  # 110 is no multiple of 4


def test_a_collection_that_the_budget_cut_short_is_finished_under_a_larger_one(
    make_collect, trainer, agent, replay
):
    collect = make_collect(total_frames=96)
    collect.on_fit_start(trainer, agent)
    assert [update(collect, trainer, agent) for _ in range(3)] == [20, 21, 24]
    longer = make_collect(total_frames=200)
    longer.on_fit_start(trainer, agent)
    longer.on_train_start(trainer, agent)
    assert agent.policy_steps == replay.policy_steps == 28
    assert [update(longer, trainer, agent) for _ in range(2)] == [35, 42]


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
    with pytest.raises(ValueError, match=r"at least 40 steps \(`batch.length`\)"):
        collect.on_fit_start(trainer, agent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_frames": 80}, "must exceed the prefill of 20 policy steps x 4 frames, got 80"),
        ({"prefill_policy_steps": -1}, "`prefill_policy_steps` and .* at least 0, got 7, -1"),
        ({"pretrain_updates": -1}, "`pretrain_updates` at least 0"),
    ],
)
def test_schedules_that_cannot_be_are_refused(make_collect, change, message):
    with pytest.raises(ValueError, match=message):
        make_collect(**change)


# ----------------------------------------------------------------------- beside the update


class SlowActor(Actor):
    """Notes where and how old it acts; may wait until the update lets it go on."""

    def __init__(self, agent):
        super().__init__()
        self.agent = agent
        self.refreshed_at = -1  # updates made when it got its weights
        self.clocks: list[int] = []
        self.ages: list[int] = []
        self.threads: list[tuple[str, int]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def refresh(self, policy_steps):
        self.refreshed_at = self.agent.updates
        self.clocks.append(policy_steps)

    def __call__(self, step, state):
        assert self.go_on.wait(10)
        self.ages.append(self.agent.updates - self.refreshed_at)
        self.threads.append((threading.current_thread().name, torch.get_num_threads()))
        if self.error:
            raise self.error
        return super().__call__(step, state)


@pytest.fixture
def beside(make_collect, trainer, agent):
    """A collection beside the update, its prefill made; `collect.actor` acts."""
    actor = SlowActor(agent)
    collect = make_collect(policy=actor, refresh=actor.refresh)
    collect.actor = actor
    collect.on_fit_start(trainer, agent)
    return collect


def test_beside_the_update_the_schedule_is_the_same(beside, trainer, agent, replay):
    assert [update(beside, trainer, agent) for _ in range(4)] == [20, 21, 28, 35]
    assert replay.policy_steps == 35
    assert agent.frames == 4 * 35
    assert beside.actor.clocks == [20, 21, 28]


def test_the_environments_step_while_the_agent_learns(beside, trainer, agent, replay):
    update(beside, trainer, agent)
    beside.actor.go_on.clear()
    beside.on_train_batch_start(trainer, agent, None, 0)
    assert (agent.policy_steps, replay.policy_steps) == (20, 20)
    agent.updates += 1  # the update is done before the first step is
    beside.actor.go_on.set()
    beside.on_train_batch_end(trainer, agent, {}, None, 0)
    assert (agent.policy_steps, replay.policy_steps) == (21, 21)
    assert set(beside.actor.ages) == {1}


def test_the_policy_is_at_most_one_update_old(beside, trainer, agent):
    for _ in range(5):
        update(beside, trainer, agent)
    assert set(beside.actor.ages) <= {0, 1}
    assert len(beside.actor.ages) == beside.actor.steps > 20


def test_the_policy_takes_one_core_and_leaves_the_learner_its_own(beside, trainer, agent):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(3):
            update(beside, trainer, agent)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(beside.actor.threads) == {("collect_0", 1)}


def test_an_error_beside_the_update_reaches_the_user(beside, trainer, agent):
    update(beside, trainer, agent)
    beside.actor.error = ValueError("the emulator is gone")
    with pytest.raises(ValueError, match="the emulator is gone"):
        update(beside, trainer, agent)
    beside.on_exception(trainer, agent, ValueError())  # nothing is left to wait for


def test_where_the_update_fails_the_collection_still_counts(beside, trainer, agent, replay):
    update(beside, trainer, agent)
    update(beside, trainer, agent)
    beside.on_train_batch_start(trainer, agent, None, 0)
    failure = RuntimeError("not a number")
    beside.on_exception(trainer, agent, failure)
    assert agent.policy_steps == replay.policy_steps == 28
    assert not hasattr(failure, "__notes__")


def test_where_both_fail_both_are_told(beside, trainer, agent):
    update(beside, trainer, agent)
    beside.actor.error = ValueError("the emulator is gone")
    beside.on_train_batch_start(trainer, agent, None, 0)
    failure = RuntimeError("not a number")
    beside.on_exception(trainer, agent, failure)
    assert failure.__notes__ == ["The collection failed, too: ValueError('the emulator is gone')"]


def test_an_interrupted_collection_beside_the_update_still_counts(beside, trainer, agent, replay):
    update(beside, trainer, agent)
    update(beside, trainer, agent)
    beside.actor.go_on.clear()
    beside.on_train_batch_start(trainer, agent, None, 0)
    beside.interrupt.signal_number = 2
    beside.actor.go_on.set()
    beside.on_train_batch_end(trainer, agent, {}, None, 0)  # raises later, with `Interrupt`
    assert agent.policy_steps == replay.policy_steps == 22
    with pytest.raises(Interrupted):
        beside.on_train_start(trainer, agent)


def test_a_collection_that_was_cut_short_is_finished_on_resume(beside, trainer, agent, replay):
    """Else its update would be made twice: once without its steps and once for them."""
    agent.updates = 3
    beside.on_train_start(trainer, agent)
    assert agent.policy_steps == replay.policy_steps == 28
    assert [update(beside, trainer, agent) for _ in range(2)] == [35, 42]


# ---------------------------------------------------------------------- explorer, then actor


@pytest.mark.parametrize(
    ("until", "explored"),
    [
        (None, [True, True, True, True]),
        (0, [False, False, False, False]),
        (21, [True, False, False, False]),
        (22, [True, True, False, False]),  # within a collection: at its end
        (28, [True, True, False, False]),
        (29, [True, True, True, False]),
        (1000, [True, True, True, True]),
    ],
)
@pytest.mark.parametrize("overlap", [False, True])
def test_the_explorer_collects_until_its_step_and_then_the_actor(
    make_collect, trainer, agent, until, explored, overlap
):
    explorer, actor = Actor(), Actor()
    policy = ExplorerThenActor(explorer, actor, until)
    refresh = (lambda policy_steps: None) if overlap else None
    collect = make_collect(policy=policy, pretrain_updates=0, refresh=refresh)
    collect.on_fit_start(trainer, agent)
    assert (explorer.steps, actor.steps) == (0, 0)  # the prefill is random in any case
    who = []
    for _ in explored:
        before = explorer.steps, actor.steps
        update(collect, trainer, agent)
        acted = explorer.steps > before[0], actor.steps > before[1]
        assert sum(acted) == 1  # never both in one collection
        who.append(acted[0])
    assert agent.policy_steps == 42  # from 20 on, and then 21, 28 and 35
    assert who == explored


@pytest.mark.parametrize(("done", "explores"), [(21, True), (28, False), (35, False)])
def test_a_resumed_run_lets_the_actor_go_on_where_exploration_is_over(
    make_collect, trainer, agent, done, explores
):
    first = make_collect()
    first.on_fit_start(trainer, agent)
    while update(first, trainer, agent) < done:
        pass
    explorer, actor = Actor(), Actor()
    resumed = make_collect(policy=ExplorerThenActor(explorer, actor, 28))
    resumed.on_fit_start(trainer, agent)
    resumed.on_train_start(trainer, agent)
    assert update(resumed, trainer, agent) == done + 7
    assert (explorer.steps > 0, actor.steps > 0) == (explores, not explores)
