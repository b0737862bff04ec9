"""The recurrent model against its equations, one step after the other."""

import dataclasses

import pytest
import torch
from tiny import (
    CATEGORICAL,
    GAUSSIAN,
    RSSM_CONFIG,
    A,
    B,
    D,
    H,
    K,
    N,
    S,
    T,
    make_state,
)
from torch import nn
from torch.testing import assert_close

from dreamer.models.layers import LayerNorm
from dreamer.models.rssm import RSSM, GRUCell, GRUConfig
from dreamer.types import RSSMState

M = 13
both = pytest.mark.parametrize("latent", [CATEGORICAL, GAUSSIAN], ids=["categorical", "gaussian"])


def make_rssm(latent=CATEGORICAL, **change) -> RSSM:
    return RSSM(M, A, latent, dataclasses.replace(RSSM_CONFIG, **change))


def sequence(latent) -> tuple[torch.Tensor, ...]:
    """Embeddings, actions (not zero where an episode starts), flags and noise, (T, B, ...)."""
    is_first = torch.zeros(T, B, dtype=torch.bool)
    is_first[0, 0] = is_first[4, 1] = True
    noise = latent.draw_noise(torch.randn(T, B, S, latent.statistics))
    return torch.randn(T, B, M), torch.randn(T, B, A), is_first, noise


@both
def test_initial_state_is_zero(latent):
    state = make_rssm(latent).initial(B)
    assert [x.shape for x in state] == [
        (B, D),
        (B, S, latent.classes),
        (B, S, latent.statistics),
    ]
    assert not any(x.any() for x in state)


@both
def test_observe_equals_a_loop_of_the_equations(latent):
    rssm = make_rssm(latent)
    embed, action, is_first, noise = sequence(latent)
    state = start = make_state(latent, B)
    posteriors = rssm.observe(embed, action, is_first, start, noise)
    assert posteriors.features.shape == (T, B, rssm.feature_size)
    for t in range(T):
        keep = 1 - is_first[t].float()
        masked = RSSMState(
            torch.einsum("b,bd->bd", keep, state.deter),
            torch.einsum("b,bsk->bsk", keep, state.stoch),
            state.stats,
        )
        deter = rssm.img_step(masked, torch.einsum("b,ba->ba", keep, action[t])).deter
        hidden = rssm.obs_out(torch.cat([deter, embed[t]], -1))
        stats = latent.to_stats(rssm.obs_dist(hidden))
        state = RSSMState(deter, latent.sample(stats, noise[t]), stats)
        assert_close(tuple(posteriors.at(t)), tuple(state))


@both
def test_observe_equals_a_loop_of_obs_step(latent):
    rssm = make_rssm(latent)
    embed, action, is_first, noise = sequence(latent)
    posteriors = rssm.observe(embed, action, is_first, None, noise)
    state = rssm.initial(B)
    for t in range(T):
        state = rssm.obs_step(state, action[t], embed[t], is_first[t], noise[t])
        assert_close(tuple(posteriors.at(t)), tuple(state))


@both
def test_first_step_in_mid_sequence_is_a_fresh_start(latent):
    rssm = make_rssm(latent)
    embed, action, is_first, noise = sequence(latent)
    is_first[:] = False
    is_first[4] = True
    start = make_state(latent, B, requires_grad=True)
    embed.requires_grad_(), action.requires_grad_()
    late = RSSMState(*(x[4:] for x in rssm.observe(embed, action, is_first, start, noise)))
    fresh_action = torch.cat([torch.zeros(1, B, A), action[5:]])
    fresh = rssm.observe(embed[4:], fresh_action, is_first[4:], None, noise[4:])
    assert_close(tuple(late), tuple(fresh))

    gradients = torch.autograd.grad(
        late.features.square().sum(), [embed, action, start.deter, start.stoch]
    )
    assert not gradients[0][:4].any()
    assert gradients[0][4:].any()
    assert not gradients[1][:5].any()
    assert gradients[1][5:].any()
    assert not gradients[2].any()
    assert not gradients[3].any()


