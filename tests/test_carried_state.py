"""Truncated backpropagation: an update starts from the states after the last one."""

import functools
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from probe import ProbeConfig
from tiny import DISCRETE, OPTIMIZER, PLAN2EXPLORE, VECTORS, B, fit, make_agent, make_batch
from torch.testing import assert_close

from dreamer.carried_state import CarriedState
from dreamer.replay.buffer import Replay, ReplayConfig
from dreamer.replay.dataset import ReplayDataModule
from dreamer.replay.streams import SequentialSampler
from dreamer.types import RSSMState, TimeStep

KEYS = dict(
    skip_first=True,
    allow_mid_reset=True,
    reset_interval=11,
    piece_policy_steps=0,
    newest_policy_steps=0,
)


def continuing_batches(count):
    """Batches that begin in the middle of episodes, apart from one sequence of the second."""
    batches = [make_batch(seed=n) for n in range(count)]
    for batch in batches:
        batch.is_first[0] = False
    batches[1].is_first[0, 1] = True
    return batches


def start_of(carried) -> RSSMState:
    state = carried.start(torch.device("cpu"))
    assert state is not None
    return state


def test_an_update_starts_from_the_states_after_the_last():
    batches = continuing_batches(3)
    torch.manual_seed(1)
    carrying = make_agent(carry_state=True)
    metrics = fit(carrying, batches)

    torch.manual_seed(1)
    agent = make_agent()
    states: list[RSSMState] = []

    def step(batch):
        state, result = agent.update(batch, states[-1] if states else None)
        states.append(state)
        return result

    expected = fit(agent, batches, step)
    assert_close(metrics, expected, rtol=0, atol=0)
    assert_close(carrying.state_dict(), agent.state_dict(), rtol=0, atol=0)
    assert_close(start_of(carrying.carried), states[-1], rtol=0, atol=0)
    assert not any(x.requires_grad for x in states[-1])
    without = fit(make_agent(), batches)
    assert_close(without[0], metrics[0], rtol=0, atol=0)
    assert without[1]["world_model/loss"] != metrics[1]["world_model/loss"]


def test_a_reset_forgets_the_carried_state():
    losses = []
    for first in (make_batch(seed=3), make_batch(seed=4)):
        agent, batch = make_agent(carry_state=True), make_batch(seed=5)
        assert batch.is_first[0].all()
        with torch.no_grad():
            agent.carried.keep(agent.world_model.loss(first).posterior.at(-1))
        torch.manual_seed(0)
        losses.append(agent.world_model.loss(batch, start_of(agent.carried)).loss)
    assert_close(*losses, rtol=0, atol=0)


def test_the_state_is_changed_in_place_and_has_the_size_of_what_it_is_given():
    agent, carried = make_agent(), CarriedState()
    assert carried.start(torch.device("cpu")) is None and carried.state_dict() == {}
    state = agent.world_model.rssm.initial(5 * B)  # five samples of every entry
    carried.keep(state)
    kept = start_of(carried)
    addresses = [x.data_ptr() for x in kept]
    carried.keep(type(state)(*(x + 3 for x in state)))
    carried.load_state_dict({k: x.clone() for k, x in carried.state_dict().items()})
    kept = start_of(carried)
    assert [x.data_ptr() for x in kept] == addresses
    assert all((x == 3).all() for x in kept)
    carried.load_state_dict(agent.world_model.rssm.initial(B)._asdict())
    assert len(start_of(carried).deter) == B
    carried.load_state_dict({})
    assert carried.start(torch.device("cpu")) is None


def test_a_state_that_is_not_finite_is_not_carried():
    carried = CarriedState()
    state = make_agent().world_model.rssm.initial(B)
    carried.keep(type(state)(*(x + 2 for x in state)))
    state.deter[1, 2] = torch.nan
    carried.keep(state)
    assert all((x == 2).all() for x in start_of(carried))


def test_components_and_explorers_learn_from_carried_states():
    components = {"explore": PLAN2EXPLORE, "probe": ProbeConfig(OPTIMIZER, "angle", 9)}
    agent = make_agent(carry_state=True, components=components)
    metrics = fit(agent, continuing_batches(3))
    assert all(x.isfinite() for x in metrics[-1].values())
    assert "probe/loss" in metrics[-1] and "explore_actor/loss" in metrics[-1]


# ---------------------------------------------------------------------------------- checkpoints


def fixed_replay(directory: Path) -> Replay:
    """Three episodes of 40 steps. A load would close one in progress, which would then be read."""
    replay = Replay(
        directory,
        obs_shapes=VECTORS,
        action_size=DISCRETE.size,
        env_count=1,
        config=ReplayConfig(
            400, functools.partial(SequentialSampler, **KEYS), False, carry_state=True
        ),
        seed=4,
    )
    generator = np.random.default_rng(0)
    for n in range(0 if replay.total_policy_steps else 120):
        obs = {k: generator.normal(size=(1, *s)).astype(np.float32) for k, s in VECTORS.items()}
        first, last = np.array([n % 40 == 0]), np.array([n % 40 == 39])
        action = np.eye(2, dtype=np.float32)[[generator.integers(2)]] * ~first
        replay.add(TimeStep(obs, generator.normal(size=1) * ~first, first, last, last), action)
    return replay


class Save(pl.Callback):
    """Saves and stops after so many updates, and restores torch's random state."""

    def __init__(self, path: Path, updates: int, random_state=None):
        self.path, self.updates, self.random_state = path, updates, random_state
        self.losses: list[float] = []

    def on_train_start(self, trainer, pl_module):
        if self.random_state is not None:
            torch.set_rng_state(self.random_state)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert isinstance(outputs, dict)
        self.losses.append(outputs["world_model/loss"].item())
        if pl_module.updates == self.updates:
            trainer.should_stop = True
            trainer.save_checkpoint(self.path)
            torch.save(torch.get_rng_state(), self.path.with_suffix(".rng"))


def train(directory: Path, updates: int, resume: bool = False):
    replay = fixed_replay(directory / "replay")
    data = ReplayDataModule(replay, batch_size=B, length=5, updates=9)
    agent = make_agent(carry_state=True)
    path = directory / "last.ckpt"
    torch.manual_seed(6)
    random_state = torch.load(path.with_suffix(".rng"), weights_only=True) if resume else None
    save = Save(path, updates, random_state)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[save],
    )
    checkpoint = {"ckpt_path": path, "weights_only": True} if resume else {}
    trainer.fit(agent, datamodule=data, **checkpoint)
    return agent, save.losses, torch.load(path, weights_only=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tensorboard|.*num_workers|.*smaller than the logging")
def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path):
    whole, expected, saved = train(tmp_path / "whole", 9)
    _, before, middle = train(tmp_path / "cut", 4)
    assert middle["carried_state"].keys() == {"deter", "stoch", "stats"}
    streams = middle["ReplayDataModule"]["sampler"]["streams"]
    assert len(streams) == B and any(stream["step"] > stream["start"] for stream in streams)
    resumed, after, again = train(tmp_path / "cut", 9, resume=True)
    assert before + after == expected
    assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert_close(again["carried_state"], saved["carried_state"], rtol=0, atol=0)
    assert again["ReplayDataModule"] == saved["ReplayDataModule"]
