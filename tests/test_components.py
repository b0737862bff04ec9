"""What learns beside the agent's own networks: whom it leaves alone, what is saved and logged."""

import functools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from probe import ExplorerConfig, Probe, ProbeConfig
from test_agent import make_noise
from tiny import (
    CONTINUOUS,
    IMAGE,
    OPTIMIZER,
    VECTORS,
    D,
    H,
    K,
    S,
    fit,
    gradients_of,
    make_agent,
    make_batch,
    weights_of,
)
from torch.testing import assert_close

from dreamer.agent import NonFiniteError
from dreamer.components import Component, ComponentOutput
from dreamer.optim import OptimizerConfig
from dreamer.run.load import load
from dreamer.run.train import train

FAST = OptimizerConfig(learning_rate=0.03, epsilon=1e-5, clip=None, weight_decay=0.0)
PROBE = ProbeConfig(FAST, "angle", 9)
EXPLORER = ExplorerConfig({"reward": OPTIMIZER, "actor": OPTIMIZER})
OWN = ("world_model.", "actor_critic.")
RUN = (
    "+model.components.probe._target_=probe.ProbeConfig",
    "+model.components.probe.optimizer=${model.critic_optimizer}",
    "+model.components.probe.key=image",
    "+model.components.probe.size=9",
)


class Broken(Component):
    """Has the loss that it is told."""

    def __init__(self, loss=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.make_loss = loss

    def loss(self, context):
        return ComponentOutput(self.make_loss(self.weight))


def config(component, optimizer=OPTIMIZER):
    return SimpleNamespace(optimizer=optimizer, build=lambda shape: component)


# -------------------------------------------------------------------------------- learning


@pytest.mark.slow
def test_a_probe_learns_from_stopped_features():
    agent = make_agent(components={"probe": PROBE})
    noise = make_noise(agent)
    batches = [make_batch()] * 60
    metrics = fit(agent, batches, lambda batch: agent.update(batch, noise=noise)[1])
    assert metrics[-1]["probe/loss"] < 0.3 * metrics[0]["probe/loss"]
    assert not any(x.requires_grad for m in metrics for x in m.values())
    assert {k for k in metrics[0] if "probe" in k} == {
        *("probe/loss", "probe/worst", "grad_norm/probe")
    }


@pytest.mark.slow
@pytest.mark.parametrize("extra", [{"probe": PROBE}, {"explorer": EXPLORER, "probe": PROBE}])
def test_components_change_no_weight_of_the_agent(extra):
    agents, batches = [], [make_batch(CONTINUOUS, seed=n) for n in range(4)]
    metrics = []
    for components in ({}, extra):
        agent = make_agent(CONTINUOUS, components=components)
        update = functools.partial(agent.update, noise=make_noise(agent))
        metrics.append(fit(agent, batches, lambda batch, update=update: update(batch)[1]))
        agents.append(agent)
    plain, extended = map(weights_of, agents)
    assert_close({k: extended[k] for k in plain}, plain, rtol=0, atol=0)
    assert_close({k: metrics[1][-1][k] for k in metrics[0][-1]}, metrics[0][-1], rtol=0, atol=0)
    assert all(p.requires_grad for p in agents[1].world_model.parameters())


def test_an_agent_without_components_is_as_it_was():
    agent = make_agent()
    assert all(key.startswith(OWN) for key in agent.state_dict())
    assert len(agent.configure_optimizers()) == 3


def test_each_optimizer_of_a_component_trains_its_network_alone():
    agent = make_agent(CONTINUOUS, components={"explorer": EXPLORER})
    explorer, seen = agent.components["explorer"], {}
    step = agent._step

    def spy(name, loss):
        before = weights_of(explorer)
        metrics = step(name, loss)
        after = weights_of(explorer)
        seen[name] = {k for k, x in after.items() if not torch.equal(x, before[k])}
        return metrics

    agent._step = spy
    (metrics,) = fit(agent, [make_batch(CONTINUOUS)])
    assert seen["explorer_reward"] == {"reward.weight", "reward.bias"}
    assert seen["explorer_actor"] == {"actor.weight", "actor.bias"}
    assert {"explorer_actor/loss", "grad_norm/explorer_reward", "explorer/imagined"} <= {*metrics}
    assert explorer.ended == [0]
    assert all(k.startswith(OWN) or "explorer" in k for k in gradients_of(agent))


def test_components_are_built_for_the_shape_of_the_agent():
    shapes = []

    def build(shape):
        shapes.append(shape)
        return Probe(shape.feature_size, "angle", 9)

    made = SimpleNamespace(optimizer=OPTIMIZER, build=build)
    agent = make_agent(CONTINUOUS, components={"probe": made}, obs_shapes=IMAGE | VECTORS)
    (shape,) = shapes
    assert (shape.deter_size, shape.stoch_size, shape.horizon) == (D, S * K, H)
    assert shape.feature_size == agent.world_model.feature_size
    assert shape.embed_size == agent.world_model.encoder.output_size
    assert (shape.discount, shape.action_space) == (0.9, CONTINUOUS)
    assert shape.obs_shapes == IMAGE | VECTORS


def test_a_component_is_given_what_the_update_has_computed():
    contexts = []

    def keep(agent):
        component = agent.components["probe"]
        loss = component.loss

        def spy(context):
            contexts.append(context)
            return loss(context)

        component.loss = spy

    agent, batch = make_agent(components={"probe": PROBE}), make_batch()
    keep(agent)
    agent.frames, agent.policy_steps, agent.updates = 44, 11, 3
    fit(agent, [batch])
    (context,) = contexts
    assert context.policy_steps == 11
    length, count = batch.reward.shape
    assert context.posterior.deter.shape == (length, count, D)
    assert context.prior_stats.shape == context.posterior.stats.shape
    assert context.trajectory.reward.shape == (H + 1, length * count)
    tensors = [*context.posterior, context.prior_stats, *context.trajectory]
    assert not any(x.requires_grad for x in tensors)
    assert context.world_model is agent.world_model


# -------------------------------------------------------------------------------- runs


def lines(run_dir) -> list[dict]:
    return [json.loads(x) for x in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_with_a_component_goes_on_with_it_and_logs_it(compose_tiny, tmp_path):
    whole = train(compose_tiny(*RUN, f"run_dir={tmp_path / 'whole'}"))
    where = f"run_dir={tmp_path / 'parts'}"
    train(compose_tiny(*RUN, where, "total_frames=64"))
    first = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)
    parts = train(compose_tiny(*RUN, where))
    last = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)

    keys = {k for k in last["state_dict"] if k.startswith("components.")}
    assert keys == {"components.probe.layer.weight", "components.probe.layer.bias"}
    assert not any(torch.equal(first["state_dict"][k], last["state_dict"][k]) for k in keys)
    assert len(last["optimizer_states"]) == 4
    steps = [x["optimizer_states"][3]["state"][0]["step"].item() for x in (first, last)]
    assert 0 < steps[0] < steps[1] == parts.updates == whole.updates
    logged = [line for line in lines(parts.run_dir) if "probe/loss" in line]
    assert logged and {"probe/worst", "grad_norm/probe"} <= logged[-1].keys()

    agent = load(parts.run_dir, "last", allow=["probe"])
    probe = agent.networks.components["probe"]
    assert_close(probe.layer.weight, last["state_dict"]["components.probe.layer.weight"])