@both
def test_start_state_is_used_where_the_sequence_goes_on(latent):
    rssm = make_rssm(latent)
    embed, action, is_first, noise = sequence(latent)
    start = make_state(latent, B, requires_grad=True)
    first = rssm.observe(embed, action, is_first, start, noise).features[0]
    gradient = torch.autograd.grad(first.square().sum(), start.deter)[0].abs().sum(-1)
    assert_close(gradient > 0, ~is_first[0])


@both
@pytest.mark.parametrize("ensemble", [1, 3])
def test_two_chunks_equal_the_whole_and_their_gradients_end_between_them(latent, ensemble):
    rssm, cut = make_rssm(latent, ensemble=ensemble), 3
    embed, action, is_first, noise = sequence(latent)
    is_first[cut, 2] = True
    embed.requires_grad_()
    start = make_state(latent, B)
    whole = rssm.observe(embed, action, is_first, start, noise)
    before = rssm.observe(embed[:cut], action[:cut], is_first[:cut], start, noise[:cut])
    carried = before.at(-1).detach()
    after = rssm.observe(embed[cut:], action[cut:], is_first[cut:], carried, noise[cut:])
    for part, other, every in zip(before, after, whole, strict=True):
        assert_close(torch.cat([part, other]), every, rtol=0, atol=0)
    for posteriors, reached in ((whole.deter[cut:], T), (after.deter, T - cut)):
        (gradient,) = torch.autograd.grad(posteriors.square().sum(), embed)
        steps = gradient.abs().amax((1, 2)) > 0
        # The last step's embedding changes its stochastic state only, not the deterministic one.
        assert steps.tolist() == [t >= T - reached for t in range(T - 1)] + [False]


@both
def test_img_step_samples_the_prior_of_its_own_deterministic_state(latent):
    rssm = make_rssm(latent)
    state, action = make_state(latent, N), torch.randn(N, A)
    noise = latent.draw_noise(state.stats)
    following = rssm.img_step(state, action, noise)
    assert_close(following.stats, rssm.prior_stats(following.deter))
    assert_close(following.stoch, latent.sample(following.stats, noise))


@both
def test_imagine_equals_a_loop_of_img_step(latent):
    rssm = make_rssm(latent)
    start, layer = make_state(latent, N), nn.Linear(rssm.feature_size, A)
    action_noise = torch.randn(H, N, A)
    state_noise = latent.draw_noise(torch.randn(H, N, S, latent.statistics))

    def policy(features, noise):
        assert not features.requires_grad
        return torch.tanh(layer(features)) + noise

    features, prev_action = rssm.imagine(
        start, policy, H, action_noise=action_noise, state_noise=state_noise
    )
    assert_close(features[0], start.features)
    assert_close(prev_action[0], torch.zeros(N, A))
    state = start
    for t in range(H):
        action = policy(state.features.detach(), action_noise[t])
        state = rssm.img_step(state, action, state_noise[t])
        assert_close(features[t + 1], state.features)
        assert_close(prev_action[t + 1], action)


@both
def test_imagination_carries_gradients_from_late_states_to_the_first_action(latent):
    rssm = make_rssm(latent)
    actions = torch.randn(H, N, A, requires_grad=True)
    steps = iter(actions)
    features, _ = rssm.imagine(make_state(latent, N), lambda features, noise: next(steps), H)
    (gradient,) = torch.autograd.grad(features[-1].square().sum(), actions)
    assert gradient.flatten(1).any(-1).all()


def test_drawn_noise_differs_from_step_to_step():
    rssm = make_rssm(GAUSSIAN)
    nn.init.zeros_(rssm.priors[0].out.weight)  # the same prior at all times
    zero = torch.zeros(N, A)
    features, _ = rssm.imagine(make_state(GAUSSIAN, N), lambda features, noise: zero, H)
    assert (features[1, :, :S] != features[2, :, :S]).all()


