import dataclasses

import pytest
import torch
from tiny import (
    ACTOR_CRITIC,
    CONTINUOUS,
    DISCRETE,
    WORLD_MODEL,
    fit,
    gradients_of,
    make_agent,
    make_batch,
)
from torch.testing import assert_close

from dreamer.models.actor_critic import ActorCritic
from dreamer.models.returns import GAEReturns, LambdaReturns
from dreamer.types import Trajectory

H, N, F, GAMMA = 5, 4, 6, 0.9


def sequences(seed: int = 0):
    torch.manual_seed(seed)
    reward, value = torch.randn(2, H + 1, N)
    ends = torch.rand(H + 1, N)
    ends[2, 1], ends[:, 3] = 1.0, 0.0  # one sure end, one sequence without any
    return reward, value, ends


def explicit_advantage(reward, value, ends, lambda_):
    """Sums of discounted one-step errors, as in the paper on GAE."""
    advantages = torch.zeros(H, N)
    for n in range(N):
        for t in range(H):
            decay = 1.0
            for i in range(t, H):
                goes_on = GAMMA * (1 - ends[i + 1, n])
                error = reward[i + 1, n] + goes_on * value[i + 1, n] - value[i, n]
                advantages[t, n] += decay * error
                decay *= lambda_ * goes_on
    return advantages


@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_gae_advantages_are_discounted_sums_of_one_step_errors(lambda_):
    reward, value, ends = sequences()
    targets = GAEReturns(GAMMA).targets(reward, value, GAMMA * (1 - ends), lambda_)
    expected = explicit_advantage(reward, value, ends, lambda_)
    assert_close(targets.advantage, expected)
    assert_close(targets.target, expected + value[:-1])
    assert_close(targets.baseline, value[:-1])
    assert targets.steps == H


def test_gae_weights_count_the_end_of_their_own_step_and_no_gamma():
    _, _, ends = sequences()
    weight = GAEReturns(GAMMA).weight(GAMMA * (1 - ends))
    expected = torch.ones(H, N)
    for t in range(H):
        for i in range(t + 1):
            expected[t] *= 1 - ends[i]
    assert_close(weight, expected)
    assert_close(weight[:, 3], torch.ones(H))


def test_gae_ignores_the_reward_of_the_start():
    reward, value, ends = sequences()
    other = torch.cat([reward[:1] + 7, reward[1:]])
    returns, discount = GAEReturns(GAMMA), GAMMA * (1 - ends)
    for a, b in zip(
        returns.targets(reward, value, discount, 0.8),
        returns.targets(other, value, discount, 0.8),
        strict=True,
    ):
        assert_close(a, b)
    assert_close(
        returns.metrics(reward, value[:-1])["imagine/reward_after_start"], reward[1:].mean()
    )


def test_a_discount_above_gamma_weighs_as_a_sure_continuation():
    discount = torch.full((H + 1, N), GAMMA * 1.01)  # of a head that predicts gamma itself
    assert_close(GAEReturns(GAMMA).weight(discount), torch.ones(H, N))


def test_lambda_returns_train_the_actor_one_step_later_and_leave_one_out():
    reward, value, ends = sequences()
    targets = LambdaReturns().targets(reward, value, GAMMA * (1 - ends), 0.8)
    assert targets.steps == H - 1
    assert targets.target.shape == (H, N)
    assert_close(targets.action_target, targets.target[1:])
    assert_close(targets.baseline, value[:-2])
    assert_close(targets.weight[0], torch.ones(N))
    assert LambdaReturns().metrics(reward, value) == {}


@pytest.mark.parametrize("space", [DISCRETE, CONTINUOUS])
def test_gae_trains_actor_and_critic_with_all_steps(space):
    config = dataclasses.replace(ACTOR_CRITIC, returns=GAEReturns(GAMMA))
    torch.manual_seed(0)
    actor_critic = ActorCritic(config, F, space)
    reward, _, ends = sequences()
    action = torch.rand(H + 1, N, space.size).requires_grad_()
    features = torch.randn(H + 1, N, F)
    discount = GAMMA * (1 - ends)
    through = reward + action.sum(-1)  # for gradients through the dynamics
    output = actor_critic.actor_loss(Trajectory(features, action, through, discount), 0)
    output.loss.backward()
    assert all(g.isfinite().all() for g in gradients_of(actor_critic.actor).values())
    assert gradients_of(actor_critic.actor)
    if space is CONTINUOUS:  # the last action counts, unlike with lambda-returns
        assert action.grad is not None
        assert action.grad[-1].any()
        assert not action.grad[0].any()
    critic = actor_critic.critic_loss(
        Trajectory(features, action, reward, discount), output.target.detach()
    )
    assert critic.metrics.keys() >= {"critic/start_value", "imagine/reward_after_start_std"}


def test_squared_error_leaves_the_constant_out_of_the_critics_loss():
    torch.manual_seed(0)
    losses, networks = [], []
    for name in ("mse", "squared_error"):
        critic = dataclasses.replace(ACTOR_CRITIC.critic, distribution=name)
        actor_critic = ActorCritic(dataclasses.replace(ACTOR_CRITIC, critic=critic), F, DISCRETE)
        networks.append(actor_critic)
        actor_critic.critic.load_state_dict(networks[0].critic.state_dict())
        trajectory = Trajectory(
            torch.ones(H + 1, N, F),
            torch.zeros(H + 1, N, 2),
            torch.zeros(H + 1, N),
            torch.ones(H + 1, N),
        )
        losses.append(actor_critic.critic_loss(trajectory, torch.ones(H, N)).loss)
    assert_close(losses[0] - losses[1], torch.tensor(0.9189385))


def test_gamma_must_be_positive():
    with pytest.raises(ValueError, match=r"`discount` must be in \(0, 1], got 0"):
        GAEReturns(0.0)


def test_the_agents_two_gammas_must_agree():
    config = dataclasses.replace(ACTOR_CRITIC, returns=GAEReturns(0.8))
    with pytest.raises(ValueError, match=r"that of the world model, 0.9, got 0.8"):
        make_agent(actor_critic=config)


@pytest.mark.parametrize("space", [DISCRETE, CONTINUOUS])
def test_an_agent_learns_with_generalised_advantages(space):
    config = dataclasses.replace(ACTOR_CRITIC, returns=GAEReturns(WORLD_MODEL.discount))
    agent = make_agent(space, actor_critic=config)
    before = {k: x.clone() for k, x in agent.actor_critic.named_parameters()}
    results = fit(agent, [make_batch(space, seed=i) for i in range(2)])
    assert all(x.isfinite() for x in results[-1].values())
    assert results[-1].keys() >= {"critic/start_value", "imagine/reward_after_start"}
    after = dict(agent.actor_critic.named_parameters())
    assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith("actor"))
    assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith("critic"))