@pytest.mark.slow
def test_a_run_learns_the_same_with_a_component_as_without(compose_tiny, tmp_path):
    runs = [
        train(compose_tiny(*changes, f"run_dir={tmp_path / name}"))
        for name, changes in (("with", RUN), ("without", ()))
    ]
    states = [
        torch.load(Path(run.run_dir) / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in runs
    ]
    assert_close({k: states[0][k] for k in states[1]}, states[1], rtol=0, atol=0)


# -------------------------------------------------------------------------------- errors


def test_a_component_whose_loss_is_not_finite_is_named_and_nothing_after_it_moves():
    broken = Broken(lambda weight: (weight * torch.nan).sum())
    agent = make_agent(components={"broken": config(broken), "probe": PROBE})
    before = weights_of(agent.components)
    with pytest.raises(NonFiniteError, match="The broken loss or its gradient is not finite in"):
        fit(agent, [make_batch()])
    assert_close(weights_of(agent.components), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ({"actor": PROBE}, "name must differ from .*, got actor"),
        ({"replay": PROBE}, "name must differ from .*, got replay"),
        ({"a/b": PROBE}, "letters, digits and underscores, and not .*, got a/b"),
        ({"a.b": PROBE}, "letters, digits and underscores, and not .*, got a.b"),
        ({"items": PROBE}, "not be a name that torch reserves, got items"),
        ({"probe": {"key": 1}}, r"`components.probe` must be a configuration .*, got \{'key'"),
        ({"x": config(Broken(), {})}, "`components.x.optimizer` must not be empty"),
        (
            {"x": config(Broken(), {"y": OPTIMIZER})},
            r"`components.x.optimizer` must be among \[\], .*'y'",
        ),
        (
            {"x": config(Broken().requires_grad_(False))},
            "`components.x` must have trainable weights",
        ),
        (
            {"explorer": EXPLORER, "explorer_actor": PROBE},
            "names of trained networks must differ, got explorer_actor twice",
        ),
    ],
)
def test_components_that_cannot_be_are_refused(components, message):
    with pytest.raises(ValueError, match=message):
        make_agent(components=components)


def test_what_is_no_component_or_has_no_loss_is_refused():
    message = "`components.x` must build a dreamer.components.Component, got Linear"
    with pytest.raises(TypeError, match=re.escape(message)):
        make_agent(components={"x": config(torch.nn.Linear(2, 3))})
    with pytest.raises(
        TypeError, match="`components.x` must define `loss`, got Component without it"
    ):
        make_agent(components={"x": config(Component())})


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda weight: weight,
            r"x loss must be a scalar that depends on weights, got shape \(2,\)",
        ),
        (lambda weight: weight.sum().detach(), "got shape .*, requires_grad=False"),
    ],
)
def test_a_loss_that_is_none_is_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        fit(make_agent(components={"x": config(Broken(loss))}), [make_batch()])
