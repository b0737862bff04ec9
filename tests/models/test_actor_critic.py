"""Both losses against a slow form, whom they train, and how the slow critic follows."""

import dataclasses

import pytest
import torch
import torch.distributions as td
from tiny import (
    ACTOR,
    ACTOR_CRITIC,
    CONTINUOUS,
    DISCRETE,
    A,
    B,
    D,
    H,
    gradients_of,
    weights_of,
)
from torch import nn
from torch.testing import assert_close

from dreamer.losses import lambda_return
from dreamer.models.actor_critic import ActorCritic, RewardNormConfig, StreamNorm
from dreamer.types import Trajectory

GAMMA, LAMBDA = 0.9, 0.95


def make_actor_critic(action_space=DISCRETE, actor=(), **change) -> ActorCritic:
    torch.manual_seed(0)
    config = dataclasses.replace(
        ACTOR_CRITIC, actor=dataclasses.replace(ACTOR, **dict(actor)), **change
    )
    return ActorCritic(config, D, action_space)


def make_trajectory(action_space=DISCRETE) -> Trajectory:
    """N = B dreams; all of it carries gradients."""
    torch.manual_seed(1)
    action = torch.rand(H + 1, B, A) * 1.8 - 0.9
    if action_space.discrete:
        action = nn.functional.one_hot(torch.randint(A, (H + 1, B)), A).float()
    parts = torch.randn(H + 1, B, D), action, torch.randn(H + 1, B), torch.rand(H + 1, B)
    return Trajectory(*(x.requires_grad_() for x in parts))


@pytest.mark.parametrize(
    ("action_space", "gradient", "resolved"),
    [
        (DISCRETE, "auto", "reinforce"),
        (CONTINUOUS, "auto", "dynamics"),
        (DISCRETE, "dynamics", "dynamics"),
        (CONTINUOUS, "reinforce", "reinforce"),
        (CONTINUOUS, "both", "both"),
    ],
)
def test_auto_takes_reinforce_for_choices_and_dynamics_for_numbers(
    action_space, gradient, resolved
):
    model = make_actor_critic(action_space, {"gradient": gradient})
    assert model.gradient == resolved
    assert model.through_dynamics == (resolved != "reinforce")


def test_reinforce_loss_equals_its_slow_form():
    model, trajectory = make_actor_critic(), make_trajectory()
    output = model.actor_loss(trajectory, 0)

    logits = model.actor.out.out(model.actor.trunk(trajectory.features))
    value = model.target_critic(trajectory.features).mean
    reward, discount = trajectory.reward, trajectory.discount
    target = lambda_return(reward[:-1], value[:-1], discount[:-1], value[-1], LAMBDA)
    total = 0.0
    for n in range(B):
        weight = 1.0
        for t in range(H - 1):
            policy = td.OneHotCategorical(logits=logits[t, n])
            advantage = (target[t + 1, n] - value[t, n]).item()
            score = policy.log_prob(trajectory.prev_action[t + 1, n]) * advantage
            total -= weight * (score + 1e-2 * policy.entropy()) / (H - 1) / B
            weight *= discount[t, n].item()
    assert_close(output.loss, total)
    assert_close(output.target, target)


def gradients_after_actor_loss(action_space, **actor) -> tuple[ActorCritic, Trajectory]:
    model, trajectory = make_actor_critic(action_space, actor), make_trajectory(action_space)
    model.actor_loss(trajectory, 0).loss.backward()
    return model, trajectory


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_reinforce_trains_the_actor_and_sends_nothing_into_the_dream(action_space):
    model, trajectory = gradients_after_actor_loss(action_space, gradient="reinforce")
    assert all(x.grad is None for x in trajectory)
    assert set(gradients_of(model)) == {f"actor.{k}" for k, _ in model.actor.named_parameters()}


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_dynamics_send_gradients_into_the_dream_but_not_through_the_policys_input(action_space):
    model, trajectory = gradients_after_actor_loss(
        action_space, gradient="dynamics", entropy_scale=0.0
    )
    assert trajectory.reward.grad[1:-1].any()
    assert not trajectory.reward.grad[0].any()  # it came before the first action
    assert trajectory.discount.grad[1:-1].any()
    assert trajectory.features.grad[2:].any()
    assert not trajectory.features.grad[:2].any()  # only the target's values, none the policy's
    assert trajectory.prev_action.grad is None
    assert not gradients_of(model.target_critic)


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_schedule_leads_from_reinforce_to_dynamics(action_space):
    trajectory = make_trajectory(action_space).detach()

    def loss(gradient: str, policy_steps: int) -> torch.Tensor:
        model = make_actor_critic(
            action_space, {"gradient": gradient, "gradient_mix": "linear(0,1,100)"}
        )
        return model.actor_loss(trajectory, policy_steps).loss

    reinforce, dynamics = loss("reinforce", 0), loss("dynamics", 0)
    assert_close(loss("both", 0), reinforce)
    assert_close(loss("both", 25), 0.75 * reinforce + 0.25 * dynamics)
    assert_close(loss("both", 100), dynamics)


