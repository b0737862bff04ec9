"""What is kept of a run, and when."""

import pytest
import torch

from dreamer.callbacks.checkpoint import Checkpoint
from dreamer.callbacks.interrupt import Interrupted
from dreamer.callbacks.metrics import Metrics
from dreamer.checkpoint_file import read_checkpoint
from dreamer.envs.group import EnvironmentFault


@pytest.fixture
def metrics(replay):
    return Metrics(replay, every_frames=100)


@pytest.fixture
def saver(tmp_path, metrics):
    return Checkpoint(tmp_path / "checkpoints", metrics, every_frames=100)


@pytest.fixture
def saved(trainer, agent, tmp_path):
    """Lets the trainer write the frame count instead of weights; reads it by name."""

    def write(path, weights_only):
        torch.save({"counters": {"frames": agent.frames, "updates": 0}}, path)

    trainer.save_checkpoint = write

    def read(name):
        path = tmp_path / "checkpoints" / f"{name}.ckpt"
        return read_checkpoint(path)["counters"]["frames"] if path.exists() else None

    return read


def end_update(saver, trainer, agent, frames):
    agent.frames, agent.updates = frames, agent.updates + 1
    saver.on_train_batch_end(trainer, agent, {}, None, 0)


def test_the_prefill_is_saved_then_the_last_state_every_so_many_frames(
    saver, trainer, agent, saved
):
    agent.frames = 40
    saver.on_train_start(trainer, agent)
    assert saved("last") == 40
    kept = []
    for frames in (90, 110, 190, 210):
        end_update(saver, trainer, agent, frames)
        kept.append(saved("last"))
    assert kept == [40, 110, 110, 210]
    agent.frames = 215
    saver.on_train_end(trainer, agent)
    assert saved("last") == 215


def test_the_best_is_the_one_with_the_highest_evaluation_return(
    saver, metrics, trainer, agent, saved
):
    saver.on_train_start(trainer, agent)
    kept = []
    for frames, score in ((10, None), (20, -3.0), (30, 2.0), (40, 1.0), (50, 2.0), (60, 2.5)):
        if score is not None:
            metrics.write(trainer, frames, {"eval/return_mean": score})
        end_update(saver, trainer, agent, frames)
        kept.append(saved("best"))
    assert kept == [None, 20, 30, 30, 50, 60]  # of equal scores, the later


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    saver, trainer, agent, saved, tmp_path
):
    saver.on_train_start(trainer, agent)

    def fail(path, weights_only):
        path.write_text("half of")
        raise OSError("No space left on device")

    trainer.save_checkpoint = fail
    with pytest.raises(OSError, match="No space left"):
        end_update(saver, trainer, agent, 150)
    assert saved("last") == 0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("started", "policy_steps", "error", "kept"),
    [
        (True, 50, ValueError("a reward that is not finite"), 30),
        (True, 50, Interrupted(2), 30),
        (False, 50, Interrupted(2), 30),
        (False, 0, Interrupted(2), None),
        (False, 50, ValueError("no sequence in the prefill"), None),
        (False, 50, EnvironmentFault("it failed once more"), 30),
    ],
)
def test_an_exception_saves_what_is_worth_it(
    saver, trainer, agent, saved, started, policy_steps, error, kept
):
    if started:
        saver.on_train_start(trainer, agent)
    agent.frames, agent.policy_steps = 30, policy_steps
    saver.on_exception(trainer, agent, error)
    assert saved("last") == kept


def test_random_numbers_go_on_where_they_were(saver, metrics, tmp_path, trainer, agent, saved):
    state = saver.state_dict()
    expected = torch.rand(3)
    other = Checkpoint(tmp_path, metrics, every_frames=100)
    other.load_state_dict(state)
    torch.rand(5)  # whatever the Trainer draws until the first batch
    other.on_train_start(trainer, agent)
    assert torch.rand(3).equal(expected)


def test_the_state_holds_plain_types_only(saver, tmp_path):
    torch.save(saver.state_dict(), tmp_path / "state")
    assert torch.load(tmp_path / "state", weights_only=True).keys() >= {"best", "torch"}
