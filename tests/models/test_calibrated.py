"""Normals whose standard deviation follows from their errors."""

import dataclasses
import math

import pytest
import torch
from tiny import VECTORS, WORLD_MODEL, A, gradients_of, head, make_batch
from torch.testing import assert_close

from dreamer.models.calibrated import (
    FLOOR,
    CalibratedDecoderConfig,
    CalibratedHeadConfig,
    CalibratedLayer,
)

SHAPE = (2,)
STD = torch.tensor([0.03, 20.0])


def make_layer(min_std=0.01):
    torch.manual_seed(0)
    return CalibratedLayer(4, SHAPE, min_std)


def make_model(obs_shapes=VECTORS):
    options = {k: v for k, v in vars(head()).items() if k != "distribution"}
    reward = CalibratedHeadConfig(**options, distribution="mse", gradients=True, scale=1.0)
    config = dataclasses.replace(
        WORLD_MODEL,
        decoder=CalibratedDecoderConfig(**vars(WORLD_MODEL.decoder)),
        heads={**WORLD_MODEL.heads, "reward": reward},
    )
    torch.manual_seed(0)
    return config.build(obs_shapes, A)


def test_the_standard_deviation_becomes_that_of_the_errors():
    layer, x = make_layer(), torch.randn(500, 4)
    for _ in range(50):
        prediction = layer(x)
        value = prediction.mean.detach() + STD * torch.randn(500, 2)
        log_prob = prediction.log_prob(value)
    assert_close(layer.running_std, STD, rtol=0.05, atol=0)
    assert_close(layer(x).std, layer.running_std)
    # The loss of the most likely normal.
    expected = -(0.5 + 0.5 * math.log(2 * math.pi) + STD.log()).sum()
    assert_close(log_prob.mean(), expected, rtol=0.05, atol=0)


def test_the_loss_means_the_same_in_other_units():
    x, value = torch.randn(50, 4), torch.randn(50, 2)
    losses, gradients = [], []
    for unit in (1.0, 1000.0):
        layer = make_layer()
        with torch.no_grad():
            for weight in layer.parameters():
                weight.mul_(unit)
        loss = -layer(x).log_prob(unit * value).mean()
        (gradient,) = torch.autograd.grad(loss, layer.out.weight)
        losses.append(loss.detach())
        gradients.append(unit * gradient)
    assert_close(losses[1] - losses[0], torch.tensor(2 * math.log(1000.0)), rtol=1e-4, atol=0)
    assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_perfect_predictions_keep_a_share_of_the_spread():
    layer, x = make_layer(min_std=0.1), torch.randn(5000, 4)
    prediction = layer(x)
    value = prediction.mean.detach()
    prediction.log_prob(value)
    assert_close(layer.running_std, 0.1 * value.std(0), rtol=1e-3, atol=0)
    constant = make_layer()
    constant(x).log_prob(constant(x).mean.detach() * 0)
    assert (constant.running_std >= FLOOR).all()
    assert constant(x).log_prob(torch.zeros(5000, 2)).isfinite().all()


def test_only_training_changes_it_and_checkpoints_keep_it():
    layer, x = make_layer(), torch.randn(50, 4)
    layer(x).log_prob(torch.randn(50, 2))
    before = layer.running_std
    with torch.no_grad():
        layer(x).log_prob(100 * torch.randn(50, 2))
    assert_close(layer.running_std, before, rtol=0, atol=0)
    other = make_layer()
    other.load_state_dict(layer.state_dict())
    assert_close(other.running_std, before, rtol=0, atol=0)


def test_the_world_model_calibrates_vectors_and_rewards(optimized):
    model, plain = make_model(), WORLD_MODEL.build(VECTORS, A)
    optimized(model)
    batch = make_batch(obs_shapes=VECTORS)
    model.loss(batch).loss.backward()
    assert all(x.isfinite().all() for x in gradients_of(model).values())
    layers = [x for x in model.modules() if isinstance(x, CalibratedLayer)]
    assert [x.shape for x in layers] == [*VECTORS.values(), ()]
    assert all((x.running_std > 0).all() and x.updates == 1 for x in layers)
    # The weights are those of the plain model, so that one can start from the other.
    assert [*model.state_dict()] != [*plain.state_dict()]
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]


def test_other_likelihoods_are_refused():
    with pytest.raises(ValueError, match="`likelihood` must be normal, got `squared_error`"):
        CalibratedDecoderConfig(**vars(WORLD_MODEL.decoder), likelihood="squared_error")
