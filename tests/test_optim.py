"""The optimiser against a plain NumPy loop, and what a checkpoint keeps of it."""

import copy
import dataclasses
import io

import numpy as np
import pytest
import torch
from tiny import A, B, K
from torch.nn import Parameter
from torch.testing import assert_close

from dreamer.optim import (
    AdamWConfig,
    EpsilonHatAdam,
    OptimizerConfig,
    clip_gradients,
    set_learning_rate,
)

STEPS = 6
CONFIG = OptimizerConfig(learning_rate=0.01, epsilon=0.02, clip=None, weight_decay=0.1)
ADAMW = AdamWConfig(learning_rate=0.01, epsilon=0.02, clip=2.0, weight_decay=0.1)
SHAPES = (B, K), (A,)


def gradients(seed: int = 0) -> list[list[np.ndarray]]:
    """Of every step, for every parameter."""
    generator = np.random.default_rng(seed)
    return [[generator.normal(size=s) * 10.0**-t for s in SHAPES] for t in range(STEPS)]


def start() -> list[Parameter]:
    torch.manual_seed(0)
    return [Parameter(torch.randn(s)) for s in SHAPES]


def apply(optimizer: torch.optim.Optimizer, gradient: list[np.ndarray]) -> None:
    for parameter, g in zip(optimizer.param_groups[0]["params"], gradient, strict=True):
        parameter.grad = torch.tensor(g, dtype=torch.float32)
    optimizer.step()


def test_steps_equal_a_plain_loop():
    parameters = start()
    expected = [p.detach().double().numpy() for p in parameters]
    optimizer = EpsilonHatAdam(parameters, CONFIG)
    first, second = ([np.zeros(s) for s in SHAPES] for _ in range(2))
    for t, gradient in enumerate(gradients(), 1):
        apply(optimizer, gradient)
        rate = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        for i, g in enumerate(gradient):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            expected[i] = 0.9 * expected[i] - rate * first[i] / (np.sqrt(second[i]) + 0.02)
        for parameter, e in zip(parameters, expected, strict=True):
            assert_close(parameter.detach().double().numpy(), e, rtol=1e-5, atol=1e-6)


def test_first_step_is_half_the_rate_where_the_gradient_is_32_epsilon():
    parameter = Parameter(torch.zeros(A))
    optimizer = EpsilonHatAdam([parameter], dataclasses.replace(CONFIG, weight_decay=0.0))
    apply(optimizer, [np.array([0.02 / 0.001**0.5, 1e6])])
    assert_close(parameter.detach(), torch.tensor([-0.005, -0.01]))


def test_parameter_without_gradient_decays_and_does_nothing_else():
    used, unused = start()
    before = unused.detach().clone()
    optimizer = EpsilonHatAdam([used, unused], CONFIG)
    used.grad = torch.ones_like(used)
    optimizer.step()
    optimizer.step()
    assert_close(unused.detach(), 0.81 * before)


def test_decay_does_not_scale_with_the_learning_rate():
    parameter = Parameter(torch.ones(A))
    optimizer = EpsilonHatAdam([parameter], dataclasses.replace(CONFIG, learning_rate=1e-12))
    apply(optimizer, [np.ones(A)])
    assert_close(parameter.detach(), torch.full((A,), 0.9))


def test_closure_is_evaluated_with_gradients_before_the_step():
    parameter = Parameter(torch.ones(A))
    optimizer = EpsilonHatAdam([parameter], dataclasses.replace(CONFIG, weight_decay=0.0))

    def closure():
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert_close(optimizer.step(closure).item(), 2.0)
    assert (parameter < 1).all()


def with_gradient(gradient: list[float]) -> Parameter:
    parameter = Parameter(torch.zeros(len(gradient)))
    parameter.grad = torch.tensor(gradient)
    return parameter


def test_clipping_scales_all_gradients_to_the_limit_and_returns_the_norm_before():
    parameters = [with_gradient([3.0, 0.0]), with_gradient([4.0]), Parameter(torch.zeros(B))]
    norm = clip_gradients(parameters, 0.5)
    assert_close(norm, torch.tensor(5.0))
    assert_close(parameters[0].grad, torch.tensor([0.3, 0.0]))
    assert_close(parameters[1].grad, torch.tensor([0.4]))
    assert parameters[2].grad is None


@pytest.mark.parametrize("limit", [None, 5.0, 100.0])
def test_gradients_within_the_limit_are_left_alone(limit):
    parameter = with_gradient([3.0, 4.0])
    assert_close(clip_gradients([parameter], limit), torch.tensor(5.0))
    assert_close(parameter.grad, torch.tensor([3.0, 4.0]), rtol=0, atol=0)


