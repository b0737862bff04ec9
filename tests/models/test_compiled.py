"""Compiled activations, dreams and recurrent steps: the numbers of torch's own, compiled once."""

import copy
import itertools

import pytest
import torch
from tiny import (
    DISCRETE,
    IMAGE,
    B,
    T,
    fit,
    make_agent,
    make_batch,
    weights_of,
)
from torch.testing import assert_close

from dreamer.models import compiled
from dreamer.models.activations import ACTIVATIONS, compiled_elu
from dreamer.models.compiled import compile_activations, compile_recurrence
from dreamer.models.compiled_steps import compile_dream, compile_sequences
from dreamer.models.mlp import DenseLayer
from dreamer.models.recurrent import advance
from dreamer.models.steps import PLAIN


def test_networks_without_elu_have_nothing_to_compile(monkeypatch):
    def compile_anyway():
        raise AssertionError

    monkeypatch.setattr(compiled, "load_compiled_elu", compile_anyway)
    layer = DenseLayer(3, 4, activation="silu", norm="none")
    assert not compile_activations(layer)
    assert layer.activation is ACTIVATIONS["silu"]


def with_activations(agent):
    assert compile_activations(agent)
    of_modules = [getattr(module, "activation", None) for module in agent.modules()]
    assert of_modules.count(compiled_elu) > 10


def with_recurrence(agent):
    compile_recurrence(agent, torch.device("cpu"))
    rssm = agent.world_model.rssm
    between = rssm.make_steps.keywords["between"]
    assert not {rssm.gru.advance, *between} & {advance, *PLAIN}


def with_sequences(agent):
    assert compile_sequences(agent.world_model.rssm, B)


def with_dreams(agent):
    networks = agent.world_model.rssm, agent.actor_critic
    agent.dream_step = compile_dream(*networks, starts=T * B)
    assert agent.dream_step is not None


@pytest.mark.slow
@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize(
    ("compile_part", "precision"),
    [
        *itertools.product([with_activations, with_recurrence], ["32-true", "bf16-mixed"]),
        (with_dreams, "32-true"),
        (with_sequences, "32-true"),
    ],
)
def test_fifty_updates_give_the_losses_of_eager_ones(compile_part, precision):
    agents, losses = [make_agent(DISCRETE, obs_shapes=IMAGE) for _ in range(2)], []
    agents[1].load_state_dict(copy.deepcopy(agents[0].state_dict()))
    compile_part(agents[1])
    for agent in agents:
        torch.manual_seed(1)
        batches = [make_batch(DISCRETE, IMAGE, seed=n) for n in range(50)]
        metrics = fit(agent, batches, precision=precision)
        losses.append([m["world_model/loss"].item() for m in metrics])
    assert len(losses[0]) == 50 and losses[0][0] != losses[0][-1]
    relative = 1e-4 if precision == "32-true" else 2e-2
    assert losses[1] == pytest.approx(losses[0], rel=relative)
    if precision == "32-true":
        assert_close(weights_of(agents[1]), weights_of(agents[0]), rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_recurrent_steps_are_compiled_in_the_first_update_and_never_again():
    from torch._dynamo.utils import counters  # takes a second

    def step(batch):
        metrics = agent.update(batch)[1]
        graphs.append(counters["stats"]["unique_graphs"])
        return metrics

    torch._dynamo.reset()  # what other tests compiled
    agent, graphs = make_agent(DISCRETE), []
    with_recurrence(agent)
    before = counters["stats"]["unique_graphs"]
    fit(agent, [make_batch(DISCRETE, seed=n) for n in range(4)], step)
    assert len(graphs) == 4 and before < graphs[0] == graphs[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_cells_serve_any_number_of_rows():
    plain, compiled_one = make_agent(DISCRETE), make_agent(DISCRETE)
    with_recurrence(compiled_one)
    cells = plain.world_model.rssm.gru, compiled_one.world_model.rssm.gru
    for count in range(1, 12):
        inputs = torch.randn(count, cells[0].linear.in_features).split([12, 16], -1)
        with torch.no_grad():
            assert_close(cells[1](*inputs), cells[0](*inputs))
