"""Dense layers and heads: order of operations, shapes, ranges, initial weights, refusals."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny import A, B, D, K, T, head
from torch.testing import assert_close

from dreamer.models.heads import Head, HeadConfig
from dreamer.models.layers import MLP, DenseLayer, LayerNorm, make_norm

UNITS = 10
NAMES = ["mse", "normal", "binary", "onehot"]


def test_dense_layer_normalises_before_it_activates():
    layer = DenseLayer(D, UNITS, activation="elu", norm="layer")
    with torch.no_grad():
        layer.norm.weight.uniform_(0.5, 2)
        layer.norm.bias.uniform_(-1, 1)
    x = torch.randn(T, B, D)
    y = layer.linear(x)
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-3).sqrt()
    assert_close(layer(x), F.elu(y * layer.norm.weight + layer.norm.bias))


def test_layer_norm_computes_in_float32():
    assert LayerNorm(K)(torch.randn(B, K, dtype=torch.bfloat16)).dtype == torch.float32


def test_mlp_chains_its_layers():
    mlp = MLP(D, [UNITS, K], activation="tanh", norm="none")
    x = torch.randn(T, B, D)
    assert_close(mlp(x), torch.tanh(mlp[1].linear(torch.tanh(mlp[0].linear(x)))))
    assert mlp.output_size == K


def test_mlp_without_layers_passes_its_input_on():
    mlp = MLP(D, [], activation="elu", norm="none")
    x = torch.randn(B, D)
    assert mlp.output_size == D
    assert_close(mlp(x), x)


@pytest.mark.parametrize("name", NAMES)
def test_head_gives_one_distribution_per_step(name):
    torch.manual_seed(2)
    distribution = Head(D, (A,), head(name))(torch.randn(T, B, D))
    sample = distribution.sample()
    assert sample.shape == distribution.mean.shape == (T, B, A)
    assert distribution.log_prob(sample.detach()).shape == distribution.entropy.shape == (T, B)


@pytest.mark.parametrize("name", ["mse", "binary"])
def test_scalar_head_has_no_trailing_axis(name):
    distribution = Head(D, (), head(name))(torch.randn(T, B, D))
    assert distribution.mean.shape == distribution.log_prob(torch.zeros(T, B)).shape == (T, B)


def test_every_dense_layer_of_a_head_has_the_configured_norm_and_activation():
    trunk = Head(D, (A,), HeadConfig(3, 10, "tanh", "layer", "mse")).trunk
    assert [type(layer.norm) for layer in trunk] == [LayerNorm] * 3
    assert {layer.activation for layer in trunk} == {torch.tanh}


def test_head_starts_with_glorot_kernels_and_zero_biases():
    network = Head(D, (A,), head("normal"))
    for layer in [network.trunk[0].linear, network.out.std]:
        bound = (6 / sum(layer.weight.shape)) ** 0.5
        assert 0.8 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "ela"}, "`activation` must be elu, .* or tanh, got `ela`"),
        ({"distribution": "gaussian"}, "`distribution` must be mse, .*, got `gaussian`"),
        ({"layers": -1}, "`layers` must be at least 0, got -1"),
        ({"units": 0}, "`units` must be at least 1, got 0"),
    ],
)
def test_head_config_refuses_what_it_does_not_know(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(HeadConfig(2, 10, "elu", "none", "mse"), **change)


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="`norm` to be 'none' or 'layer', actually: 'batch'"):
        make_norm("batch", K)