def test_optimizer_continues_identically_from_a_saved_state():
    parameters = start()
    optimizer = EpsilonHatAdam(parameters, CONFIG)
    for gradient in gradients()[:3]:
        apply(optimizer, gradient)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)

    restored = [Parameter(p.detach().clone()) for p in parameters]
    other = EpsilonHatAdam(restored, CONFIG)
    other.load_state_dict(torch.load(file, weights_only=True))
    for gradient in gradients()[3:]:
        apply(optimizer, gradient)
        apply(other, gradient)
    assert_close(restored, parameters, rtol=0, atol=0)


@pytest.mark.parametrize("lies_last", [(True, True), (True, False), (False, True)])
def test_kernels_learn_the_same_however_they_and_their_gradients_lie_in_memory(lies_last):
    formats = [torch.channels_last if last else torch.contiguous_format for last in lies_last]
    torch.manual_seed(0)
    expected, parameter = (Parameter(torch.randn(B, 3, 4, 4)) for _ in range(2))
    parameter.data = expected.detach().clone(memory_format=formats[0])
    reference, optimizer = (EpsilonHatAdam([p], CONFIG) for p in (expected, parameter))
    for _ in range(STEPS):
        expected.grad = torch.randn_like(expected)
        parameter.grad = expected.grad.clone(memory_format=formats[1])
        reference.step()
        optimizer.step()
    assert parameter.is_contiguous(memory_format=formats[0])
    assert_close(parameter, expected, rtol=1e-5, atol=1e-6)


def test_a_state_saved_with_channels_first_goes_on_with_channels_last():
    torch.manual_seed(0)
    first = Parameter(torch.randn(B, 3, 4, 4))
    optimizer = EpsilonHatAdam([first], CONFIG)
    first.grad = torch.randn_like(first)
    optimizer.step()
    last = Parameter(first.detach().clone(memory_format=torch.channels_last))
    other = EpsilonHatAdam([last], CONFIG)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(STEPS):
        first.grad = torch.randn_like(first)
        last.grad = first.grad.clone(memory_format=torch.channels_last)
        optimizer.step()
        other.step()
    assert_close(last, first, rtol=0, atol=0)


def test_a_learning_rate_that_is_changed_by_hand_counts():
    parameter = Parameter(torch.zeros(A))
    optimizer = EpsilonHatAdam([parameter], dataclasses.replace(CONFIG, weight_decay=0.0))
    optimizer.param_groups[0]["lr"] = 0.5
    apply(optimizer, [np.full(A, 1e6)])
    assert_close(parameter.detach(), torch.full((A,), -0.5))


def test_a_rate_that_follows_a_schedule_keeps_its_place_and_counts():
    parameter = Parameter(torch.zeros(A))
    config = dataclasses.replace(CONFIG, weight_decay=0.0, learning_rate="warmup(100,0.5)")
    optimizer = EpsilonHatAdam([parameter], config)
    apply(optimizer, [np.full(A, 1e6)])
    assert_close(parameter.detach(), torch.zeros(A))  # the schedule begins with 0
    set_learning_rate(optimizer, 0.25)
    rate = optimizer.param_groups[0]["lr"]
    apply(optimizer, [np.full(A, 1e6)])
    assert_close(parameter.detach(), torch.full((A,), -0.25))
    set_learning_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] is rate
    apply(optimizer, [np.full(A, 1e6)])
    assert_close(parameter.detach(), torch.full((A,), -0.75))


def test_a_first_gradient_that_comes_late_leaves_the_steps_of_the_others_alone():
    (late, early), (_, alone) = start(), start()
    optimizer, reference = EpsilonHatAdam([late, early], CONFIG), EpsilonHatAdam([alone], CONFIG)
    for number, (gradient, other) in enumerate(gradients()):
        early.grad, alone.grad = (torch.tensor(other, dtype=torch.float32) for _ in range(2))
        if number == STEPS - 1:
            late.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        reference.step()
    assert_close(early, alone, rtol=0, atol=0)


def test_step_that_is_not_allowed_changes_nothing():
    parameters = start()
    optimizer = EpsilonHatAdam(parameters, CONFIG)
    for allowed in (0.0, 1.0, 0.0):
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1.0 if allowed else torch.nan)
        before = copy.deepcopy((parameters, optimizer.state_dict()["state"]))
        optimizer.step(allowed=torch.tensor(allowed))
        after = (parameters, optimizer.state_dict()["state"])
        if allowed:
            assert not torch.equal(after[0][0], before[0][0])
        elif before[1]:
            assert_close(after, before, rtol=0, atol=0)
        else:
            assert_close(after[0], before[0], rtol=0, atol=0)
            assert {s["step"].item() for s in after[1].values()} == {0}


