"""Losses on the features that train the world model as well."""

import dataclasses

import pytest
import torch
from tiny import (
    DISCRETE,
    VECTORS,
    WORLD_MODEL,
    A,
    B,
    T,
    fit,
    gradients_of,
    head,
    make_agent,
    make_batch,
    weights_of,
)
from torch.testing import assert_close

from dreamer.models.auxiliary_critic import AuxiliaryCritic, AuxiliaryCriticConfig
from dreamer.policy import SnapshotPolicy

GAMMA = 0.8


def critic_config(**options) -> AuxiliaryCriticConfig:
    options = {"weight": 0.5, "discount": GAMMA, "lambda_": 0.7, "slow_critic_updates": 3} | options
    return AuxiliaryCriticConfig(**options, critic=head("squared_error"))


def with_critic(**options):
    return dataclasses.replace(WORLD_MODEL, auxiliary={"aux_critic": critic_config(**options)})


def make_model(**options):
    torch.manual_seed(0)
    return with_critic(**options).build(VECTORS, A)


def explicit_target(reward, value, terminal):
    """Backwards over the sequence, as for lambda-returns."""
    targets, following = [], value[-1]
    for t in reversed(range(T - 1)):
        goes_on = GAMMA * (1 - terminal[t + 1])
        following = reward[t + 1] + goes_on * (0.3 * value[t + 1] + 0.7 * following)
        targets.append(following)
    return torch.stack(targets[::-1])


def test_the_loss_is_the_squared_error_of_values_of_the_replayed_sequence():
    model, batch = make_model(), make_batch()
    output = model.loss(batch)
    critic = model.auxiliary["aux_critic"]
    assert isinstance(critic, AuxiliaryCritic)
    features, terminal = output.posterior.features, batch.is_terminal.float()
    value, slow = critic.critic(features).mean, critic.target_critic(features).mean.detach()
    target = explicit_target(batch.reward.tanh(), slow, terminal)
    weight = (1 - terminal).cumprod(0)[:-1]
    expected = (weight * 0.5 * (target - value[:-1]).square()).mean()
    assert_close(output.metrics["world_model/aux_critic_loss"], expected.detach())
    assert_close(output.metrics["world_model/aux_critic_value"], value[:-1].mean().detach())
    others = sum((output.losses | output.obs_losses).values())
    assert_close(output.loss, others + 0.5 * expected)
    assert_close(output.metrics["world_model/loss"], output.loss.detach())


def test_its_gradient_reaches_the_latent_state_and_not_the_slow_critic():
    model, batch = make_model(), make_batch()
    features = model.loss(batch).posterior.features
    loss, _ = model.auxiliary_loss(features, batch)
    loss.backward()
    assert gradients_of(model.encoder)
    assert any(g.any() for g in gradients_of(model.rssm).values())
    assert any(g.any() for g in gradients_of(model.auxiliary["aux_critic"].critic).values())
    assert not gradients_of(model.auxiliary["aux_critic"].target_critic)


def test_the_slow_critic_is_copied_before_updates_0_3_and_6():
    agent = make_agent(DISCRETE, world_model=with_critic())
    critic = agent.world_model.auxiliary["aux_critic"]
    copied = []

    def step(batch):
        before = weights_of(critic.critic)
        agent._begin_update()
        slow = weights_of(critic.target_critic)
        copied.append(all(torch.equal(before[k], slow[k]) for k in before))
        metrics = agent.learn(batch)
        agent._end_update()
        return metrics

    fit(agent, [make_batch(seed=i) for i in range(7)], step)
    assert copied == [True, False, False, True, False, False, True]


def test_an_update_trains_it_with_the_world_models_optimiser():
    agent = make_agent(DISCRETE, world_model=with_critic())
    before = weights_of(agent.world_model.auxiliary)
    (metrics,) = fit(agent, [make_batch()])
    after = weights_of(agent.world_model.auxiliary)
    assert any(not torch.equal(before[k], after[k]) for k in before if ".critic." in k)
    assert metrics.keys() >= {f"world_model/aux_critic_{k}" for k in ("loss", "value", "target")}
    assert [x.name for x in agent.trainables] == ["world_model", "actor", "critic"]
    parameters = agent.trainables[0].parameters
    assert {id(p) for p in agent.world_model.auxiliary["aux_critic"].critic.parameters()} <= {
        id(p) for p in parameters
    }


def test_of_several_samples_the_first_counts():
    config = dataclasses.replace(with_critic(), iwae_samples=3)
    torch.manual_seed(0)
    model, batch = config.build(VECTORS, A), make_batch()
    output = model.loss(batch)
    assert output.posterior.features.shape[:2] == (T, 3 * B)
    expected, _ = make_model().auxiliary_loss(output.posterior.features[:, ::3], batch)
    torch.manual_seed(0)
    loss, _ = model.auxiliary_loss(output.posterior.features, batch)
    for ours, theirs in zip(
        model.auxiliary.parameters(), make_model().auxiliary.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert_close(loss, expected)


def test_the_policy_of_another_thread_shares_what_it_does_not_use():
    agent = make_agent(DISCRETE, world_model=with_critic())
    policy = SnapshotPolicy(agent.world_model, agent.actor_critic, exploration_noise=0.0, seed=0)
    assert policy.world_model.auxiliary is agent.world_model.auxiliary
    assert policy.world_model.encoder is not agent.world_model.encoder


def test_without_any_the_model_has_neither_weights_nor_metrics_for_them():
    model = WORLD_MODEL.build(VECTORS, A)
    assert not list(model.auxiliary.parameters())
    assert not [key for key in model.loss(make_batch()).metrics if "aux" in key]


def test_other_distributions_are_refused():
    with pytest.raises(ValueError, match="`distribution` must be squared_error, got mse"):
        AuxiliaryCriticConfig(0.5, GAMMA, 0.7, 3, head("mse"))


@pytest.mark.parametrize("name", ["keys", "my critic"])
def test_names_that_torch_cannot_keep_are_refused(name):
    with pytest.raises(ValueError, match=f"name of an auxiliary loss must .* got {name}"):
        dataclasses.replace(WORLD_MODEL, auxiliary={name: critic_config()})
