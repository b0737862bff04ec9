"""CUDA graphs of updates and of acting: what they repeat, and when they are captured anew.

On the CPU a capture that calls again stands for the device's; the real one has tests marked `gpu`.
"""

import dataclasses
import re

import numpy as np
import pytest
import torch
from probe import ExplorerConfig, ProbeConfig
from tiny import (
    ACTOR,
    ACTOR_CRITIC,
    CONTINUOUS,
    DISCRETE,
    IMAGE,
    MODEL_LOSS,
    OPTIMIZER,
    PLAN2EXPLORE,
    VECTORS,
    WORLD_MODEL,
    B,
    T,
    fit,
    make_agent,
    make_batch,
    make_obs,
    weights_of,
)
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from dreamer.agent import DreamerAgent, NonFiniteError
from dreamer.kernels import cuda_graph
from dreamer.kernels.captured_policy import CapturedPolicy, CapturedSnapshotPolicy
from dreamer.kernels.captured_update import CapturedUpdate
from dreamer.kernels.cuda_graph import WARM_UP, Captured, CapturedFunction, CudaCapture
from dreamer.policy import DreamerPolicy, ExplorerThenActor, RandomPolicy, SnapshotPolicy
from dreamer.precision import trainer_options
from dreamer.run import build
from dreamer.types import TimeStep

UPDATES = WARM_UP + 5
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class CpuCapture:
    """Replays by calling again, with the same tensors for inputs and outputs, as a CUDA graph."""

    def __init__(self):
        self.calls: list[str] = []

    def warm_up(self, function, inputs):
        self.calls.append("warm_up")
        return function(*inputs)

    def capture(self, function, inputs):
        def replay(*inputs):
            self.calls.append("replay")
            for copy, x in zip(copies, inputs, strict=True):
                copy.copy_(x)
            results = function(*copies)
            outputs.extend(x.clone() for x in results[len(outputs) :])
            for output, x in zip(outputs, results, strict=True):
                output.copy_(x)
            return outputs

        self.calls.append("capture")
        copies, outputs = [x.clone() for x in inputs], []
        return Captured(replay, replay(*inputs))


# ----------------------------------------------------------------------------------- functions


def test_function_is_warmed_up_then_captured_once_then_replayed():
    capture = CpuCapture()
    double = CapturedFunction(lambda x: [2 * x], capture)
    results = [double(torch.tensor([float(n)]))[0].item() for n in range(UPDATES)]
    assert results == [2 * n for n in range(UPDATES)]
    expected = ["warm_up"] * WARM_UP + ["capture"] + ["replay"] * (UPDATES - WARM_UP)
    assert capture.calls == expected


def test_function_can_wait_to_be_captured_until_it_is_told():
    capture = CpuCapture()
    double = CapturedFunction(lambda x: [2 * x], capture, automatic=False)
    for number in range(UPDATES):
        double.capture()
        assert double.is_captured == (number >= WARM_UP)
        assert double(torch.tensor([float(number)]))[0].item() == 2 * number
    assert capture.calls.index("capture") == WARM_UP
    late = CapturedFunction(lambda x: [2 * x], CpuCapture(), automatic=False)
    assert [late(torch.ones(1))[0].item() for _ in range(UPDATES)] == [2] * UPDATES
    assert not late.is_captured


@pytest.mark.parametrize("other", [torch.zeros(B, T), torch.zeros(T, B, dtype=torch.bool)])
def test_inputs_of_another_shape_or_kind_are_refused_and_not_broadcast(other):
    double = CapturedFunction(lambda x: [2 * x], CpuCapture())
    for _ in range(UPDATES):
        double(torch.zeros(T, B))
    with pytest.raises(ValueError, match=re.escape(f"({T}, {B}) torch.float32 as captured, got (")):
        double(other)


# ------------------------------------------------------------------------------------- updates


def make_recorded_agent(*args, make_capture=CpuCapture, **options):
    agent = make_agent(*args, **options)
    agent.learn = CapturedUpdate(agent, make_capture)
    return agent


