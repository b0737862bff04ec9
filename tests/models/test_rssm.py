"""The recurrent model against its equations, one step after the other."""

import dataclasses
import functools

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

from dreamer.models.one_hots import one_hot_linear
from dreamer.models.rssm import RSSM
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

    states, prev_action = rssm.imagine(
        start, policy, H, action_noise=action_noise, state_noise=state_noise
    )
    assert_close(tuple(states.at(0)), tuple(start))
    assert_close(prev_action[0], torch.zeros(N, A))
    state = start
    for t in range(H):
        action = policy(state.features.detach(), action_noise[t])
        state = rssm.img_step(state, action, state_noise[t])
        assert_close(tuple(states.at(t + 1)), tuple(state))
        assert_close(prev_action[t + 1], action)


@both
def test_imagination_carries_gradients_from_late_states_to_the_first_action(latent):
    rssm = make_rssm(latent)
    actions = torch.randn(H, N, A, requires_grad=True)
    steps = iter(actions)
    states, _ = rssm.imagine(make_state(latent, N), lambda features, noise: next(steps), H)
    (gradient,) = torch.autograd.grad(states.features[-1].square().sum(), actions)
    assert gradient.flatten(1).any(-1).all()


def test_drawn_noise_differs_from_step_to_step():
    rssm = make_rssm(GAUSSIAN)
    nn.init.zeros_(rssm.priors[0].out.weight)  # the same prior at all times
    zero = torch.zeros(N, A)
    states, _ = rssm.imagine(make_state(GAUSSIAN, N), lambda features, noise: zero, H)
    assert (states.stoch[1] != states.stoch[2]).all()


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
    with pytest.raises(ValueError, match=f"`{name}` to be at least 1, actually: 0"):
        dataclasses.replace(RSSM_CONFIG, **{name: 0})


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="`activation` to be one of .*, actually: ela"):
        dataclasses.replace(RSSM_CONFIG, activation="ela")


@both
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_imagining_features_is_imagining_states(latent, bf16):
    rssm = make_rssm(latent)
    actor = nn.Linear(rssm.feature_size, A)
    start = make_state(latent, N)

    def policy(features, noise):
        return torch.tanh(actor(features).float() + noise)

    state_noise = torch.randn(H, N, S, latent.classes)
    noise = {"action_noise": torch.randn(H, N, A), "state_noise": state_noise}
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        states, actions = rssm.imagine(start, policy, H, **noise)
        step = functools.partial(rssm.dream_step, policy)
        features, same_actions = rssm.imagine_features(start, step, H, **noise)
    assert not (features.requires_grad or same_actions.requires_grad)
    assert features.dtype == (torch.bfloat16 if bf16 else torch.float32)
    assert_close(same_actions, actions)
    assert_close(features, states.features.to(features.dtype))


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("ensemble", [1, 3])
def test_imagining_positions_of_ones_is_imagining_states(ensemble):
    rssm = make_rssm(ensemble=ensemble)
    start = make_state(CATEGORICAL, N)
    actor = nn.Linear(rssm.feature_size, A)

    def dense(features, noise):
        return torch.tanh(actor(features) + noise)

    def looked_up(features, noise):
        return torch.tanh(one_hot_linear(features, actor.weight, actor.bias) + noise)

    noise = {"action_noise": torch.randn(H, N, A), "state_noise": torch.randn(H, N, S, K)}
    torch.manual_seed(7)
    states, actions = rssm.imagine(start, dense, H, **noise)
    torch.manual_seed(7)
    features, same_actions = rssm.imagine_one_hots(start, looked_up, H, **noise)
    assert_close(same_actions, actions)
    assert_close(features.deter, states.deter)
    rows = torch.zeros(H + 1, N, S * K).scatter_(-1, features.ones, 1)
    assert_close(rows, states.stoch.flatten(-2))
