"""Decoders with other likelihoods than a unit normal."""

import dataclasses
import math

import pytest
import torch
from tiny import IMAGE, VECTORS, WORLD_MODEL, A, gradients_of, make_batch
from torch.testing import assert_close

from dreamer.class_distributions import ClassImage
from dreamer.models.decoders import DecoderConfig, LikelihoodDecoder

SHAPES = IMAGE | VECTORS


def make_model(**options):
    decoder = DecoderConfig(**vars(WORLD_MODEL.decoder), **options)
    torch.manual_seed(0)
    return dataclasses.replace(WORLD_MODEL, decoder=decoder).build(SHAPES, A)


def test_squared_errors_are_normal_losses_without_their_constants(optimized):
    batch = make_batch(obs_shapes=SHAPES)
    torch.manual_seed(1)
    noise = torch.rand(7, 3, 4, 6)
    outputs, gradients = [], []
    for likelihood in ("normal", "squared_error"):
        model = make_model(likelihood=likelihood)
        optimized(model)
        outputs.append(model.loss(batch, noise=noise))
        outputs[-1].loss.backward()
        gradients.append(gradients_of(model))
    for key, shape in SHAPES.items():
        size = math.prod(shape)
        constant = torch.tensor(0.5 * math.log(2 * math.pi) * size)
        assert_close(
            outputs[0].obs_losses[key] - outputs[1].obs_losses[key], constant, rtol=1e-4, atol=1e-4
        )
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4)
    assert isinstance(model.decoder, LikelihoodDecoder)


def test_a_share_of_the_uniform_distribution_bounds_the_loss():
    logits = torch.tensor([100.0, 0.0, 0.0, 0.0]).reshape(4, 1, 1).expand(4, 2, 3)
    wrong = torch.ones(2, 3, dtype=torch.uint8)
    assert_close(ClassImage(logits, 0.1).log_prob(wrong), torch.tensor(6 * math.log(0.1 / 4)))
    assert ClassImage(logits).log_prob(wrong) < -500


def test_an_unbounded_class_image_is_a_softmax_in_every_cell():
    torch.manual_seed(0)
    logits = torch.randn(7, 4, 2, 3)
    image = ClassImage(logits)
    assert_close(image.mean.sum(-3), torch.ones(7, 2, 3))
    assert_close(image.mode, logits.argmax(-3).to(torch.uint8))
    value = torch.randint(4, (7, 2, 3), dtype=torch.uint8)
    expected = torch.nn.functional.cross_entropy(logits, value.long(), reduction="none").sum((1, 2))
    assert_close(image.log_prob(value), -expected)
    entropy = -(image.mean * image.mean.log()).sum((-3, -2, -1))
    assert_close(image.entropy, entropy)
    noise = torch.zeros_like(logits)
    noise[:, 2] = 1e3
    assert (image.sample(noise) == 2).all()


def test_the_share_must_be_below_one():
    with pytest.raises(ValueError, match=r"`min_prob` must be in \[0, 1\), got 1"):
        DecoderConfig(**vars(WORLD_MODEL.decoder), min_prob=1.0)
