"""Both convolutional networks against plain torch layers, and what their kernels must fit."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny import DECODER, ENCODER, B, D, T
from torch import nn
from torch.testing import assert_close

from dreamer.models.vision import ConvDecoder, ConvEncoder, preprocess

CHANNELS, DEPTH = 5, 3


def with_random_norms(network: nn.Module) -> nn.Module:
    for name, parameter in network.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 2)
    return network


def normalise(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Over the channels of (N, C, h, w), written out."""
    if not list(norm.parameters()):
        return x
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    weight, bias = norm.parameters()
    return (x - mean) / (variance + 1e-3).sqrt() * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (torch.tensor([0, 51, 255], dtype=torch.uint8), [-0.5, -0.3, 0.5]),
        (torch.tensor([3, -4]), [3.0, -4.0]),
        (torch.tensor([True, False]), [1.0, 0.0]),
        (torch.tensor([0.25, 300.0], dtype=torch.float64), [0.25, 300.0]),
    ],
)
def test_bytes_are_scaled_and_all_else_is_a_float(raw, expected):
    before = raw.clone()
    assert_close(preprocess(raw), torch.tensor(expected))
    assert torch.equal(raw, before)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_encoder_shrinks_64_to_31_14_6_2_and_flattens_height_width_channel(norm):
    config = dataclasses.replace(ENCODER.image, norm=norm)
    encoder = with_random_norms(ConvEncoder(CHANNELS, config))
    image = torch.randn(B, CHANNELS, 64, 64)
    x, sizes = image, []
    for conv, layer_norm in zip(encoder.convs, encoder.norms, strict=True):
        x = F.elu(normalise(layer_norm, conv(x)))
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(3, 31, 31), (6, 14, 14), (12, 6, 6), (24, 2, 2)]
    expected = torch.stack([x[:, :, i, j] for i in (0, 1) for j in (0, 1)], 1).flatten(1)
    assert_close(encoder(image), expected, rtol=1e-4, atol=1e-5)
    assert encoder.output_size == 8 * DEPTH * 4


def test_encoder_keeps_leading_axes():
    encoder = ConvEncoder(CHANNELS, ENCODER.image)
    image = torch.randn(T, B, CHANNELS, 64, 64)
    embed = encoder(image)
    assert embed.shape == (T, B, encoder.output_size)
    assert_close(embed[2, 1], encoder(image[2, 1:2])[0])


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_decoder_equals_torchs_transposed_convolutions_with_their_gradients(norm):
    config = dataclasses.replace(DECODER.image, norm=norm)
    decoder = with_random_norms(ConvDecoder(D, CHANNELS, config))
    for conv in decoder.convs:
        nn.init.uniform_(conv.bias)
    features = torch.randn(B, D, requires_grad=True)

    x = decoder.dense(features)[..., None, None]
    norms = [*decoder.norms, nn.Identity()]  # the last layer has none
    for i, (conv, layer_norm) in enumerate(zip(decoder.convs, norms, strict=True)):
        x = normalise(layer_norm, conv(x if i == 0 else F.elu(x)))
    image = decoder(features)
    assert image.shape == (B, CHANNELS, 64, 64)
    assert_close(image, x, rtol=1e-4, atol=1e-5)

    direction = torch.randn_like(image)
    inputs = [features, *decoder.parameters()]
    expected = torch.autograd.grad((x * direction).sum(), inputs)
    actual = torch.autograd.grad((image * direction).sum(), inputs)
    assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_decoder_keeps_leading_axes():
    decoder = ConvDecoder(D, CHANNELS, DECODER.image)
    features = torch.randn(T, B, D)
    image = decoder(features)
    assert image.shape == (T, B, CHANNELS, 64, 64)
    assert_close(image[2, 1], decoder(features[2, 1:2])[0], rtol=1e-4, atol=1e-5)


def test_encoder_refuses_kernels_that_leave_no_pixel():
    config = dataclasses.replace(ENCODER.image, kernels=[4, 4, 4, 4, 4])
    with pytest.raises(ValueError, match=r"`kernels` must fit 64 pixels, got \[4, 4, 4, 4, 4]"):
        ConvEncoder(CHANNELS, config)


@pytest.mark.parametrize(("kernels", "size"), [([5, 5, 6, 5], 63), ([5, 5, 6], 30), ([64], 64)])
def test_decoder_refuses_kernels_that_make_another_size(kernels, size):
    config = dataclasses.replace(DECODER.image, kernels=kernels)
    with pytest.raises(ValueError, match=f"`kernels` must .* 64 pixels, got .* make {size}"):
        ConvDecoder(D, CHANNELS, config)


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="`activation` must be elu, .*, got `ela`"):
        dataclasses.replace(ENCODER.image, activation="ela")
