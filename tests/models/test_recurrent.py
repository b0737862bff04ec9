"""The cell against its equations, and loops of linear layers against autograd's own."""

import pytest
import torch
import torch.nn.functional as F
from tiny import B, D, T
from torch import Tensor, nn
from torch.testing import assert_close

from dreamer.models.recurrent import GRUCell, LoopLinear

M = 13
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # sums are made in another order


def by_the_equations(cell: GRUCell, x: Tensor, deter: Tensor) -> Tensor:
    gates = torch.cat([x, deter], -1) @ cell.linear.weight.T + cell.linear.bias
    gates = (gates - gates.mean(-1, keepdim=True)) / (
        gates.var(-1, correction=0, keepdim=True) + 1e-3
    ).sqrt()
    gates = gates * cell.norm.weight + cell.norm.bias
    reset, candidate, update = gates[:, :D], gates[:, D : 2 * D], gates[:, 2 * D :]
    reset, update = 1 / (1 + (-reset).exp()), 1 / (1 + (1 - update).exp())
    return update * torch.tanh(reset * candidate) + (1 - update) * deter


def test_gru_equals_its_equations_gradients_included():
    cell = GRUCell(M, D, layer_norm=True)
    nn.init.uniform_(cell.norm.weight, 0.5, 2)
    nn.init.uniform_(cell.norm.bias)
    x, deter = torch.randn(B, M, requires_grad=True), torch.randn(B, D, requires_grad=True)
    expected = by_the_equations(cell, x, deter)
    assert_close(cell(x, deter), expected)
    inputs = [x, deter, *cell.parameters()]
    assert_close(gradients(cell(x, deter), *inputs), gradients(expected, *inputs))


def test_gru_without_layer_norm_has_none():
    names = [name for name, _ in GRUCell(M, D, layer_norm=False).named_parameters()]
    assert names == ["linear.weight", "linear.bias"]


def unrolled(linear, x: Tensor, offset: Tensor | None = None) -> Tensor:
    """A small recurrent net over (T, B, D) that reads `linear` at every step: (T, B, D)."""
    state, states = torch.zeros_like(x[0]), []
    for t in range(T):
        step = linear(state + x[t]) if offset is None else linear(state + x[t], offset[t])
        state = torch.tanh(step.float())
        states.append(state)
    return torch.stack(states)


def gradients(states: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(states.square().sum(), inputs))


@pytest.mark.usefixtures("products")
def test_a_layer_in_a_loop_has_the_values_and_gradients_of_a_linear_layer():
    weight = (torch.randn(D, D) / D**0.5).requires_grad_()
    bias = torch.randn(D, requires_grad=True)
    x = torch.randn(T, B, D, requires_grad=True)
    expected = unrolled(lambda y: F.linear(y, weight, bias), x)
    states = unrolled(LoopLinear(weight, bias), x)
    assert_close(states, expected, **TOLERANCE)
    assert_close(
        gradients(states, weight, bias, x), gradients(expected, weight, bias, x), **TOLERANCE
    )


@pytest.mark.usefixtures("products")
def test_an_offset_takes_the_place_of_the_bias():
    weight = (torch.randn(D, D) / D**0.5).requires_grad_()
    x, offset = torch.randn(2, T, B, D, requires_grad=True)
    expected = unrolled(lambda y, add: F.linear(y, weight) + add, x, offset)
    states = unrolled(LoopLinear(weight), x, offset)
    assert_close(states, expected, **TOLERANCE)
    assert_close(
        gradients(states, weight, x, offset), gradients(expected, weight, x, offset), **TOLERANCE
    )


@pytest.mark.usefixtures("products")
def test_a_part_of_a_weight_gets_its_part_of_the_gradient():
    weight = (torch.randn(D, 2 * D) / D**0.5).requires_grad_()
    x, offset = torch.randn(2, T, B, D)
    for layer in (LoopLinear, lambda w: lambda y, add: F.linear(y, w) + add):
        left, right = weight.split(D, -1)
        weight.grad = None
        (unrolled(layer(left), x, offset) + unrolled(layer(right), x, offset)).sum().backward()
        if layer is LoopLinear:
            mine = weight.grad
    assert_close(mine, weight.grad, **TOLERANCE)


@pytest.mark.usefixtures("products")
def test_frozen_weights_get_no_gradient_and_let_it_through():
    weight, bias = torch.randn(D, D) / D**0.5, torch.randn(D)
    x = torch.randn(T, B, D, requires_grad=True)
    expected = unrolled(lambda y: F.linear(y, weight, bias), x)
    states = unrolled(LoopLinear(weight, bias), x)
    assert_close(gradients(states, x), gradients(expected, x), **TOLERANCE)


def test_without_a_graph_it_only_computes():
    weight, bias = torch.randn(D, D, requires_grad=True), torch.randn(D, requires_grad=True)
    with torch.no_grad():
        layer = LoopLinear(weight, bias)
        x = torch.randn(B, D)
        assert_close(layer(x), F.linear(x, weight, bias))
        assert not layer(x).requires_grad


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("offset", [False, True])
def test_mixed_precision_computes_in_bfloat16_and_gives_gradients_in_float32(offset):
    weight = (torch.randn(D, D) / D**0.5).requires_grad_()
    bias = None if offset else torch.randn(D, requires_grad=True)
    x = torch.randn(T, B, D, requires_grad=True)
    add = [torch.randn(T, B, D)] if offset else []
    parameters = [p for p in (weight, bias) if p is not None]
    exact = gradients(unrolled(LoopLinear(weight, bias), x, *add), *parameters, x)
    with torch.autocast("cpu", torch.bfloat16):
        layer = LoopLinear(weight, bias)
        assert layer(x[0], *(y[0] for y in add)).dtype == torch.bfloat16
        mixed = gradients(unrolled(LoopLinear(weight, bias), x, *add), *parameters, x)
    for left, right in zip(mixed, exact, strict=True):
        assert left.dtype == torch.float32
        cosine = F.cosine_similarity(left.flatten(), right.flatten(), dim=0)
        assert 0.99 < cosine < 1 - 1e-9
