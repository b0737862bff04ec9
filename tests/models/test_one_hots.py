"""Looking up columns against multiplying by the rows that are written out."""

import pytest
import torch
import torch.nn.functional as F
from tiny import B, D, K, S, T
from torch.testing import assert_close

from dreamer.models.linear import constant_weights
from dreamer.models.one_hots import one_hot_linear
from dreamer.types import OneHotFeatures

pytestmark = pytest.mark.usefixtures("products")


def one_hot_features() -> tuple[OneHotFeatures, torch.Tensor]:
    """Features (T, B, ...) by the positions of their ones, and the same written out."""
    torch.manual_seed(0)
    classes, deter = torch.randint(K, (T, B, S)), torch.randn(T, B, D)
    classes[..., 0] = 1  # and never another
    rows = F.one_hot(classes, K).flatten(-2).float()
    return OneHotFeatures(classes + K * torch.arange(S), deter), torch.cat([rows, deter], -1)


def test_a_dense_layer_of_positions_is_that_of_the_rows_gradients_included():
    features, dense = one_hot_features()
    weight, bias = torch.randn(5, S * K + D, requires_grad=True), torch.randn(5, requires_grad=True)
    looked_up = one_hot_linear(features, weight, bias)
    product = F.linear(dense, weight, bias)
    assert_close(looked_up, product)
    upstream = torch.randn(T, B, 5)
    assert_close(
        torch.autograd.grad(looked_up, (weight, bias), upstream),
        torch.autograd.grad(product, (weight, bias), upstream),
    )


def test_positions_are_sliced_along_time_as_rows_are():
    features, dense = one_hot_features()
    weight, bias = torch.randn(5, S * K + D), torch.zeros(5)
    assert_close(one_hot_linear(features[1:-2].detach(), weight, bias), (dense @ weight.T)[1:-2])


@torch.no_grad()
def test_constant_weights_are_read_once():
    features, dense = one_hot_features()
    weight, bias = torch.randn(5, S * K + D), torch.zeros(5)
    before = dense @ weight.T
    with constant_weights():
        assert_close(one_hot_linear(features, weight, bias), before)
        weight += 1  # which nobody may do here; it shows that the weights are not read again
        assert_close(one_hot_linear(features, weight, bias), before)
    assert_close(one_hot_linear(features, weight, bias), dense @ weight.T)


@torch.no_grad()
def test_mixed_precision_sums_rows_in_bfloat16():
    features, dense = one_hot_features()
    weight, bias = torch.randn(5, S * K + D), torch.randn(5)
    with torch.autocast("cpu", torch.bfloat16):
        y = one_hot_linear(features, weight, bias)
    assert y.dtype == torch.bfloat16
    assert_close(y.float(), F.linear(dense, weight, bias), rtol=0.05, atol=0.1)
