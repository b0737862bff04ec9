"""Steps of sequences and dreams that are one call: when they are taken, and their numbers."""

import itertools

import pytest
import torch
from tiny import CATEGORICAL, CONTINUOUS, DISCRETE, B, T, make_agent, make_state
from torch.testing import assert_close

from dreamer.models import compiled_steps
from dreamer.models.compiled_steps import compile_dream, compile_sequences
from dreamer.types import RSSMState


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

    class Watched(compiled_steps._CompiledSteps):
        def backward(self, *args):
            taken.append(1)
            return super().backward(*args)

    monkeypatch.setattr(compiled_steps, "_CompiledSteps", Watched)
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
    monkeypatch.delattr(compiled_steps, "make")
    assert not compile_sequences(make_agent(DISCRETE).world_model.rssm, 10**9)


def test_dreams_are_not_compiled_where_little_would_be_gained(monkeypatch):
    monkeypatch.delattr(compiled_steps, "make")
    through_dynamics, discrete = make_agent(CONTINUOUS), make_agent(DISCRETE)
    for agent, starts in (through_dynamics, T * B), (discrete, 10**9):
        assert compile_dream(agent.world_model.rssm, agent.actor_critic, starts) is None