def learn(make_capture=None, *, action_space=DISCRETE, gradient="auto", batches=None, **options):
    """Updates from one seed: the agent and its metrics."""
    actor = dataclasses.replace(ACTOR, gradient=gradient)
    agent = make_agent(
        action_space,
        obs_shapes=IMAGE | VECTORS,
        actor_critic=dataclasses.replace(ACTOR_CRITIC, actor=actor),
    )
    if make_capture is not None:
        agent.learn = CapturedUpdate(agent, make_capture)
    torch.manual_seed(1)
    if batches is None:
        batches = some_batches(action_space)
    metrics = fit(agent, batches, **options)
    return agent, [{k: x.item() for k, x in m.items()} for m in metrics]


def some_batches(action_space=DISCRETE):
    return [make_batch(action_space, IMAGE | VECTORS, seed=n) for n in range(UPDATES)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action_space", "gradient", "precision"),
    [
        (DISCRETE, "auto", "32-true"),
        (CONTINUOUS, "both", "32-true"),
        (DISCRETE, "auto", "bf16-mixed"),
    ],
)
def test_replayed_updates_give_weights_metrics_and_counts_of_plain_ones(
    action_space, gradient, precision
):
    options = {"action_space": action_space, "gradient": gradient, "precision": precision}
    plain, expected = learn(**options)
    replayed, metrics = learn(CpuCapture, **options)
    # A weight that differs in its last digit may round to another number of bfloat16's 8 bits.
    bf16 = "bf16" in precision
    tolerance = {"rtol": 0, "atol": 2e-3} if bf16 else {"rtol": 1e-4, "atol": 1e-5}
    assert_close(weights_of(replayed), weights_of(plain), **tolerance)
    tolerance = {"rel": 0.1, "abs": 5e-3} if bf16 else {"rel": 1e-3, "abs": 1e-3}
    for actual, numbers in zip(metrics, expected, strict=True):
        assert actual == pytest.approx(numbers, **tolerance)
    assert replayed.learn.captures == 1
    assert replayed.updates == plain.updates == UPDATES
    assert replayed.trainer.global_step == plain.trainer.global_step == 3 * UPDATES


@pytest.mark.slow
def test_replayed_updates_in_float16_scale_and_skip_as_plain_ones(monkeypatch):
    monkeypatch.setattr("dreamer.loss_scaling.FIRST_SCALE", 2.0**19)  # the first updates overflow
    agents, metrics = [], []
    for make in (make_agent, make_recorded_agent):
        agents.append(make())
        torch.manual_seed(1)
        batches = [make_batch(seed=n) for n in range(UPDATES)]
        metrics.append(fit(agents[-1], batches, **trainer_options("16-mixed", "cpu")))
    plain, replayed = agents
    assert replayed.learn.captures == 1
    assert replayed.finite_check.saved() == plain.finite_check.saved()
    key = "grad_overflow/world_model"
    skipped = [[m[key].item() for m in each] for each in metrics]
    assert skipped[0] == skipped[1]
    assert set(skipped[0]) == {0, 1}
    assert_close(weights_of(replayed), weights_of(plain), rtol=0, atol=2e-3)


@pytest.mark.slow
def test_replayed_updates_train_components_as_plain_ones():
    components = {"explorer": ExplorerConfig({"reward": OPTIMIZER, "actor": OPTIMIZER})}
    components["probe"] = ProbeConfig(OPTIMIZER, "angle", 9)
    weights, metrics = [], []
    for make in (make_agent, make_recorded_agent):
        agent = make(CONTINUOUS, components=components)
        torch.manual_seed(1)
        metrics += fit(agent, [make_batch(CONTINUOUS, seed=n) for n in range(UPDATES)])[-1:]
        weights.append(weights_of(agent))
        assert agent.components["explorer"].ended == list(range(UPDATES))
    assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)
    assert metrics[1].keys() == metrics[0].keys() >= {"probe/loss", "explorer_actor/loss"}


