import warnings

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from dreamer.replay.dataset import ReplayDataModule, ReplayDataset
from dreamer.types import Batch


class Recorder(LightningModule):
    """Three optimisers by hand, as the agent has them; keeps the batches that it was given."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.batches: list[Batch] = []

    def configure_optimizers(self):
        return [torch.optim.SGD([self.weight], lr=0.1) for _ in range(3)]

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():  # pyright: ignore
            optimizer.zero_grad()
            self.manual_backward((self.weight * batch.reward.mean()).sum())
            optimizer.step()
        self.batches.append(batch)


class Draws(Callback):
    """Fills the replay in `on_fit_start`, checks the draws at each hook, saves and stops early."""

    def __init__(self, replay, fill=None, stop_after=None):
        self.replay, self.fill, self.stop_after = replay, fill, stop_after
        self.drawn, self.trained, self.seen = 0, 0, []
        sample = replay.sample

        def counted(*args):
            self.drawn += 1
            return sample(*args)

        replay.sample = counted

    def on_fit_start(self, trainer, pl_module):
        self.seen.append(("fit_start", self.drawn, self.replay.state_dict()["steps"]))
        if self.fill:
            self.fill()

    def on_train_start(self, trainer, pl_module):
        assert self.drawn == 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert self.drawn == self.trained + 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trained += 1
        assert self.drawn == self.trained
        if self.drawn == self.stop_after:
            trainer.should_stop = True
            trainer.save_checkpoint(f"{trainer.default_root_dir}/last.ckpt")


def fit(module, data, callback, tmp_path, **kwargs):
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        default_root_dir=tmp_path,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval")
        warnings.filterwarnings("ignore", ".*LeafSpec")  # Lightning's own
        trainer.fit(module, datamodule=data, **kwargs)


def test_dataset_samples_when_asked_and_tells_its_length(make_replay, make_world):
    replay, world = make_replay(), make_world(3)
    dataset = ReplayDataset(replay, batch_size=4, length=5, updates=9)
    assert len(dataset) == 9
    batches = iter(dataset)
    with pytest.raises(ValueError, match="No sequence of 5 steps"):
        next(batches)
    world.play(replay, 100)
    batches = iter(dataset)
    for _ in range(20):
        world.check(next(batches), 0, across_episodes=False)


@pytest.mark.parametrize("stop_after", [None, 4])
def test_no_batch_is_drawn_ahead(make_replay, make_world, tmp_path, stop_after):
    replay, world, module = make_replay(), make_world(3), Recorder()
    data = ReplayDataModule(replay, batch_size=4, length=5, updates=11)
    callback = Draws(replay, lambda: world.play(replay, 100), stop_after)
    fit(module, data, callback, tmp_path)
    assert callback.seen == [("fit_start", 0, 0)]
    assert callback.drawn == len(module.batches) == (stop_after or 11)


def test_a_batch_arrives_as_a_batch(make_replay, make_world, tmp_path):
    replay, world, module = make_replay(), make_world(3), Recorder()
    world.play(replay, 100)
    data = ReplayDataModule(replay, batch_size=4, length=5, updates=2)
    fit(module, data, Draws(replay), tmp_path)
    for batch in module.batches:
        assert type(batch) is Batch
        assert batch.obs["image"].dtype == torch.uint8
        world.check(batch, 0, across_episodes=False)


def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(make_replay, make_world, tmp_path):
    def run(replay, stop_after=None, **kwargs):
        module, callback = Recorder(), Draws(replay, stop_after=stop_after)
        data = ReplayDataModule(replay, batch_size=4, length=5, updates=9)
        fit(module, data, callback, tmp_path, **kwargs)
        return module.batches, callback

    for name in ("whole", "cut"):
        world = make_world(3, lengths=lambda: 10)
        world.play(make_replay(directory=name), 60)
    expected, _ = run(make_replay(directory="whole"))

    replay = make_replay(directory="cut")
    before, _ = run(replay, stop_after=4)
    world.play(replay, 17)  # after the checkpoint: to be forgotten
    replay.sample(4, 5)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["ReplayDataModule"].keys() == {"steps", "oldest", "generator"}
    assert (tmp_path / "last.ckpt").stat().st_size < 20_000

    resumed = make_replay(directory="cut", seed=8)
    after, callback = run(resumed, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert callback.seen == [("fit_start", 0, 60)]  # rolled back before the prefill looks at it
    assert len(before) == 4 and len(after) == 5
    torch.testing.assert_close(before + after, expected, rtol=0, atol=0)
