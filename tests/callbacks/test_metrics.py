"""Averages, and the one who writes them."""

import pytest
import torch

from dreamer.callbacks.metrics import Metrics


@pytest.fixture
def metrics(replay):
    return Metrics(replay, every_frames=100)


def end_update(metrics, trainer, agent, frames, **values):
    agent.frames, agent.updates = frames, agent.updates + 1
    metrics.on_train_batch_end(trainer, agent, values, None, 0)


def test_a_line_holds_the_averages_since_the_last(metrics, trainer, agent):
    metrics.on_train_start(trainer, agent)
    for frames, loss in ((40, 1.0), (80, 2.0), (120, 6.0), (160, 5.0), (200, 7.0)):
        end_update(metrics, trainer, agent, frames, loss=torch.tensor(loss))
    written = [(frames, values["loss"]) for frames, values in trainer.loggers[0].lines]
    assert written == [(120, 3.0), (200, 6.0)]


def test_a_number_reported_once_is_averaged_over_once(metrics, trainer, agent):
    metrics.on_train_start(trainer, agent)
    metrics.observe({"collect/return": 9.0})
    end_update(metrics, trainer, agent, 60, loss=torch.tensor(1.0))
    end_update(metrics, trainer, agent, 110, loss=torch.tensor(2.0))
    ((_, values),) = trainer.loggers[0].lines
    assert (values["collect/return"], values["loss"]) == (9.0, 1.5)


def test_a_count_goes_on_from_line_to_line_and_after_a_resume(metrics, trainer, agent, replay):
    metrics.on_train_start(trainer, agent)
    metrics.count("collect/episodes")
    end_update(metrics, trainer, agent, 110, loss=torch.tensor(1.0))
    resumed = Metrics(replay, every_frames=100)
    resumed.load_state_dict(metrics.state_dict())
    resumed.count("collect/episodes")
    resumed.on_train_start(trainer, agent)
    end_update(resumed, trainer, agent, 210, loss=torch.tensor(1.0))
    assert [values["collect/episodes"] for _, values in trainer.loggers[0].lines] == [1, 2]


def test_a_failure_before_a_checkpoint_is_loaded_is_counted(metrics, trainer, agent, replay):
    metrics.count("logger/failures")
    resumed = Metrics(replay, every_frames=100)
    with pytest.warns(UserWarning, match="W&B failed, and the run continues: OSError: no server"):
        resumed.fail("W&B", "logger/failures", OSError("no server"))
    resumed.load_state_dict(metrics.state_dict())
    assert resumed.latest["logger/failures"] == 2


def test_the_best_goes_on_from_line_to_line_and_after_a_resume(metrics, trainer, agent, replay):
    metrics.on_train_start(trainer, agent)
    for value in (-7.0, -3.0, -5.0):
        metrics.best("collect/best_return", value)
    end_update(metrics, trainer, agent, 110, loss=torch.tensor(1.0))
    resumed = Metrics(replay, every_frames=100)
    resumed.load_state_dict(metrics.state_dict())
    resumed.on_train_start(trainer, agent)
    end_update(resumed, trainer, agent, 210, loss=torch.tensor(1.0))
    resumed.best("collect/best_return", -2.0)
    end_update(resumed, trainer, agent, 310, loss=torch.tensor(1.0))
    best = [values["collect/best_return"] for _, values in trainer.loggers[0].lines]
    assert best == [-3.0, -3.0, -2.0]


def test_a_resumed_run_writes_the_line_of_one_that_was_not_interrupted(
    metrics, trainer, agent, replay
):
    metrics.observe({"collect/return": 9.0})
    metrics.on_train_start(trainer, agent)
    for frames, loss in ((40, 1.0), (80, 2.0)):
        end_update(metrics, trainer, agent, frames, loss=torch.tensor(loss))
    resumed = Metrics(replay, every_frames=100)
    resumed.load_state_dict(metrics.state_dict())
    resumed.on_train_start(trainer, agent)
    end_update(resumed, trainer, agent, 120, loss=torch.tensor(6.0))
    ((frames, values),) = trainer.loggers[0].lines
    assert (frames, values["loss"], values["collect/return"]) == (120, 3.0, 9.0)


def test_a_line_tells_counters_and_throughput(metrics, trainer, agent):
    metrics.on_train_start(trainer, agent)
    agent.policy_steps = 30
    for frames in (40, 80, 120):
        end_update(metrics, trainer, agent, frames, loss=torch.tensor(0.0))
    ((_, values),) = trainer.loggers[0].lines
    assert values["updates"] == 3
    assert values["replay/ratio"] == pytest.approx(0.1)
    assert values["perf/frames_per_second"] == pytest.approx(
        40 * values["perf/updates_per_second"], rel=1e-6
    )
    assert values["replay/episodes"] == values["replay/policy_steps"] == 0


def test_the_end_writes_what_is_left_and_nothing_twice(metrics, trainer, agent):
    metrics.on_train_start(trainer, agent)
    end_update(metrics, trainer, agent, 30, loss=torch.tensor(4.0))
    metrics.on_train_end(trainer, agent)
    metrics.on_train_end(trainer, agent)
    ((frames, values),) = trainer.loggers[0].lines
    assert (frames, values["loss"]) == (30, 4.0)


def test_tensors_are_read_only_when_they_are_written(metrics, trainer, agent):
    class Watched(torch.Tensor):
        reads = 0

        def item(self):
            Watched.reads += 1
            return super().item()

    metrics.on_train_start(trainer, agent)
    for frames in (40, 80):
        end_update(metrics, trainer, agent, frames, loss=torch.tensor(1.0).as_subclass(Watched))
    assert Watched.reads == 0
    end_update(metrics, trainer, agent, 120, loss=torch.tensor(1.0).as_subclass(Watched))
    assert Watched.reads == 1


def test_the_newest_values_survive_a_resume(metrics, trainer, replay):
    metrics.write(trainer, 50, {"eval/return_mean": 3.0})
    other = Metrics(replay, every_frames=100)
    other.load_state_dict(metrics.state_dict())
    assert other.latest == {"eval/return_mean": 3.0}


def test_an_average_over_some_steps_leaves_out_batches_without_them(
    metrics, trainer, agent, replay
):
    metrics.on_train_start(trainer, agent)
    key, other = "world_model/reward_nll_where_1", "world_model/reward_nll_where_0"
    nan = float("nan")
    end_update(metrics, trainer, agent, 20, **{key: torch.tensor(nan), other: torch.tensor(nan)})
    end_update(metrics, trainer, agent, 40, **{key: torch.tensor(2.0), other: torch.tensor(nan)})
    resumed = Metrics(replay, every_frames=100)
    resumed.on_train_start(trainer, agent)
    resumed.load_state_dict(metrics.state_dict())
    end_update(resumed, trainer, agent, 110, **{key: torch.tensor(5.0), other: torch.tensor(nan)})
    ((_, values),) = trainer.loggers[0].lines
    assert values[key] == 3.5
    assert other not in values  # nothing to report


def test_any_other_number_that_is_not_finite_is_shown(metrics, trainer, agent):
    metrics.on_train_start(trainer, agent)
    end_update(metrics, trainer, agent, 110, loss=torch.tensor(float("nan")))
    ((_, values),) = trainer.loggers[0].lines
    assert values["loss"] != values["loss"]
