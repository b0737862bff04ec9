"""Exploration: what each explorer learns from, what it seeks, and whom it leaves alone."""

import functools
import math
from dataclasses import replace

import pytest
import torch
from test_agent import make_noise
from tiny import (
    ACTOR_CRITIC,
    CONTINUOUS,
    DISCRETE,
    MODEL_LOSS,
    PLAN2EXPLORE,
    WORLD_MODEL,
    A,
    B,
    D,
    H,
    K,
    N,
    S,
    T,
    fit,
    gradients_of,
    make_agent,
    make_batch,
    make_state,
    weights_of,
)
from torch.testing import assert_close

from dreamer.components import UpdateContext
from dreamer.exploration import actors_of, explorer_of
from dreamer.models.actor_critic import RewardNormConfig
from dreamer.types import Trajectory

M = 11  # of the embedding
EXPLORERS = pytest.mark.parametrize(
    "config", [PLAN2EXPLORE, MODEL_LOSS], ids=["plan2explore", "model_loss"]
)
SPACES = pytest.mark.parametrize("space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])


def make_explorer(config=PLAN2EXPLORE, space=CONTINUOUS, **options):
    """An agent and its explorer."""
    agent = make_agent(space, components={"explore": config}, **options)
    explorer = explorer_of(agent)
    assert explorer is not None
    return agent, explorer


def make_context(agent, is_first=None) -> UpdateContext:
    """What an update might have computed, drawn anew; all tensors differ."""
    batch = make_batch(agent.action_space)
    if is_first is not None:
        batch = batch._replace(is_first=is_first)
    latent = agent.config.world_model.latent
    posterior = make_state(latent, T, B)
    return UpdateContext(
        batch,
        embed=torch.randn(T, B, M),
        posterior=posterior,
        prior_stats=torch.randn_like(posterior.stats),
        kl=torch.rand(T, B),
        obs_log_probs={"angle": torch.randn(T, B), "speed": torch.randn(T, B)},
        trajectory=make_trajectory(),
        policy_steps=0,
        world_model=agent.world_model,
    )


def make_trajectory() -> Trajectory:
    torch.manual_seed(5)
    return Trajectory(
        torch.randn(H + 1, N, D + S * K),
        torch.rand(H + 1, N, A),
        torch.randn(H + 1, N),
        torch.full((H + 1, N), 0.9),
    )


def skip(loss, network=""):
    """A step that does not learn."""


def norm(**changes):
    return RewardNormConfig(**{"momentum": 1.0, "scale": 1.0, "epsilon": 1e-8} | changes)


# ------------------------------------------------------------------------------ who is trained


@EXPLORERS
@SPACES
def test_each_optimizer_trains_its_network_alone(config, space):
    agent, _ = make_explorer(config, space)
    moved, reached = {}, {}
    step = agent._step

    def spy(name, loss):
        weights, gradients = weights_of(agent), gradients_of(agent)
        metrics = step(name, loss)
        moved[name] = {k for k, x in weights_of(agent).items() if not x.equal(weights[k])}
        reached[name] = {
            k
            for k, x in gradients_of(agent).items()
            if k not in gradients or not x.equal(gradients[k])
        }
        return metrics

    agent._step = spy
    (metrics,) = fit(agent, [make_batch(space)])
    prefixes = {
        "explore_ensemble": "components.explore.ensemble.heads.",
        "explore_predictor": "components.explore.predictor.",
        "explore_actor": "components.explore.actor_critic.actor.",
        "explore_critic": "components.explore.actor_critic.critic.",
    }
    trained = [f"explore_{name}" for name in config.optimizer]
    assert list(moved) == ["world_model", "actor", "critic", *trained]
    for name in trained:
        own = {k for k, p in agent.named_parameters() if k.startswith(prefixes[name])}
        assert moved[name] == own
        assert reached[name] <= own
        assert {f"{name}/loss", f"grad_norm/{name}"} <= metrics.keys()
        assert metrics[f"grad_norm/{name}"] > 0


@pytest.mark.slow
@EXPLORERS
@SPACES
def test_an_explorer_changes_nothing_of_the_agent(config, space):
    agents, metrics = [], []
    for components in ({}, {"explore": replace(config, extrinsic_scale=0.5)}):
        agent = make_agent(space, components=components)
        update = functools.partial(agent.update, noise=make_noise(agent))
        batches = [make_batch(space, seed=n) for n in range(4)]
        metrics.append(fit(agent, batches, lambda batch, update=update: update(batch)[1]))
        agents.append(agent)
    plain, extended = map(weights_of, agents)
    assert_close({k: extended[k] for k in plain}, plain, rtol=0, atol=0)
    assert_close({k: metrics[1][-1][k] for k in metrics[0][-1]}, metrics[0][-1], rtol=0, atol=0)


@EXPLORERS
def test_an_explorer_says_what_it_learns(config):
    agent, _ = make_explorer(config)
    (metrics,) = fit(agent, [make_batch(CONTINUOUS)])
    names = {k.partition("/")[2] for k in metrics if k.startswith("explore/")}
    assert names == {
        *("intrinsic_reward", "intrinsic_reward_std", "extrinsic_reward", "reward", "return"),
        *("actor_entropy", "critic_value", "critic_target"),
    }
    assert all(x.isfinite() and not x.requires_grad for x in metrics.values())


def test_both_actors_are_found_by_name():
    agent, explorer = make_explorer()
    assert actors_of(agent) == {"actor": agent.actor_critic, "explore": explorer.actor_critic}
    assert agent.actor_critic is not explorer.actor_critic
    plain = make_agent()
    assert explorer_of(plain) is None
    assert actors_of(plain) == {"actor": plain.actor_critic}


def test_an_update_gives_explorers_what_the_world_model_has_computed():
    agent, explorer = make_explorer()
    contexts = []
    learn = explorer.learn

    def spy(context, step):
        contexts.append(context)
        return learn(context, step)

    explorer.learn = spy
    batch = make_batch(CONTINUOUS)
    with torch.no_grad():
        embed = agent.world_model.encoder(batch.obs)
    (metrics,) = fit(agent, [batch])
    (context,) = contexts
    assert context.kl.shape == (T, B)
    assert_close(context.kl.mean(), metrics["world_model/kl"])
    assert context.obs_log_probs.keys() == {"angle", "speed"}
    for key, log_prob in context.obs_log_probs.items():
        assert log_prob.shape == (T, B)
        assert_close(-log_prob.mean(), metrics[f"observations/{key}_nll"])
    assert context.embed.shape == (T, B, M)
    assert_close(context.embed, embed)
    tensors = [context.kl, context.embed, *context.obs_log_probs.values()]
    assert not any(x.requires_grad for x in tensors)


# -------------------------------------------------------------------------------- the ensemble


@pytest.mark.parametrize("target", ["stoch", "deter", "embedding", "features"])
@pytest.mark.parametrize("offset", [0, 1, 2])
def test_the_ensemble_predicts_its_target_that_many_steps_ahead(target, offset, monkeypatch):
    agent, explorer = make_explorer(replace(PLAN2EXPLORE, target=target, offset=offset))
    context = make_context(agent)
    posterior = context.posterior
    scored, log_prob = [], explorer.ensemble.log_prob

    def spy(x, target):
        scored.append((x, target))
        return log_prob(x, target)

    monkeypatch.setattr(explorer.ensemble, "log_prob", spy)
    assert explorer.ensemble_loss(context).shape == ()
    ((x, actual),) = scored
    assert x.shape == (T - offset, B, D + S * K + A)
    expected = {
        "stoch": posterior.stoch.reshape(T, B, S * K),
        "deter": posterior.deter,
        "embedding": context.embed,
        "features": torch.cat([posterior.stoch.reshape(T, B, S * K), posterior.deter], -1),
    }[target]
    for t in range(T - offset):
        assert_close(actual[t], expected[t + offset])
        assert_close(x[t, :, : D + S * K], posterior.features[t])
        assert_close(x[t, :, D + S * K :], context.batch.prev_action[t])  # it led to step t


@pytest.mark.parametrize(
    ("offset", "crossing"),
    [(0, set()), (1, {(3, 2)}), (2, {(2, 2), (3, 2)})],
)
def test_pairs_of_two_episodes_do_not_count(offset, crossing, monkeypatch):
    agent, explorer = make_explorer(replace(PLAN2EXPLORE, offset=offset))
    context = make_context(agent)  # in sequence 2, an episode begins at step 4
    log_prob = torch.arange((T - offset) * B).reshape(T - offset, B).float() ** 2
    monkeypatch.setattr(explorer.ensemble, "log_prob", lambda x, target: log_prob)
    kept = [
        log_prob[t, b].item() for t in range(T - offset) for b in range(B) if (t, b) not in crossing
    ]
    assert explorer.ensemble_loss(context).item() == pytest.approx(-sum(kept) / len(kept))


def test_a_batch_without_a_pair_trains_nothing_and_is_finite():
    agent, explorer = make_explorer()
    loss = explorer.ensemble_loss(make_context(agent, torch.ones(T, B, dtype=torch.bool)))
    assert loss.item() == 0
    loss.backward()
    assert all((p.grad == 0).all() for p in explorer.ensemble.parameters())


def test_the_reward_is_the_disagreement_or_its_logarithm():
    trajectory = make_trajectory()
    (_, plain), (_, log) = make_explorer(), make_explorer(replace(PLAN2EXPLORE, log=True))
    reward = plain.intrinsic_reward(trajectory)
    assert reward.shape == (H + 1, N)
    assert (reward > 0).all()
    x = torch.cat([trajectory.features, trajectory.prev_action], -1)
    means = torch.stack([member(x).mean for member in plain.ensemble.heads])
    expected = (means - means.mean(0)).square().mean(0).sqrt().mean(-1)
    assert_close(reward, expected)
    assert_close(log.intrinsic_reward(trajectory), expected.log())


@pytest.mark.parametrize("action_input", ["none", "previous", "next"])
def test_the_ensemble_gets_the_action_that_it_is_told(action_input):
    agent, explorer = make_explorer(replace(PLAN2EXPLORE, action_input=action_input))
    size = D + S * K + (0 if action_input == "none" else A)
    assert next(explorer.ensemble.heads[0].parameters()).shape == (10, size)
    trajectory = make_trajectory()
    changed = trajectory.prev_action.clone()
    changed[2] += 1
    before, after = (
        explorer.intrinsic_reward(trajectory._replace(prev_action=action))
        for action in (trajectory.prev_action, changed)
    )
    differs = (before != after).any(-1)
    assert differs.tolist() == [action_input != "none" and t == 2 for t in range(H + 1)]
    assert explorer.ensemble_loss(make_context(agent)).isfinite()


def test_with_the_next_action_a_state_is_rewarded_for_the_disagreement_before_it(monkeypatch):
    agent, explorer = make_explorer(replace(PLAN2EXPLORE, action_input="next", offset=2))
    trajectory = make_trajectory()
    x = torch.cat([trajectory.features[:-1], trajectory.prev_action[1:]], -1)  # z_t and a_{t+1}
    expected = explorer.ensemble.disagreement(x)
    reward = explorer.intrinsic_reward(trajectory)
    assert_close(reward[1:], expected)
    assert_close(reward[0], expected[0])

    context, seen = make_context(agent), []
    log_prob = explorer.ensemble.log_prob
    monkeypatch.setattr(
        explorer.ensemble, "log_prob", lambda *inputs: seen.append(inputs) or log_prob(*inputs)
    )
    explorer.ensemble_loss(context)
    ((x, target),) = seen
    assert_close(x[..., D + S * K :], context.batch.prev_action[1 : T - 1])
    assert_close(x[..., : D + S * K], context.posterior.features[: T - 2])
    assert_close(target, context.posterior.stoch[2:].flatten(-2))


def test_the_next_action_needs_a_target_after_it():
    with pytest.raises(ValueError, match="`offset` must be at least 1 with action_input=next, got"):
        replace(PLAN2EXPLORE, action_input="next", offset=0)


# ---------------------------------------------------------------------------------- model loss


@pytest.mark.parametrize("target", ["kl", "observations"])
def test_the_predictor_learns_the_loss_of_the_world_model(target):
    agent, explorer = make_explorer(replace(MODEL_LOSS, target=target))
    context = make_context(agent)
    expected = {
        "kl": context.kl,
        "observations": -context.obs_log_probs["angle"] - context.obs_log_probs["speed"],
    }[target]
    error = explorer.predictor(context.posterior.features).mean - expected
    loss = (error**2 / 2 + math.log(2 * math.pi) / 2).mean()
    assert_close(explorer.predictor_loss(context), loss)
    steps = []
    explorer.learn_predictions(context, lambda loss, network="": steps.append((network, loss)))
    assert [name for name, _ in steps] == ["predictor"]
    assert_close(steps[0][1], loss)


def test_the_reward_of_model_loss_is_the_loss_that_is_predicted():
    _, explorer = make_explorer(MODEL_LOSS)
    trajectory = make_trajectory()
    reward = explorer.intrinsic_reward(trajectory)
    assert reward.shape == (H + 1, N)
    assert_close(reward, explorer.predictor(trajectory.features).mean)


# ------------------------------------------------------------------------------------- rewards


def test_both_rewards_are_normed_apart_and_weighted():
    _, explorer = make_explorer(
        replace(
            PLAN2EXPLORE,
            intrinsic_scale=2.0,
            extrinsic_scale=3.0,
            intrinsic_norm=norm(momentum=0.9, scale=5.0, epsilon=0.1),
            extrinsic_norm=norm(momentum=0.6, scale=7.0, epsilon=0.2),
        )
    )
    intrinsic, extrinsic = torch.randn(2, H + 1, N)
    reward = explorer.reward(intrinsic, extrinsic)
    of_intrinsic = 0.9 + 0.1 * intrinsic.abs().mean()
    of_extrinsic = 0.6 + 0.4 * extrinsic.abs().mean()
    expected = 2 * 5 * intrinsic / (of_intrinsic + 0.1)
    expected += 3 * 7 * extrinsic / (of_extrinsic + 0.2)
    assert_close(reward, expected)
    assert_close(explorer.intrinsic_norm.magnitude, of_intrinsic)
    assert_close(explorer.extrinsic_norm.magnitude, of_extrinsic)


def test_the_task_counts_nothing_by_default():
    _, explorer = make_explorer()
    intrinsic, extrinsic = torch.randn(2, H + 1, N)
    assert_close(explorer.reward(intrinsic, extrinsic), intrinsic)


def test_magnitudes_move_once_in_every_update_and_are_saved():
    moving = {"intrinsic_norm": norm(momentum=0.9), "extrinsic_norm": norm(momentum=0.7)}
    agent, explorer = make_explorer(replace(PLAN2EXPLORE, extrinsic_scale=1.0, **moving))
    seen = {"intrinsic_norm": [], "extrinsic_norm": []}
    for name, values in seen.items():
        getattr(explorer, name).register_forward_hook(
            lambda module, inputs, output, values=values: values.append(inputs[0].detach().clone())
        )
    fit(agent, [make_batch(CONTINUOUS, seed=n) for n in range(3)])
    for name, momentum in (("intrinsic_norm", 0.9), ("extrinsic_norm", 0.7)):
        magnitude = 1.0
        assert [x.shape for x in seen[name]] == [(H + 1, N)] * 3
        for x in seen[name]:
            magnitude = momentum * magnitude + (1 - momentum) * x.abs().mean().item()
        saved = agent.state_dict()[f"components.explore.{name}.magnitude"]
        assert saved.item() == pytest.approx(magnitude, rel=1e-5)
    assert agent.actor_critic.reward_norm.magnitude == 1  # the agent's own


@pytest.mark.parametrize("scales", [(2.0, 0.0), (2.0, 3.0)])
def test_the_actor_learns_from_the_intrinsic_reward_in_dreams_of_its_own(scales, monkeypatch):
    intrinsic_scale, extrinsic_scale = scales
    config = replace(PLAN2EXPLORE, intrinsic_scale=intrinsic_scale, extrinsic_scale=extrinsic_scale)
    agent, explorer = make_explorer(config)
    context, dreams, losses = make_context(agent), [], {}
    heads, imagine = explorer.actor_critic, agent.world_model.imagine
    chosen = torch.linspace(-0.9, 0.9, N * A).reshape(N, A)

    def spy_imagine(starts, is_terminal, act, horizon, **noise):
        assert horizon == H
        assert_close(starts.deter, context.posterior.deter.reshape(N, D))
        assert is_terminal.equal(context.batch.is_terminal.reshape(N))
        dreams.append(imagine(starts, is_terminal, act, horizon, **noise))
        return dreams[0]

    def keep(name):
        compute = getattr(heads, name)

        def spy(trajectory, other):
            losses[name] = (trajectory, other)
            return compute(trajectory, other)

        monkeypatch.setattr(heads, name, spy)

    monkeypatch.setattr(agent.world_model, "imagine", spy_imagine)
    monkeypatch.setattr(heads, "act", lambda features, noise=None: chosen)
    monkeypatch.setattr(
        explorer, "intrinsic_reward", lambda trajectory: trajectory.features.sum(-1)
    )
    keep("actor_loss")
    keep("critic_loss")
    names = []
    explorer.learn(context, lambda loss, network="": names.append(network))
    assert names == ["ensemble", "actor", "critic"]
    (dream,) = dreams
    assert_close(dream.prev_action[1:], chosen.expand(H, N, A))  # the explorer's own actor chose
    expected = intrinsic_scale * dream.features.sum(-1) + extrinsic_scale * dream.reward
    learned, policy_steps = losses["actor_loss"]
    assert_close(learned.reward, expected)
    assert policy_steps == context.policy_steps
    for name in ("features", "prev_action", "discount"):
        assert getattr(learned, name) is getattr(dream, name)
    learned, target = losses["critic_loss"]
    assert_close(learned.reward, expected)
    assert not target.requires_grad


def dynamics_gradients(*, detached: bool) -> dict[str, torch.Tensor]:
    """Gradients of the explorer's actor; apart from the intrinsic reward nothing gives any."""
    actor_critic = replace(ACTOR_CRITIC, actor=replace(ACTOR_CRITIC.actor, entropy_scale=0.0))
    agent, explorer = make_explorer(
        replace(PLAN2EXPLORE, actor_critic=actor_critic),
        world_model=replace(WORLD_MODEL, heads={"reward": WORLD_MODEL.heads["reward"]}),
    )
    heads, reward = explorer.actor_critic, explorer.intrinsic_reward
    for parameter in heads.target_critic.parameters():
        torch.nn.init.zeros_(parameter)
    if detached:
        explorer.intrinsic_reward = lambda trajectory: reward(trajectory).detach()
    gradients = {}

    def step(loss, network=""):
        if network == "actor":
            parameters = dict(heads.actor.named_parameters())
            found = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
            gradients.update({k: g for k, g in zip(parameters, found, strict=True)})

    explorer.learn(make_context(agent), step)
    return {k: g for k, g in gradients.items() if g is not None and g.any()}


def test_dynamics_gradients_flow_from_the_intrinsic_reward_into_the_explorers_actor():
    agent, explorer = make_explorer()
    assert dynamics_gradients(detached=False).keys() == {
        k for k, _ in explorer.actor_critic.actor.named_parameters()
    }
    assert dynamics_gradients(detached=True) == {}
    assert explorer.actor_critic.through_dynamics


def test_reinforce_learns_without_a_graph_of_the_dream():
    agent, explorer = make_explorer(space=DISCRETE)
    explorer.actor_critic.actor_loss = functools.partial(
        check_no_graph, explorer.actor_critic.actor_loss
    )
    explorer.learn(make_context(agent), skip)


def check_no_graph(compute, trajectory, policy_steps):
    assert not any(x.requires_grad for x in trajectory)
    return compute(trajectory, policy_steps)


def test_the_slow_critic_of_the_explorer_moves_when_it_is_due():
    slow = replace(ACTOR_CRITIC, slow_critic_updates=2, slow_critic_fraction=0.25)
    agent, explorer = make_explorer(replace(PLAN2EXPLORE, actor_critic=slow))
    heads = explorer.actor_critic
    history = []

    def step(batch):
        before = weights_of(heads.target_critic)
        metrics = type(agent).training_step(agent, batch, 0)
        history.append((before, weights_of(heads.target_critic), weights_of(heads.critic)))
        return metrics

    fit(agent, [make_batch(CONTINUOUS, seed=n) for n in range(3)], step)
    (first, copied, online), (before, same, _), (old, moved, newest) = history
    assert not any(first[k].equal(copied[k]) for k in first if "weight" in k)
    assert_close(copied, online, rtol=0, atol=0)  # update 0 copies
    assert_close(same, before, rtol=0, atol=0)
    assert_close(moved, {k: 0.75 * old[k] + 0.25 * newest[k] for k in old})


# -------------------------------------------------------------------------------------- errors


def test_an_explorer_that_seeks_nothing_is_refused():
    message = "`intrinsic_scale` or `extrinsic_scale` must be positive, got 0 for both"
    with pytest.raises(ValueError, match=message):
        replace(PLAN2EXPLORE, intrinsic_scale=0.0)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (PLAN2EXPLORE, {"target": "image"}, "`target` must be stoch, deter, embedding or features"),
        (PLAN2EXPLORE, {"offset": -1}, "`offset` must be at least 0, got -1"),
        (PLAN2EXPLORE, {"intrinsic_scale": -1.0}, "`intrinsic_scale` must be .*, got -1"),
        (PLAN2EXPLORE, {"until_frames": -1}, "`until_frames` must be a whole number of .*, got -1"),
        (MODEL_LOSS, {"target": "reward"}, "`target` must be kl or observations, got `reward`"),
    ],
)
def test_values_that_are_not_allowed_are_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)


def test_an_optimizer_must_train_every_network():
    optimizers = {k: x for k, x in PLAN2EXPLORE.optimizer.items() if k != "ensemble"}
    with pytest.raises(ValueError, match="`components.explore.optimizer` must cover all trainable"):
        make_explorer(replace(PLAN2EXPLORE, optimizer=optimizers))


# ------------------------------------------------------------------------------ the task alone


def test_an_explorer_may_seek_the_task_alone():
    agent, _ = make_explorer(replace(MODEL_LOSS, intrinsic_scale=0.0, extrinsic_scale=1.0))
    (metrics,) = fit(agent, [make_batch(CONTINUOUS)])
    assert_close(metrics["explore/reward"], metrics["explore/extrinsic_reward"])