def test_drawn_posteriors_differ_from_step_to_step():
    rssm = make_rssm(GAUSSIAN)
    nn.init.zeros_(rssm.obs_dist.weight)  # the same posterior at all times
    embed, action, is_first, _ = sequence(GAUSSIAN)
    stoch = rssm.observe(embed, action, is_first).stoch
    assert (stoch[1:] != stoch[:-1]).all()


@pytest.mark.parametrize("ensemble", [1, 3])
def test_prior_of_many_steps_equals_that_of_each(ensemble):
    rssm = make_rssm(ensemble=ensemble)
    deter = torch.randn(T, B, D)
    member = torch.arange(T)[:, None] % ensemble
    together = rssm.prior_stats(deter, member)
    assert together.shape == (T, B, S, K)
    for t in range(T):
        assert_close(together[t], rssm.prior_stats(deter[t], member[t]))
        chosen = rssm.priors[t % ensemble](deter[t])
        assert_close(together[t], CATEGORICAL.to_stats(chosen))


def member_of(rssm: RSSM, stats: torch.Tensor, deter: torch.Tensor) -> torch.Tensor:
    """Index of the prior that gave the statistics of each step."""
    everyone = torch.stack([CATEGORICAL.to_stats(p(deter)) for p in rssm.priors])
    distance = (everyone - stats).abs().flatten(-2).sum(-1)
    assert distance.min(0).values.max() < 1e-4
    return distance.argmin(0)


def test_every_step_asks_one_member_of_the_ensemble_for_the_whole_batch():
    rssm = make_rssm(ensemble=2)
    deter = torch.randn(40, B, D)
    member = member_of(rssm, rssm.prior_stats(deter), deter)
    assert_close(member, member[:, :1].expand(-1, B))
    assert 5 < member[:, 0].sum() < 35

    single = set()
    for _ in range(20):
        following = rssm.img_step(make_state(CATEGORICAL, N), torch.randn(N, A))
        members = member_of(rssm, following.stats, following.deter).tolist()
        assert len(set(members)) == 1
        single.add(members[0])
    assert single == {0, 1}


@pytest.mark.parametrize("name", ["deter", "hidden", "ensemble"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        dataclasses.replace(RSSM_CONFIG, **{name: 0})


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="`activation` must be elu, .*, got `ela`"):
        dataclasses.replace(RSSM_CONFIG, activation="ela")


# The GRU cell


def by_the_equations(cell: GRUCell, x: torch.Tensor, deter: torch.Tensor) -> torch.Tensor:
    gates = torch.cat([x, deter], -1) @ cell.linear.weight.T + cell.linear.bias
    gates = (gates - gates.mean(-1, keepdim=True)) / (
        gates.var(-1, correction=0, keepdim=True) + 1e-3
    ).sqrt()
    gates = gates * cell.norm.weight + cell.norm.bias
    reset, candidate, update = gates[:, :D], gates[:, D : 2 * D], gates[:, 2 * D :]
    reset, update = 1 / (1 + (-reset).exp()), 1 / (1 + (1 - update).exp())
    return update * torch.tanh(reset * candidate) + (1 - update) * deter


def test_gru_equals_its_equations_gradients_included():
    cell = GRUCell(M, D, layer_norm=True)
    nn.init.uniform_(cell.norm.weight, 0.5, 2)
    nn.init.uniform_(cell.norm.bias)
    x, deter = torch.randn(B, M, requires_grad=True), torch.randn(B, D, requires_grad=True)
    expected = by_the_equations(cell, x, deter)
    assert_close(cell(x, deter), expected)
    inputs = [x, deter, *cell.parameters()]
    assert_close(
        torch.autograd.grad(cell(x, deter).square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
    )


def test_gru_without_layer_norm_has_none():
    names = [name for name, _ in GRUCell(M, D, layer_norm=False).named_parameters()]
    assert names == ["linear.weight", "linear.bias"]


@pytest.mark.parametrize(("layer_norm", "kind"), [(True, LayerNorm), (False, nn.Identity)])
def test_the_configuration_decides_whether_the_gru_has_layer_norm(layer_norm, kind):
    assert type(make_rssm(cell=GRUConfig(layer_norm)).gru.norm) is kind