def test_entropy_scale_follows_its_schedule():
    model = make_actor_critic(actor={"entropy_scale": "linear(1,0,100)"})
    trajectory = make_trajectory()
    metrics = [model.actor_loss(trajectory, t).metrics for t in (0, 75, 200)]
    assert_close([m["actor/entropy_scale"].item() for m in metrics], [1.0, 0.25, 0.0])
    assert metrics[0]["actor/loss"] < metrics[1]["actor/loss"] < metrics[2]["actor/loss"]


def test_long_term_entropy_adds_the_bonus_of_every_state_to_its_reward():
    trajectory = make_trajectory()
    outputs = []
    for entropy_in_target in (False, True):
        model = make_actor_critic(actor={"entropy_scale": 0.3}, entropy_in_target=entropy_in_target)
        outputs.append(model.actor_loss(trajectory, 0))
    plain, soft = outputs
    bonus = 0.3 * model.policy(trajectory.features[:-1]).entropy  # (H, B)
    zeros = torch.zeros(H, B)
    added = lambda_return(bonus, zeros, trajectory.discount[:-1], zeros[0], LAMBDA)
    assert_close(soft.target, plain.target + added)
    assert soft.loss != plain.loss
    assert_close(soft.metrics["imagine/reward"], plain.metrics["imagine/reward"])


def test_long_term_entropy_is_sought_through_the_dynamics_and_by_advantage_with_reinforce():
    for gradient in ("dynamics", "reinforce"):
        trajectory = make_trajectory(CONTINUOUS)
        model = make_actor_critic(CONTINUOUS, {"gradient": gradient}, entropy_in_target=True)
        output = model.actor_loss(trajectory, 0)
        (reached,) = (
            torch.autograd.grad(
                output.target[-1].sum(), trajectory.features, allow_unused=True, retain_graph=True
            )
            if output.target.requires_grad
            else (None,)
        )
        assert (reached is not None) == (gradient == "dynamics")
        if reached is not None:
            assert reached[H - 1].any()  # the entropy there; the target has no other path to it
        output.loss.backward()
        assert all(p.grad is not None for p in model.actor.parameters())


def test_critic_loss_equals_its_slow_form():
    model, trajectory, target = make_actor_critic(), make_trajectory(), torch.randn(H, B)
    value = model.critic(trajectory.features).mean
    total = 0.0
    for n in range(B):
        weight = 1.0
        for t in range(H):
            total -= weight * td.Normal(value[t, n], 1.0).log_prob(target[t, n]) / H / B
            weight *= trajectory.discount[t, n].item()
    assert_close(model.critic_loss(trajectory, target).loss, total)


def test_critic_loss_trains_the_critic_only():
    model, trajectory = make_actor_critic(), make_trajectory()
    model.critic_loss(trajectory, torch.randn(H, B)).loss.backward()
    assert all(x.grad is None for x in trajectory)
    assert set(gradients_of(model)) == {f"critic.{k}" for k, _ in model.critic.named_parameters()}


def test_slow_critic_copies_after_the_first_update_and_then_when_it_is_due():
    model = make_actor_critic(slow_critic_updates=3)
    assert not any(p.requires_grad for p in model.target_critic.parameters())
    copied = []
    for update in range(7):
        for parameter in model.critic.parameters():
            nn.init.uniform_(parameter)
        model.update_target_critic(update)
        slow, online = weights_of(model.target_critic), weights_of(model.critic)
        copied.append(all(torch.equal(slow[k], online[k]) for k in online))
    assert copied == [True, False, False, True, False, False, True]


def test_slow_critic_moves_by_its_fraction_after_a_whole_first_copy():
    model = make_actor_critic(slow_critic_updates=1, slow_critic_fraction=0.25)
    model.update_target_critic(0)
    before = weights_of(model.critic)
    for parameter in model.critic.parameters():
        nn.init.uniform_(parameter)
    model.update_target_critic(1)
    online = weights_of(model.critic)
    expected = {k: 0.75 * x + 0.25 * online[k] for k, x in before.items()}
    assert_close(weights_of(model.target_critic), expected)


def test_slow_critic_begins_with_weights_of_its_own():
    model = make_actor_critic()
    slow, online = weights_of(model.target_critic), weights_of(model.critic)
    assert not torch.equal(slow["out.out.weight"], online["out.out.weight"])


