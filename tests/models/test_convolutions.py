"""Convolutions in all their forms, against torch's."""

import pytest
import torch
import torch.nn.functional as F
from tiny import B
from torch import nn
from torch.testing import assert_close

from dreamer.models.convolutions import (
    FEW_OUTPUTS,
    strided,
    sub_pixel_edge,
    sub_pixels,
    transposed,
    transposed_to_sub_pixels,
)

CHANNELS = 5


@pytest.mark.parametrize("few", [0, FEW_OUTPUTS, 1000])
@pytest.mark.parametrize(("kernel", "size"), [(4, 6), (4, 14), (3, 9)])
def test_a_strided_convolution_equals_torchs_in_every_form(monkeypatch, kernel, size, few):
    monkeypatch.setattr("dreamer.models.convolutions.FEW_OUTPUTS", few)
    conv = nn.Conv2d(5, 7, kernel, stride=2)
    x = torch.randn(B, 5, size, size, requires_grad=True)
    inputs = [x, *conv.parameters()]
    ours, torchs = strided(x.contiguous(memory_format=torch.channels_last), conv), conv(x)
    assert_close(ours, torchs, rtol=1e-4, atol=1e-5)
    assert_close(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(torchs.square().sum(), inputs),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("outputs", [3, 4])
@pytest.mark.parametrize("kernel", [2, 3, 5, 6])
def test_a_transposed_convolution_equals_torchs_in_every_form(kernel, outputs):
    conv = nn.ConvTranspose2d(CHANNELS, outputs, kernel, 2)
    x = torch.randn(B, CHANNELS, 7, 7, requires_grad=True)
    inputs = [x, *conv.parameters()]
    assert_close(transposed(x, conv), conv(x), rtol=1e-4, atol=1e-5)
    assert_close(
        torch.autograd.grad(transposed(x, conv).square().sum(), inputs),
        torch.autograd.grad(conv(x).square().sum(), inputs),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(("channels", "edge"), [(1, 2), (3, 2), (1, 4)])
def test_sub_pixels_are_those_of_torch_and_of_the_transposed_convolution(channels, edge):
    image = torch.randn(B, channels, 16, 16)
    assert torch.equal(sub_pixels(image, edge), F.pixel_unshuffle(image, edge))
    conv = nn.ConvTranspose2d(CHANNELS, channels, 6, 2)
    x = torch.randn(B, CHANNELS, 6, 6, requires_grad=True)
    inputs = [x, *conv.parameters()]
    ours, torchs = transposed_to_sub_pixels(x, conv, edge), F.pixel_unshuffle(conv(x), edge)
    assert_close(ours, torchs, rtol=1e-4, atol=1e-5)
    grad = torch.randn_like(ours)
    assert_close(
        torch.autograd.grad(ours, inputs, grad),
        torch.autograd.grad(torchs, inputs, grad),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(("channels", "edge"), [(1, 4), (2, 2), (3, 2)])
def test_cpus_make_grey_images_by_sixteen_pixels(channels, edge):
    assert sub_pixel_edge(nn.ConvTranspose2d(CHANNELS, channels, 6, 2), torch.device("cpu")) == edge
