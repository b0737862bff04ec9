"""Traces give what the function gives, to the last bit, and look weights and draws up anew."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import (
    ACTOR,
    ACTOR_CRITIC,
    CHOICES,
    CONTINUOUS,
    GAUSSIAN,
    IMAGE,
    VECTORS,
    WORLD_MODEL,
    make_agent,
    make_obs,
)
from torch import nn

from dreamer import trace
from dreamer.build import make_evaluation_policy, make_explorer
from dreamer.graph import Recorded
from dreamer.policy import DreamerPolicy, RecordedPolicy, SnapshotPolicy
from dreamer.trace import CALLS, TraceTape
from dreamer.types import TimeStep

AFTER = 3  # calls before the trace, here
OBS_SHAPES = IMAGE | VECTORS


@pytest.fixture
def soon(monkeypatch) -> None:
    monkeypatch.setattr(trace, "CALLS", AFTER)


class Counted:
    """A layer and a draw."""

    def __init__(self):
        self.layer, self.calls = nn.Linear(3, 2), 0

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        self.calls += 1
        return [self.layer(x) + torch.randn(2), y * 2]


@torch.no_grad()
def test_function_is_called_until_it_is_traced_and_never_again():
    function = Counted()
    traced = Recorded(function, TraceTape([function.layer]))
    for number in range(CALLS + 10):
        assert traced.is_recorded == (number > CALLS)
        x, y = torch.randn(4, 3), torch.randn(4)
        torch.manual_seed(number)
        actual, state = traced(x, y), torch.get_rng_state()
        torch.manual_seed(number)
        expected = function.layer(x) + torch.randn(2), y * 2
        assert all(map(torch.equal, actual, expected))
        assert torch.get_rng_state().equal(state)
    assert function.calls == CALLS + 1  # the last is the trace


@torch.no_grad()
def test_weights_that_change_in_place_are_read(soon):
    function = Counted()
    traced = Recorded(function, TraceTape([function.layer]))
    x, y = torch.ones(4, 3), torch.ones(4)
    for number in range(AFTER + 5):
        function.layer.weight.add_(1)
        torch.manual_seed(number)
        actual, _ = traced(x, y)
        torch.manual_seed(number)
        assert torch.equal(actual, function.layer(x) + torch.randn(2))
    assert traced.is_recorded


def test_other_devices_are_left_alone(soon):
    function = Counted()
    function.layer.to("meta")
    traced = Recorded(lambda x: [function.layer(x)], TraceTape([function.layer]))
    for _ in range(AFTER + 5):
        traced(torch.ones(4, 3, device="meta"))
    assert not traced.is_recorded


def act(agent, policy: DreamerPolicy) -> list[np.ndarray]:
    """Actions and memories of three environments and then of one, while the weights change."""
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    results = []
    for count in (3, 1):
        state = None
        for number in range(2 * AFTER + 2):
            with torch.random.fork_rng(devices=()):
                obs = {k: x.numpy() for k, x in make_obs(OBS_SHAPES, count).items()}
            is_first = generator.random(count) < 0.3
            step = TimeStep(obs, np.zeros(count, np.float32), is_first, *np.zeros((2, count), bool))
            if isinstance(policy, SnapshotPolicy) and number % 2 == 0:
                policy.refresh(number)
            action, state = policy(step, state)
            results += [action, *(x.numpy() for x in state.latent)]
            if number % 3 == 2:
                with torch.no_grad():
                    for weight in agent.parameters():
                        weight.mul_(1.01)
    return results


AGENTS = {
    "discrete": {},
    "continuous": {"action_space": CONTINUOUS},
    "tanh_normal": {
        "action_space": CONTINUOUS,
        "actor_critic": dataclasses.replace(
            ACTOR_CRITIC, actor=dataclasses.replace(ACTOR, distribution="tanh_normal")
        ),
    },
    "choices": {"action_space": CHOICES},
    "gaussian": {"world_model": dataclasses.replace(WORLD_MODEL, latent=GAUSSIAN)},
}


@pytest.mark.parametrize(
    ("name", "sample_actions"), [*((name, True) for name in AGENTS), ("discrete", False)]
)
def test_traced_policies_act_as_plain_ones(soon, name, sample_actions):
    options, results = AGENTS[name], []
    for is_traced in (True, False):
        agent = make_agent(obs_shapes=OBS_SHAPES, **options)
        networks, how = (agent.world_model, agent.actor_critic), {"sample_actions": sample_actions}
        how |= {"exploration_noise": 0.3 if sample_actions else 0.0}
        policy = DreamerPolicy(*networks, **how)
        if is_traced:
            policy = RecordedPolicy(*networks, make_tape=TraceTape, **how)
        results.append(act(agent, policy))
        if is_traced:
            assert all(function.is_recorded for function in policy._recorded.values())
    assert all(map(np.array_equal, *results))


@pytest.mark.parametrize("make_policy", [make_explorer, make_evaluation_policy])
def test_runs_act_by_traces_on_a_cpu(soon, compose_any, make_policy):
    agent = make_agent(obs_shapes=OBS_SHAPES)
    cfg = compose_any("env=dummy", "collect.overlap=false", "cuda_graphs=false")
    policy = make_policy(cfg, agent)
    act(agent, policy)
    assert [function.is_recorded for function in policy._recorded.values()] == [True, True]


class NeverDue(TraceTape):
    def is_due(self, calls, inputs):
        return False


def test_runs_act_by_traces_beside_the_update_too(soon, compose_any, monkeypatch):
    cfg = compose_any("env=dummy", "collect.overlap=true", "cuda_graphs=false")
    results = []
    for is_traced in (True, False):
        if not is_traced:
            monkeypatch.setattr("dreamer.build.TraceTape", NeverDue)
        agent = make_agent(obs_shapes=OBS_SHAPES)
        policy = make_explorer(cfg, agent)
        assert isinstance(policy, SnapshotPolicy)
        results.append(act(agent, policy))
        assert [function.is_recorded for function in policy._recorded.values()] == [is_traced] * 2
    assert all(map(np.array_equal, *results))
