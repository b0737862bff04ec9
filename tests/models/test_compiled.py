"""Compiled activations, dreams and recurrent steps: the numbers of torch's own, compiled once."""

import copy
import itertools

import pytest
import torch
from tiny import (
    CATEGORICAL,
    CONTINUOUS,
    DISCRETE,
    IMAGE,
    B,
    T,
    fit,
    make_agent,
    make_batch,
    make_state,
    weights_of,
)
from torch.testing import assert_close

from dreamer.models import compiled
from dreamer.models.activations import ACTIVATIONS, compiled_elu
from dreamer.models.compiled import (
    compile_activations,
    compile_dream,
    compile_recurrence,
    compile_sequences,
)
from dreamer.models.mlp import DenseLayer
from dreamer.models.recurrent import advance
from dreamer.models.unrolled import PLAIN
from dreamer.types import RSSMState


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


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_step_of_a_dream_is_taken_for_its_number_of_starts_with_the_weights_of_now():
    agent, calls = make_agent(DISCRETE), []
    rssm, actor_critic = agent.world_model.rssm, agent.actor_critic

    class WatchedActor(type(actor_critic)):
        def act(self, features, noise=None):
            calls.append(len(features))
            return super().act(features, noise)

    actor_critic.__class__ = WatchedActor
    step = compile_dream(rssm, actor_critic, starts=5)
    calls.clear()  # those of the compiler
    for starts, seed in itertools.product((5, 7), range(2)):
        torch.manual_seed(seed)
        with torch.no_grad():
            for x in agent.parameters():
                x.normal_()
            sizes = rssm.feature_size, rssm.deter_size, actor_critic.action_size
            inputs = [torch.randn(starts, size) for size in sizes]
            inputs.append(torch.randn(starts, rssm.latent.variables, rssm.latent.classes))
            actual = step(*inputs)
            assert calls == [starts] * (starts != 5)
            assert_close(actual, rssm.dream_step(actor_critic.act, *inputs))
        calls.clear()


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("batch", [B, B + 1])
def test_compiled_steps_of_sequences_are_taken_for_their_batch_in_float32(batch, bf16, monkeypatch):
    taken = []

    class Watched(compiled._CompiledSteps):
        def backward(self, *args):
            taken.append(1)
            return super().backward(*args)

    monkeypatch.setattr(compiled, "_CompiledSteps", Watched)
    rssm = make_agent(DISCRETE).world_model.rssm
    for x in rssm.parameters():
        torch.nn.init.normal_(x, 0.1, 0.4)
    length, action = 6, torch.randn(6, batch, DISCRETE.size)
    embed = torch.randn(length, batch, rssm.obs_out.linear.in_features - rssm.deter_size)
    embed.requires_grad_()
    # Not contiguous, which compiled steps would not notice.
    is_first = (torch.rand(batch, length) < 0.3).t()
    wanted = torch.randn(batch, length, rssm.feature_size).transpose(0, 1)
    noise = torch.randn(batch, length, rssm.latent.classes, rssm.latent.variables).permute(
        1, 0, 3, 2
    )
    state = make_state(CATEGORICAL, batch)
    start = RSSMState(*(x.transpose(0, 1).contiguous().transpose(0, 1) for x in state))

    def outcome():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            states = rssm.observe(embed, action, is_first, start, noise)
        loss = (states.features * wanted).sum() + states.stats.square().sum()
        parameters = [embed, *rssm.gru.parameters(), *rssm.obs_dist.parameters()]
        return [*states, *torch.autograd.grad(loss, parameters)]

    plain = outcome()
    assert compile_sequences(rssm, B)
    assert not taken
    assert_close(outcome(), plain, rtol=1e-4, atol=1e-5)
    assert len(taken) == (length if batch == B and not bf16 else 0)


def test_sequences_are_not_compiled_where_products_are_large(monkeypatch):
    monkeypatch.delattr(compiled, "make")
    assert not compile_sequences(make_agent(DISCRETE).world_model.rssm, 10**9)


def test_dreams_are_not_compiled_where_little_would_be_gained(monkeypatch):
    monkeypatch.delattr(compiled, "make")
    through_dynamics, discrete = make_agent(CONTINUOUS), make_agent(DISCRETE)
    for agent, starts in (through_dynamics, T * B), (discrete, 10**9):
        assert compile_dream(agent.world_model.rssm, agent.actor_critic, starts) is None