def test_a_state_of_an_older_program_goes_on():
    expected, parameters = start(), start()
    reference, old = (EpsilonHatAdam(p, CONFIG) for p in (expected, parameters))
    for gradient in gradients()[:3]:
        apply(reference, gradient)
        apply(old, gradient)
    # It let torch scale decay and bias correction, and wrote them down.
    state = copy.deepcopy(old.state_dict())
    correction = (1 - 0.999**3) ** 0.5
    state["param_groups"][0] |= {"updates": 3, "eps": CONFIG.epsilon / correction}
    state["param_groups"][0] |= {"weight_decay": 0.1 / 0.01, "decoupled_weight_decay": True}
    assert state["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}

    optimizer = EpsilonHatAdam(parameters, CONFIG)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["eps"] == CONFIG.epsilon
    for gradient in gradients()[3:]:
        apply(reference, gradient)
        apply(optimizer, gradient)
    assert_close(parameters, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be greater than 0, got 0.0"),
        ({"learning_rate": "cosine(1,2)"}, "must be a number greater than 0, linear.*got `cosine"),
        ({"learning_rate": "exp(1,-1e-9,5)"}, "a schedule whose values are at least 0, got `exp"),
        ({"epsilon": -1.0}, "`epsilon` must be greater than 0, got -1.0"),
        ({"clip": 0.0}, "`clip` must be a number greater than 0 or null, got 0.0"),
        ({"weight_decay": 1.0}, r"`weight_decay` must be in \[0, 1\), got 1.0"),
    ],
)
def test_config_refuses_values_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_adamw_equals_a_plain_loop():
    """With bias corrections before epsilon, and a decay times the learning rate."""
    parameters = start()
    expected = [p.detach().double().numpy() for p in parameters]
    optimizer = ADAMW.build(parameters)
    first, second = ([np.zeros(s) for s in SHAPES] for _ in range(2))
    for t, gradient in enumerate(gradients(), 1):
        apply(optimizer, gradient)
        for i, g in enumerate(gradient):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            mean, square = first[i] / (1 - 0.9**t), second[i] / (1 - 0.999**t)
            expected[i] = (1 - 0.01 * 0.1) * expected[i] - 0.01 * mean / (np.sqrt(square) + 0.02)
        for parameter, e in zip(parameters, expected, strict=True):
            assert_close(parameter.detach().double().numpy(), e, rtol=1e-5, atol=1e-6)


def test_adamw_leaves_parameters_without_gradient_alone():
    parameters = start()
    before = parameters[1].detach().clone()
    optimizer = ADAMW.build(parameters)
    parameters[0].grad = torch.ones_like(parameters[0])
    optimizer.step()
    assert_close(parameters[1].detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize("allowed", [0.0, 1.0])
def test_adamw_steps_only_if_it_is_allowed(allowed):
    parameters, others = start(), start()
    optimizer, other = ADAMW.build(parameters), ADAMW.build(others)
    steps = gradients()
    for each in (optimizer, other):
        apply(each, steps[0])
    for parameter, g in zip(parameters, steps[1], strict=True):
        parameter.grad = torch.tensor(g * (1 if allowed else np.nan), dtype=torch.float32)
    optimizer.step(allowed=torch.tensor(allowed))
    for each in [other] if allowed else []:
        apply(each, steps[1])
    apply(optimizer, steps[2])
    apply(other, steps[2])  # the state is that of the allowed steps, too
    for parameter, expected in zip(parameters, others, strict=True):
        assert_close(parameter, expected, rtol=0, atol=0)


def test_adamw_continues_identically_from_a_saved_state():
    parameters, others = start(), start()
    optimizer, other = ADAMW.build(parameters), ADAMW.build(others)
    apply(optimizer, gradients()[0])
    with torch.no_grad():
        for parameter, copied in zip(others, parameters, strict=True):
            parameter.copy_(copied)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each in (optimizer, other):
        apply(each, gradients()[1])
    for parameter, expected in zip(others, parameters, strict=True):
        assert_close(parameter, expected, rtol=0, atol=0)


def test_adamw_clips_as_torch_does():
    ours, theirs = start(), start()
    for parameter in (*ours, *theirs):
        parameter.grad = torch.full_like(parameter, 1e-3 * parameter.numel())
    config = dataclasses.replace(ADAMW, clip=1e-5)  # so small that torch's 1e-6 is seen
    norm = config.clip_gradients(ours)
    assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, 1e-5))
    for parameter, expected in zip(ours, theirs, strict=True):
        assert_close(parameter.grad, expected.grad)
