"""Convolutions in all their forms, against torch's."""

import pytest
import torch
import torch.nn.functional as F
from tiny import B
from torch import nn
from torch.testing import assert_close

from dreamer.models.convolutions import (
    FEW_OUTPUTS,
    FEW_PIXELS_BF16,
    FEW_PIXELS_TRANSPOSED,
    strided,
    sub_pixel_edge,
    transposed,
    transposed_to_sub_pixels,
)

CHANNELS = 5


@pytest.mark.parametrize(("intel", "count"), [(True, 1), (True, 2), (False, 1)])
def test_intels_processors_multiply_all_of_one_image(monkeypatch, intel, count):
    monkeypatch.setattr("dreamer.models.convolutions.is_intel", lambda: intel)
    conv, calls = nn.Conv2d(5, 7, 4, stride=2), []
    conv.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(count, 5, 64, 64)
    assert_close(strided(x, conv), conv(x), rtol=1e-4, atol=1e-5)
    assert len(calls) == (1 if intel and count == 1 else 2)  # one of them is the test's


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


@pytest.mark.parametrize("size", [FEW_PIXELS_TRANSPOSED, FEW_PIXELS_TRANSPOSED + 2])
@pytest.mark.parametrize("outputs", [3, 4])
@pytest.mark.parametrize("kernel", [2, 3, 5, 6])
@pytest.mark.parametrize("intel", [True, False])
def test_a_transposed_convolution_equals_torchs_in_every_form(
    monkeypatch, intel, kernel, outputs, size
):
    monkeypatch.setattr("dreamer.models.convolutions.is_intel", lambda: intel)
    conv = nn.ConvTranspose2d(CHANNELS, outputs, kernel, 2)
    x = torch.randn(B, CHANNELS, size, size, requires_grad=True)
    inputs = [x, *conv.parameters()]
    assert_close(transposed(x, conv), conv(x), rtol=1e-4, atol=1e-5)
    assert_close(
        torch.autograd.grad(transposed(x, conv).square().sum(), inputs),
        torch.autograd.grad(conv(x).square().sum(), inputs),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(("few_pixels", "size"), [(2, 6), (6, 14)])
def test_patches_multiplied_in_bfloat16_are_near_torchs_float32(few_pixels, size):
    assert few_pixels <= FEW_PIXELS_BF16
    conv, back = nn.Conv2d(5, 7, 4, 2), nn.ConvTranspose2d(7, 5, 4, 2)
    x = torch.randn(100, 5, size, size, requires_grad=True)
    inputs = [x, *conv.parameters(), *back.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        ours = transposed(strided(x, conv), back)
    torchs = back(conv(x))
    pairs = [(ours, torchs)]
    grad = torch.randn_like(torchs)
    pairs += zip(
        torch.autograd.grad(ours, inputs, grad.bfloat16()),
        torch.autograd.grad(torchs, inputs, grad),
        strict=True,
    )
    for our, torch_s in pairs:
        assert (our - torch_s).norm() < 0.01 * torch_s.norm()


@pytest.mark.parametrize("edge", [2, 4])
def test_sub_pixels_in_bfloat16_are_near_those_in_float32(edge):
    conv = nn.ConvTranspose2d(CHANNELS, 1, 6, 2)
    x = torch.randn(B, CHANNELS, 6, 6, requires_grad=True)
    inputs = [x, *conv.parameters()]
    exact = transposed_to_sub_pixels(x, conv, edge)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = transposed_to_sub_pixels(x, conv, edge)
    assert rounded.dtype == torch.bfloat16
    grad, pairs = torch.randn_like(exact), [(rounded, exact)]
    pairs += zip(
        torch.autograd.grad(rounded, inputs, grad.bfloat16()),
        torch.autograd.grad(exact, inputs, grad),
        strict=True,
    )
    for in_bfloat16, in_float32 in pairs:
        assert (in_bfloat16 - in_float32).norm() < 0.01 * in_float32.norm()


@pytest.mark.parametrize(
    ("layer", "size"), [(nn.Conv2d, 6), (nn.ConvTranspose2d, 5), (nn.ConvTranspose2d, 7)]
)
@pytest.mark.parametrize("intel", [True, False])
def test_activations_may_change_products_in_place_without_autograd_copying_them(
    monkeypatch, intel, layer, size
):
    monkeypatch.setattr("dreamer.models.convolutions.is_intel", lambda: intel)
    # Of a view it would copy the gradient five times, the last time channels first.
    function = strided if layer is nn.Conv2d else transposed
    x = torch.randn(100, CHANNELS, size, size).contiguous(memory_format=torch.channels_last)
    y = function(x.requires_grad_(), layer(CHANNELS, 7, 4, 2))
    assert not y._is_view()
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("channels", "edge"), [(1, 2), (3, 2), (1, 4)])
def test_sub_pixels_are_those_of_the_transposed_convolution(channels, edge):
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