@pytest.mark.slow
@pytest.mark.parametrize("space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("config", [PLAN2EXPLORE, MODEL_LOSS], ids=["plan2explore", "model_loss"])
def test_replayed_updates_train_an_explorer_as_plain_ones(config, space):
    moving = dataclasses.replace(config.intrinsic_norm, momentum=0.9)
    config = dataclasses.replace(config, intrinsic_norm=moving, extrinsic_scale=0.5)
    weights, metrics = [], []
    for make in (make_agent, make_recorded_agent):
        agent = make(space, components={"explore": config})
        torch.manual_seed(1)
        metrics += fit(agent, [make_batch(space, seed=n) for n in range(UPDATES)])[-1:]
        weights.append(weights_of(agent))
    assert agent.learn.captures == 1
    assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)
    assert weights[1]["components.explore.intrinsic_norm.magnitude"] != 1
    assert metrics[1].keys() == metrics[0].keys() >= {"explore_actor/loss", "explore/reward"}
    numbers = [{k: x.item() for k, x in m.items()} for m in metrics]
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-3, abs=1e-3)


@pytest.mark.slow
def test_replayed_updates_carry_the_state_as_plain_ones():
    batches = [make_batch(seed=n) for n in range(UPDATES)]
    for batch in batches:
        batch.is_first[0] = False
    states, addresses = [], set()
    for make in (make_agent, make_recorded_agent):
        agent = make(carry_state=True)

        def step(batch, agent=agent):
            metrics = type(agent).training_step(agent, batch, 0)
            addresses.add(agent.carried.start(agent.device).deter.data_ptr())
            return metrics

        torch.manual_seed(1)
        fit(agent, batches, step)
        states.append(agent.carried.state_dict())
    assert agent.learn.captures == 1
    assert len(addresses) == 2  # one for each agent: a graph reads and writes the same memory
    assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Total length of")  # no batch before the first
@pytest.mark.parametrize("poisoned", [0, WARM_UP + 2, UPDATES - 1])
def test_loss_that_is_not_finite_stops_the_run_with_the_weights_from_before_it(poisoned):
    expected, _ = learn(CpuCapture, batches=some_batches()[:poisoned])
    batches = some_batches()
    batches[poisoned].reward[2, 1] = torch.nan
    agent = make_recorded_agent(obs_shapes=IMAGE | VECTORS)
    torch.manual_seed(1)
    message = f"The world_model loss or its gradient is not finite in update {poisoned},"
    with pytest.raises(NonFiniteError, match=message):
        fit(agent, batches)
    assert_close(weights_of(agent.world_model), weights_of(expected.world_model), rtol=0, atol=0)
    actor, expected_actor = agent.actor_critic.actor, expected.actor_critic.actor
    assert_close(weights_of(actor), weights_of(expected_actor), rtol=0, atol=0)


