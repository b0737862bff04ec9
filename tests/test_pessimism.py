"""Pessimism: imagined rewards fall where the ensemble disagrees, and nowhere else."""

from dataclasses import replace

import pytest
import torch
from tiny import (
    ACTOR_CRITIC,
    CONTINUOUS,
    DISCRETE,
    ENSEMBLE_ONLY,
    MODEL_LOSS,
    PLAN2EXPLORE,
    WORLD_MODEL,
    H,
    N,
    fit,
    gradients_of,
    make_agent,
    make_batch,
    weights_of,
)
from torch import nn
from torch.testing import assert_close

from dreamer.exploration import EnsembleOnly, Plan2Explore, actors_of

SPACES = pytest.mark.parametrize("space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])


def make_pessimist(pessimism=2.0, config=ENSEMBLE_ONLY, space=CONTINUOUS, **options):
    return make_agent(space, components={"explore": config}, pessimism=pessimism, **options)


def rewards_of(agent, space=CONTINUOUS):
    """What the actor learns from in the first update: trajectory and metrics."""
    seen, compute = [], agent.actor_critic.actor_loss
    agent.actor_critic.actor_loss = lambda trajectory, policy_steps: (
        seen.append(trajectory) or compute(trajectory, policy_steps)
    )
    (metrics,) = fit(agent, [make_batch(space)])
    (trajectory,) = seen
    return trajectory, metrics


@SPACES
def test_uncertain_states_are_worth_less_and_others_the_same(space):
    plain, _ = rewards_of(make_pessimist(0.0, space=space), space)
    planted = (torch.arange(N) % 2).float().expand(H + 1, N)  # every other trajectory
    agent = make_pessimist(2.0, space=space)
    agent.components["explore"].disagreement = lambda trajectory: planted
    lowered, metrics = rewards_of(agent, space)
    assert_close(lowered.features, plain.features, rtol=0, atol=0)
    assert_close(lowered.discount, plain.discount, rtol=0, atol=0)
    assert_close(lowered.reward, plain.reward - 2 * planted)
    assert_close(metrics["imagine/disagreement"], planted.mean())


def test_the_imagined_return_falls_where_states_are_uncertain():
    returns = {}
    for pessimism in (0.0, 2.0):
        agent = make_pessimist(pessimism)
        agent.components["explore"].disagreement = lambda trajectory: torch.ones(H + 1, N)
        _, metrics = rewards_of(agent)
        returns[pessimism] = float(metrics["imagine/return"])
    assert returns[2.0] < returns[0.0] - 2  # the first reward alone


def test_the_penalty_is_the_disagreement_of_the_ensemble():
    agent = make_pessimist(3.0)
    raw = []
    disagreement = agent.components["explore"].disagreement
    agent.components["explore"].disagreement = lambda x: raw.append(x) or disagreement(x)
    trajectory, metrics = rewards_of(agent)
    ensemble = make_pessimist(3.0).components["explore"]  # the same weights, not yet trained
    expected = ensemble.disagreement(raw[0])
    assert expected.min() > 0
    assert_close(trajectory.reward, raw[0].reward - 3 * expected)


def actor_gradients(*, detached: bool):
    """Gradients of the actor in an update in which only the disagreement gives any."""
    config = replace(ACTOR_CRITIC, actor=replace(ACTOR_CRITIC.actor, entropy_scale=0.0))
    heads = {"reward": WORLD_MODEL.heads["reward"]}
    agent = make_pessimist(
        world_model=replace(WORLD_MODEL, heads=heads, reward_transform="identity"),
        actor_critic=config,
    )
    for network in (agent.actor_critic.target_critic, agent.world_model.heads["reward"]):
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
    ensemble = agent.components["explore"]
    disagreement = ensemble.disagreement
    if detached:
        ensemble.disagreement = lambda trajectory: disagreement(trajectory).detach()
    found, step = {}, agent._step

    def spy(name, loss):
        if name == "world_model":  # keeps the reward at zero
            loss = 0 * loss
        before = gradients_of(agent)
        metrics = step(name, loss)
        if name == "actor":
            after = gradients_of(agent)
            found.update({k: g for k, g in after.items() if not g.equal(before.get(k, 0 * g))})
        return metrics

    agent._step = spy
    fit(agent, [make_batch(CONTINUOUS)])
    return {k for k, g in found.items() if g.any()}


def test_gradients_flow_from_the_disagreement_into_the_actor_and_not_into_the_ensemble():
    reached = actor_gradients(detached=False)
    assert reached
    assert all(name.startswith("actor_critic.actor.") for name in reached)
    assert actor_gradients(detached=True) == set()


@SPACES
def test_without_pessimism_an_ensemble_changes_nothing_of_the_agent(space):
    plain, other = make_agent(space), make_pessimist(0.0, space=space)
    batches = [make_batch(space, seed=n) for n in range(2)]
    torch.manual_seed(3)
    expected = fit(plain, batches)
    torch.manual_seed(3)
    metrics = fit(other, batches)
    for a, b in zip(expected, metrics, strict=True):
        assert "imagine/disagreement" not in b
        for key, value in a.items():
            assert_close(b[key], value, rtol=0, atol=0)
    weights = weights_of(other)
    for key, value in weights_of(plain).items():
        assert value.equal(weights[key])


def test_nothing_is_computed_without_pessimism():
    agent = make_pessimist(0.0)
    agent.components["explore"].disagreement = None  # cannot be called
    fit(agent, [make_batch(CONTINUOUS)])


def test_the_ensemble_alone_learns_and_has_no_actor():
    agent = make_pessimist()
    ensemble = agent.components["explore"]
    assert isinstance(ensemble, EnsembleOnly)
    assert actors_of(agent).keys() == {"actor"}
    before = {k: x.clone() for k, x in ensemble.state_dict().items()}
    (metrics,) = fit(agent, [make_batch(CONTINUOUS)])
    assert {"explore_ensemble/loss", "grad_norm/explore_ensemble"} <= metrics.keys()
    assert all(not x.equal(before[k]) for k, x in ensemble.state_dict().items())


def test_an_explorers_ensemble_counts_without_its_logarithm():
    agent = make_pessimist(config=replace(PLAN2EXPLORE, log=True))
    assert isinstance(agent.components["explore"], Plan2Explore)
    _, metrics = rewards_of(agent)
    assert metrics["imagine/disagreement"] > 0  # logarithms would be negative


@pytest.mark.parametrize("components", [{}, {"explore": "model_loss"}], ids=["none", "another"])
def test_pessimism_needs_an_ensemble(components):
    components = {name: MODEL_LOSS for name in components}
    with pytest.raises(ValueError, match=r"`data.pessimism` must be 0 without an ensemble, got 2"):
        make_agent(pessimism=2.0, components=components)


def test_the_ensemble_needs_a_target_after_the_next_action():
    with pytest.raises(ValueError, match="`offset` must be at least 1 with action_input=next"):
        replace(ENSEMBLE_ONLY, offset=0)
