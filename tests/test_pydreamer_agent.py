"""PyDreamer's agent: the order of an update, what a failure leaves alone, saving and acting."""

import copy
import dataclasses

import pytest
import torch
from tiny import (
    ACTOR_CRITIC,
    AGENT,
    DISCRETE,
    MODEL_LOSS,
    PLAN2EXPLORE,
    RSSM_CONFIG,
    VECTORS,
    WORLD_MODEL,
    B,
    fit,
    make_batch,
    make_obs,
    model_head,
    weights_of,
)
from torch.testing import assert_close

from dreamer.agent import NonFiniteError
from dreamer.models.pydreamer import (
    PlainGRUConfig,
    PyDreamerRSSMConfig,
    PyDreamerWorldModelConfig,
)
from dreamer.models.returns import GAEReturns
from dreamer.optim import AdamWConfig
from dreamer.policy import DreamerPolicy
from dreamer.pydreamer import PyDreamerAgent, PyDreamerAgentConfig

ADAMW = AdamWConfig(learning_rate=1e-3, epsilon=1e-5, clip=200.0, weight_decay=0.01)
RSSM = PyDreamerRSSMConfig(**{**vars(RSSM_CONFIG), "cell": PlainGRUConfig(1)})
MODEL = PyDreamerWorldModelConfig(
    **{
        **vars(WORLD_MODEL),
        "rssm": RSSM,
        "heads": {"reward": model_head(), "terminal": model_head("binary")},
    }
)
CRITIC = dataclasses.replace(ACTOR_CRITIC.critic, distribution="squared_error")
CONFIG = PyDreamerAgentConfig(
    **{
        **vars(AGENT),
        "world_model": MODEL,
        "actor_critic": dataclasses.replace(
            ACTOR_CRITIC, critic=CRITIC, returns=GAEReturns(MODEL.discount)
        ),
        **dict.fromkeys(("world_model_optimizer", "actor_optimizer", "critic_optimizer"), ADAMW),
    }
)


def make_agent(**change) -> PyDreamerAgent:
    torch.manual_seed(0)
    return dataclasses.replace(CONFIG, **change).build(VECTORS, DISCRETE)


def changed(agent: PyDreamerAgent, before: dict[str, torch.Tensor]) -> set[str]:
    return {key for key, x in weights_of(agent).items() if not torch.equal(x, before[key])}


def test_no_weight_changes_before_all_losses_are_there(monkeypatch):
    agent = make_agent(components={"explore": PLAN2EXPLORE})
    seen = []

    def record(owner, name):
        function = getattr(owner, name)

        def recorded(*args, **options):
            seen.append((name, weights_of(agent)))
            return function(*args, **options)

        monkeypatch.setattr(owner, name, recorded)

    record(agent.world_model, "imagine")
    record(agent.actor_critic, "actor_loss")
    record(agent.actor_critic, "critic_loss")
    record(agent.components["explore"].actor_critic, "critic_loss")
    record(agent, "_make_steps")
    fit(agent, [make_batch()])
    names = ["imagine", "actor_loss", "critic_loss", "imagine", "critic_loss", "_make_steps"]
    assert [name for name, _ in seen] == names
    trained = {name for name, p in agent.named_parameters() if p.requires_grad}
    for _, weights in seen:
        assert {k for k in trained if not torch.equal(weights[k], seen[0][1][k])} == set()
    assert trained <= changed(agent, seen[0][1])


@pytest.mark.parametrize("explorer", [PLAN2EXPLORE, MODEL_LOSS], ids=["plan2explore", "loss"])
def test_metrics_have_the_norms_of_all_networks(explorer):
    agent = make_agent(components={"explore": explorer})
    (metrics,) = fit(agent, [make_batch()])
    names = {x.name for x in agent.trainables}
    assert {k.removeprefix("grad_norm/") for k in metrics if k.startswith("grad_norm/")} == names
    assert all(x.isfinite() and not x.requires_grad for x in metrics.values())


def test_slow_critic_is_copied_before_it_is_used(monkeypatch):
    agent = make_agent(actor_critic=dataclasses.replace(CONFIG.actor_critic, slow_critic_updates=2))
    heads, same = agent.actor_critic, []
    actor_loss = heads.actor_loss

    def recorded(*args):
        pairs = zip(heads.critic.parameters(), heads.target_critic.parameters(), strict=True)
        same.append(all(torch.equal(a, b) for a, b in pairs))
        return actor_loss(*args)

    monkeypatch.setattr(heads, "actor_loss", recorded)
    fit(agent, [make_batch(seed=i) for i in range(4)])
    assert same == [True, False, True, False]