def test_without_a_slow_critic_the_critic_itself_gives_the_targets():
    model = make_actor_critic(slow_critic=False)
    assert model.target_critic is model.critic
    before = weights_of(model.critic)
    model.update_target_critic(0)
    assert_close(weights_of(model.critic), before)


@pytest.mark.parametrize(
    ("action_space", "distribution"),
    [
        (DISCRETE, "onehot"),
        (CONTINUOUS, "trunc_normal"),
        (CONTINUOUS, "tanh_normal"),
        (CONTINUOUS, "normal"),
    ],
)
def test_drawn_noise_decides_the_action(action_space, distribution):
    model = make_actor_critic(action_space, {"distribution": distribution})
    features = torch.randn(B, D)
    noise = model.draw_noise((H, B), features.device)
    assert noise.shape == (H, B, A)
    actions = torch.stack([model.act(features, x) for x in noise])
    assert_close(actions[2], model.act(features, noise[2]))
    assert len(actions.unique(dim=0)) > 1
    if distribution in ("trunc_normal", "tanh_normal"):
        assert actions.abs().max() < 1


def test_choices_are_sampled_as_often_as_their_probability():
    model = make_actor_critic()
    features = torch.randn(1, D).expand(5000, D)
    actions = model.act(features, model.draw_noise((5000,), features.device))
    assert_close(actions.mean(0), model.policy(features[0]).mean, atol=0.03, rtol=0)


# Normalised rewards


def test_stream_norm_divides_by_the_running_magnitude_updated_before_use():
    norm = StreamNorm(RewardNormConfig(momentum=0.75, scale=2.0, epsilon=0.0))
    x = torch.tensor([[3.0, -9.0]])  # mean magnitude 6: 0.75 * 1 + 0.25 * 6 = 2.25
    assert_close(norm(x), 2 * x / 2.25)
    assert_close(norm(x / 6), 2 * x / 6 / (0.75 * 2.25 + 0.25))


def test_stream_norm_of_momentum_1_only_scales():
    norm = StreamNorm(RewardNormConfig(momentum=1.0, scale=3.0, epsilon=0.5))
    x = torch.randn(H, B)
    assert_close(norm(x), x * 2)
    assert_close(norm(x), x * 2)


def test_stream_norm_treats_its_magnitude_as_a_constant_that_is_saved():
    norm = StreamNorm(RewardNormConfig(momentum=0.5, scale=1.0, epsilon=0.0))
    x = torch.full((B,), 3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(norm(x).sum(), x)
    assert_close(gradient, torch.full((B,), 0.5))
    assert_close(norm.state_dict()["magnitude"], torch.tensor(2.0))


def test_targets_count_normalised_rewards():
    trajectory = make_trajectory().detach()
    norm = RewardNormConfig(momentum=1.0, scale=10.0, epsilon=0.0)
    scaled = make_actor_critic(reward_norm=norm).actor_loss(trajectory, 0)
    loud = trajectory._replace(reward=10 * trajectory.reward)
    assert_close(scaled.target, make_actor_critic().actor_loss(loud, 0).target)
    assert_close(scaled.metrics["imagine/reward"], trajectory.reward.mean())
    assert_close(scaled.metrics["imagine/normed_reward"], 10 * trajectory.reward.mean())
    assert_close(scaled.metrics["imagine/return"], scaled.target[0].mean())


# Refusals


@pytest.mark.parametrize(
    ("action_space", "actor", "message"),
    [
        (CONTINUOUS, {"distribution": "onehot"}, "for continuous actions, got onehot"),
        (DISCRETE, {"distribution": "normal"}, "for discrete actions, got normal"),
        (CONTINUOUS, {"distribution": "beta"}, "`distribution` must be auto, .*, got `beta`"),
        (DISCRETE, {"gradient": "dynamic"}, "`gradient` must be auto, .*, got `dynamic`"),
        (
            DISCRETE,
            {"gradient_mix": "line(1)"},
            r"`gradient_mix` must be a number.*`line\(1\)`",
        ),
        (
            CONTINUOUS,
            {"sample_gradient": "true"},
            "`sample_gradient` must be exact .*`true`",
        ),
    ],
)
def test_impossible_actors_are_refused(action_space, actor, message):
    with pytest.raises(ValueError, match=message):
        make_actor_critic(action_space, actor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda_": 1.1}, r"`lambda_` must be in \[0, 1], got 1.1"),
        ({"slow_critic_updates": 0}, "`slow_critic_updates` must be at least 1, got 0"),
        (
            {"critic": dataclasses.replace(ACTOR_CRITIC.critic, distribution="binary")},
            "critic's `distribution` must be mse or squared_error, got binary",
        ),
    ],
)
def test_impossible_critics_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_actor_critic(**change)