@pytest.mark.slow
def test_optimizers_that_load_a_state_make_a_new_capture():
    agent = make_recorded_agent()
    batches = [make_batch(seed=n) for n in range(2 * UPDATES)]

    def step(batch):
        if agent.updates == UPDATES:
            for optimizer in agent.trainer.optimizers:
                optimizer.load_state_dict(optimizer.state_dict())
        return type(agent).training_step(agent, batch, 0)

    fit(agent, batches, step)
    assert agent.learn.captures == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action_space", "components", "precision"),
    [
        pytest.param(DISCRETE, {}, "32-true", id="discrete-plain"),
        pytest.param(DISCRETE, {}, "16-mixed", id="discrete-float16"),
        pytest.param(DISCRETE, {"explore": PLAN2EXPLORE}, "32-true", id="discrete-explorer"),
        pytest.param(CONTINUOUS, {}, "32-true", id="continuous-plain"),
        pytest.param(CONTINUOUS, {"explore": PLAN2EXPLORE}, "32-true", id="continuous-explorer"),
    ],
)
def test_update_that_is_captured_never_asks_the_device_for_a_number(
    action_space, components, precision
):
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.add(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    class WatchingCapture(CpuCapture):
        def capture(self, function, inputs):
            def watched(*inputs):
                with Watch():
                    return function(*inputs)

            return super().capture(watched, inputs)

    called = set()
    agent = make_recorded_agent(action_space, make_capture=WatchingCapture, components=components)
    batches = [make_batch(action_space, seed=n) for n in range(UPDATES)]
    fit(agent, batches, **trainer_options(precision, "cpu"))
    assert torch.ops.aten._fused_adam_ in called
    assert not called & {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero}


class Kernels(TorchDispatchMode):
    """Counts what a device would launch: operations that are no mere views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        allocates = func.overloadpacket in (torch.ops.aten.empty, torch.ops.aten.new_empty)
        self.count += not (func.is_view or allocates)
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
def test_a_step_of_a_sequence_and_of_a_dream_is_few_kernels(monkeypatch):
    # Tensors without numbers take the ways of a device; autocast does not know theirs.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)

    def sequence(length):
        zeros = (torch.zeros(length, *x.shape[1:], device="meta") for x in (embed, action))
        is_first = torch.zeros(length, B, dtype=torch.bool, device="meta")
        with Kernels() as kernels:
            torch.stack([x.sum() for x in rssm.observe(*zeros, is_first)]).sum().backward()
        return kernels.count

    def dream(horizon):
        with Kernels() as kernels, torch.no_grad():
            model.imagine(start, None, lambda features, noise: action[0], horizon)
        return kernels.count

    model = make_agent().world_model.to("meta")
    rssm = model.rssm
    embed = torch.zeros(1, B, model.encoder.output_size, device="meta")
    action = torch.zeros(1, B, DISCRETE.size, device="meta")
    start = rssm.initial(B)
    assert (sequence(2 * T) - sequence(T)) / T <= 72
    assert (dream(2 * T) - dream(T)) / T <= 26


@pytest.mark.slow
def test_replayed_updates_follow_the_schedules_of_rates_and_of_the_kl_scale():
    optimizer = dataclasses.replace(OPTIMIZER, learning_rate="linear(1e-3,5e-3,100)")
    model = dataclasses.replace(WORLD_MODEL, loss_scales={"kl": "linear(1,3,100)"})
    names = ("world_model_optimizer", "actor_optimizer", "critic_optimizer")
    options = {"world_model": model} | dict.fromkeys(names, optimizer)
    weights, metrics = [], []
    for make in (make_agent, make_recorded_agent):
        agent = make(**options)

        def step(batch, agent=agent):
            agent.policy_steps += 10
            return DreamerAgent.training_step(agent, batch, 0)

        torch.manual_seed(1)
        metrics += fit(agent, [make_batch(seed=n) for n in range(UPDATES)], step)[-1:]
        weights.append(weights_of(agent))
    assert agent.learn.captures == 1
    assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)
    now = 0.1 * UPDATES
    assert metrics[1]["learning_rate/critic"].item() == pytest.approx(1e-3 + now * 4e-3)
    assert metrics[1]["world_model/kl_scale"].item() == pytest.approx(1 + now * 2)


@pytest.mark.parametrize("name", ["entropy_scale", "gradient_mix"])
def test_schedule_that_changes_cannot_be_captured(name):
    actor = dataclasses.replace(ACTOR, **{name: "linear(1,0,100)"})
    message = f"`{name}` must be a number with cuda_graphs=true, got linear(1,0,100)"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_recorded_agent(actor_critic=dataclasses.replace(ACTOR_CRITIC, actor=actor))


@pytest.mark.parametrize("name", ["entropy_scale", "gradient_mix"])
def test_a_schedule_of_the_explorers_actor_cannot_be_captured_either(name):
    actor = dataclasses.replace(ACTOR, **{name: "linear(1,0,100)"})
    explorer = dataclasses.replace(
        PLAN2EXPLORE, actor_critic=dataclasses.replace(ACTOR_CRITIC, actor=actor)
    )
    message = f"`explore.actor_critic.actor.{name}` must be a number with cuda_graphs=true, got lin"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_recorded_agent(components={"explore": explorer})


# -------------------------------------------------------------------------------------- acting


def act(make_capture=None, device="cpu"):
    """Actions (steps, E, A) of one seed, for three environments and then for two."""
    agent = make_agent(obs_shapes=IMAGE | VECTORS).to(device)
    networks = agent.world_model, agent.actor_critic
    policy = DreamerPolicy(*networks, sample_actions=True)
    if make_capture is not None:
        policy = CapturedPolicy(*networks, sample_actions=True, make_capture=make_capture)
    return play(policy)


def play(policy, refresh=lambda number: None, steps=2 * WARM_UP):
    torch.manual_seed(1)
    actions = []
    for count in (3, 2):
        state = None
        for number in range(steps):
            refresh(number)
            obs = {k: x.numpy() for k, x in make_obs(IMAGE | VECTORS, count).items()}
            no = np.zeros(count, bool)
            is_first = np.arange(count) == number % 4
            action, state = policy(TimeStep(obs, no.astype(np.float32), is_first, no, no), state)
            actions.append(action.copy())  # on the CPU it is the memory's own
    return actions


def test_replayed_policy_calls_give_the_actions_of_plain_ones():
    for actual, expected in zip(act(CpuCapture), act(), strict=True):
        assert np.array_equal(actual, expected)


def test_replayed_calls_of_a_snapshot_give_the_actions_of_plain_ones():
    def act(kind, **options):
        agent = make_agent(obs_shapes=IMAGE | VECTORS)
        networks = agent.world_model, agent.actor_critic
        policy = kind(*networks, exploration_noise=0.3, seed=0, **options)

        def refresh(number):
            torch._foreach_mul_(list(agent.parameters()), 1.01)
            policy.refresh(number)

        with torch.no_grad():
            return play(policy, refresh), policy

    replayed, policy = act(CapturedSnapshotPolicy, make_capture=CpuCapture)
    assert all(map(np.array_equal, replayed, act(SnapshotPolicy)[0]))
    assert [captured.is_captured for captured in policy._captured.values()] == [True, True]


def test_the_memory_survives_the_change_between_captured_policies():
    def act(kind, **options):
        agent = make_agent(obs_shapes=IMAGE | VECTORS, components={"explore": PLAN2EXPLORE})
        explorer = agent.components["explore"].actor_critic
        both = [
            kind(agent.world_model, actor, sample_actions=True, **options)
            for actor in (explorer, agent.actor_critic)
        ]
        policy = ExplorerThenActor(*both, until_policy_steps=2 * WARM_UP)
        return play(policy, policy.choose, 4 * WARM_UP), both

    recorded, both = act(CapturedPolicy, make_capture=CpuCapture)
    expected, _ = act(DreamerPolicy)
    assert all(map(np.array_equal, recorded, expected))
    assert all(captured.is_captured for policy in both for captured in policy._captured.values())


# ---------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("overlap", "plain", "recorded"),
    [
        ("false", DreamerPolicy, CapturedPolicy),
        ("true", SnapshotPolicy, CapturedSnapshotPolicy),
    ],
)
def test_runs_learn_and_act_by_cuda_graphs_where_asked_for(compose_tiny, overlap, plain, recorded):
    for graphs, kind in (("false", plain), ("true", recorded)):
        cfg = compose_tiny(f"cuda_graphs={graphs}", f"collect.overlap={overlap}")
        agent = build.make_agent(cfg, build.make_envs(cfg, seed=0))
        assert isinstance(agent.learn, CapturedUpdate) == (graphs == "true")
        assert type(build.make_actor(cfg, agent)) is kind
        (policy,) = build.make_evaluation_policies(cfg, agent).values()
        assert isinstance(policy, CapturedPolicy) == (graphs == "true")


@pytest.mark.parametrize(
    ("overlap", "kind"), [("false", CapturedPolicy), ("true", CapturedSnapshotPolicy)]
)
def test_explorers_act_by_cuda_graphs_where_asked_for(compose_tiny, overlap, kind):
    words = "cuda_graphs=true", f"collect.overlap={overlap}", "explore=plan2explore"
    cfg = compose_tiny(*words)
    agent = build.make_agent(cfg, build.make_envs(cfg, seed=0))
    random = RandomPolicy(agent.action_space, 0)
    assert type(build.make_explorer(cfg, agent, random)) is kind
    policies = build.make_evaluation_policies(cfg, agent)
    assert policies.keys() == {"actor", "explore"}
    assert {type(policy) for policy in policies.values()} == {CapturedPolicy}


# ------------------------------------------------------------------------------------- on CUDA


@pytest.mark.gpu
@on_cuda
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    ("action_space", "gradient"),
    [(DISCRETE, "auto"), (CONTINUOUS, "auto"), (CONTINUOUS, "both")],
)
def test_cuda_graph_repeats_the_update_that_was_captured(
    action_space, gradient, precision, monkeypatch
):
    options = {"action_space": action_space, "gradient": gradient, "precision": precision}
    options |= {"accelerator": "cuda", "devices": 1}
    replayed, metrics = learn(CudaCapture, **options)
    monkeypatch.setattr(cuda_graph, "WARM_UP", UPDATES)  # the same kernels, never captured
    eager, expected = learn(CudaCapture, **options)
    assert (replayed.learn.captures, eager.learn.captures) == (1, 0)
    for actual, numbers in zip(metrics, expected, strict=True):
        assert actual == pytest.approx(numbers, rel=1e-2, abs=1e-3)
    assert_close(weights_of(replayed.cpu()), weights_of(eager.cpu()), rtol=0, atol=5e-3)
    assert replayed.trainer.global_step == 3 * UPDATES


@pytest.mark.gpu
@on_cuda
@pytest.mark.parametrize("poisoned", [1, UPDATES - 2, UPDATES - 1])
def test_cuda_graph_tells_of_a_loss_that_is_not_finite(poisoned):
    batches = some_batches()
    batches[poisoned].reward[2, 1] = torch.nan
    agent = make_recorded_agent(obs_shapes=IMAGE | VECTORS, make_capture=CudaCapture)
    with pytest.raises(NonFiniteError, match="The world_model loss"):
        fit(agent, batches, accelerator="cuda", devices=1)
    assert all(x.isfinite().all() for x in weights_of(agent).values())


@pytest.mark.gpu
@on_cuda
def test_cuda_graph_acts_like_the_calls_it_was_captured_from(monkeypatch):
    replayed = act(CudaCapture, "cuda")
    monkeypatch.setattr(cuda_graph, "WARM_UP", 1000)
    agreed = [np.array_equal(x, y) for x, y in zip(replayed, act(CudaCapture, "cuda"), strict=True)]
    assert sum(agreed) >= len(agreed) - 1  # rounding may turn a draw


@pytest.mark.gpu
@on_cuda
def test_cuda_graph_acts_beside_the_update_like_the_calls_it_was_captured_from(monkeypatch):
    actions = []
    for warm_up in (WARM_UP, 1000):
        monkeypatch.setattr(cuda_graph, "WARM_UP", warm_up)
        agent = make_agent(obs_shapes=IMAGE | VECTORS).cuda()
        policy = CapturedSnapshotPolicy(
            *(agent.world_model, agent.actor_critic),
            make_capture=CudaCapture,
            exploration_noise=0.1,
            seed=0,
        )
        actions.append(play(policy, refresh=policy.refresh))
        assert [x.is_captured for x in policy._captured.values()] == [warm_up == WARM_UP] * 2
    agreed = [np.array_equal(x, y) for x, y in zip(*actions, strict=True)]
    assert sum(agreed) >= len(agreed) - 1