@pytest.mark.parametrize("name", ["world_model", "actor", "critic"])
def test_a_loss_that_is_not_finite_leaves_all_weights_alone(name, monkeypatch):
    agent = make_agent()
    before = weights_of(agent)
    backward = agent._backward
    monkeypatch.setattr(
        agent,
        "_backward",
        lambda which, x: backward(which, x * (torch.nan if which == name else 1)),
    )
    with pytest.raises(NonFiniteError, match=f"The {name} loss or its gradient is not finite"):
        fit(agent, [make_batch()])
    assert {k for k in changed(agent, before) if "target_critic" not in k} == set()


def test_an_agent_goes_on_from_a_saved_state_as_if_it_had_not_stopped():
    batches = [make_batch(seed=i) for i in range(3)]
    whole, first = make_agent(), make_agent()
    saved = {}

    def keep(agent, upto):
        def step(batch):
            torch.manual_seed(agent.updates)
            metrics = agent.update(batch)[1]
            if agent.updates == upto:
                states = [x.optimizer.state_dict() for x in agent.optimizers()]
                saved["state"] = copy.deepcopy((agent.state_dict(), states, agent.updates))
            return metrics

        return step

    expected = fit(whole, batches, keep(whole, None))
    fit(first, batches[:2], keep(first, 2))
    weights, states, updates = saved["state"]
    resumed = make_agent()
    resumed.load_state_dict(weights)
    resumed.updates = updates

    def go_on(batch):
        for optimizer, state in zip(resumed.optimizers(), states, strict=True):
            optimizer.optimizer.load_state_dict(state)
        return keep(resumed, None)(batch)

    (metrics,) = fit(resumed, batches[2:], go_on)
    assert_close(metrics, expected[2], rtol=0, atol=0)
    assert_close(weights_of(resumed), weights_of(whole), rtol=0, atol=0)


def test_starts_of_trajectories_have_a_predicted_end():
    agent, batch = make_agent(), make_batch()
    model = agent.world_model
    starts = model.loss(batch).posterior.flatten_time()
    ended = torch.ones(len(starts.deter), dtype=torch.bool)
    trajectory = model.imagine(starts, ended, agent.actor_critic.act, 2)
    end = model.heads["terminal"](starts.features).mean
    assert_close(trajectory.discount[0], model.config.discount * (1 - end))


def test_a_policy_zeroes_the_action_at_a_reset_which_the_model_would_keep():
    agent = make_agent()
    policy = DreamerPolicy(agent.world_model, agent.actor_critic, sample_actions=False)
    obs, first = make_obs(VECTORS, B), torch.tensor([True, False, True])
    memory = policy.act(obs, torch.zeros(B, dtype=torch.bool))
    torch.manual_seed(1)
    after = policy.act(obs, first, memory)
    torch.manual_seed(1)
    fresh = policy.act(obs, first, None)
    for part, expected in zip(after.latent, fresh.latent, strict=True):
        assert_close(part[first], expected[first])
    assert not torch.allclose(after.latent.deter[1], fresh.latent.deter[1])


def test_evaluations_sample_actions(compose_tiny):
    from dreamer.run.build import make_agent as build
    from dreamer.run.build import make_envs, make_evaluation_policies

    for words, samples in (([], False), (["experiment=pydreamer", "debug=fast"], True)):
        cfg = compose_tiny(*words)
        envs = make_envs(cfg, seed=0)
        policies = make_evaluation_policies(cfg, build(cfg, envs))
        assert policies["actor"].sample_actions is samples


@pytest.mark.slow
def test_the_preset_trains_with_all_features_and_goes_on_after_a_stop(compose_tiny):
    from dreamer.run.load import load
    from dreamer.run.train import train

    words = ["experiment=pydreamer", "debug=fast", "iwae_samples=2", "reward_input=true"]
    words += ["cell=gru_layernorm", "cell.layers=2"]
    words += ["replay/sampling=sequential", "replay.sampling.piece_policy_steps=32"]
    words += ["replay.across_episodes=false", "replay.carry_state=true"]
    train(compose_tiny(*words, "total_frames=60"))
    summary = train(compose_tiny(*words))
    assert summary.frames == 81 and summary.updates > 3
    assert isinstance(load(summary.run_dir).networks, PyDreamerAgent)
