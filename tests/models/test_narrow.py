"""Narrow networks in their form for many images, against the usual form."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from tiny import DECODER, ENCODER, D
from torch import Tensor, nn
from torch.testing import assert_close

from dreamer.models import narrow
from dreamer.models.vision import ConvDecoder, ConvEncoder

N = 5


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Which functions of the module were called; they take any number of images."""
    monkeypatch.setattr(narrow, "MANY_IMAGES", 1)
    called = []

    def count(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*args):
            called.append(function.__name__)
            return function(*args)

        return counted

    for function in (narrow.encode, narrow.score):
        monkeypatch.setattr(narrow, function.__name__, count(function))
    return called


def some_images(channels: int = 3) -> Tensor:
    return torch.randint(256, (N, channels, 64, 64), dtype=torch.uint8)


def with_biases(network: nn.Module) -> nn.Module:
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter)
    return network


def encoder(channels: int = 3, **changes) -> ConvEncoder:
    return with_biases(ConvEncoder(channels, dataclasses.replace(ENCODER.image, **changes)))


def decoder(channels: int = 3, **changes) -> ConvDecoder:
    return with_biases(ConvDecoder(D, channels, dataclasses.replace(DECODER.image, **changes)))


def results(loss: Callable[[], Tensor], inputs: list[Tensor], monkeypatch) -> list[list[Tensor]]:
    """A tensor and the gradients of its sum of squares, in the usual form and in that for many."""
    found = []
    for many in (N + 1, 1):
        monkeypatch.setattr(narrow, "MANY_IMAGES", many)
        y = loss()
        found.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    return found


def assert_near(actual: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert theirs.norm() > 0
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kernels", [[4, 4, 4, 4], [4, 4, 3, 3], [4, 4, 5], [4, 4]])
@pytest.mark.parametrize("activation", ["elu", "silu"])
def test_encoders_embed_as_in_the_usual_form(monkeypatch, calls, channels, kernels, activation):
    network, image = (
        encoder(channels, kernels=kernels, activation=activation),
        some_images(channels),
    )
    usual, many = results(lambda: network(image), [*network.parameters()], monkeypatch)
    assert calls == ["encode"]
    assert_near(many, usual)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kernels", [[5, 5, 6, 6], [13, 6, 6], [2, 3, 5, 6, 6]])
@pytest.mark.parametrize("activation", ["elu", "silu"])
def test_decoders_score_as_in_the_usual_form(monkeypatch, calls, channels, kernels, activation):
    network, image = (
        decoder(channels, kernels=kernels, activation=activation),
        some_images(channels),
    )
    features = torch.randn(N, D, requires_grad=True)
    inputs = [features, *network.parameters()]
    usual, many = results(lambda: network.log_prob(features, image).mean(), inputs, monkeypatch)
    assert calls == ["score"]
    assert_near(many, usual)


@pytest.mark.parametrize(
    "make",
    [
        lambda: encoder(depth=narrow.FEW_CHANNELS + 1),
        lambda: encoder(norm="layer"),
        lambda: encoder(kernels=[4, 3, 4, 4]),
        lambda: decoder(depth=narrow.FEW_CHANNELS + 1),
        lambda: decoder(norm="layer"),
        lambda: decoder(kernels=[5, 5, 5, 8]),
    ],
    ids=lambda make: None,
)
def test_networks_that_are_wide_or_do_not_fit_blocks_keep_the_usual_form(calls, make):
    network = make()
    if isinstance(network, ConvEncoder):
        network(some_images())
    else:
        network.log_prob(torch.randn(N, D), some_images())
    assert calls == []


@pytest.mark.parametrize("many", [N, N + 1])
def test_few_images_and_mixed_precision_keep_the_usual_form(monkeypatch, calls, many):
    monkeypatch.setattr(narrow, "MANY_IMAGES", many)
    network, image = encoder(), some_images()
    network(image)
    assert calls == (["encode"] if many <= N else [])
    calls.clear()
    with torch.autocast("cpu", torch.bfloat16):
        network(image)
    assert calls == []


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("depth", [3, 6])
def test_bytes_and_the_floats_of_them_give_the_same(depth):
    image = some_images()
    floats = image.float() / 255 - 0.5
    network = encoder(depth=depth)
    assert_close(network(image), network(floats), rtol=0, atol=0)
    network, features = decoder(depth=depth), torch.randn(N, D)
    scores = network.log_prob(features, image)
    assert_close(scores, network.log_prob(features, floats), rtol=0, atol=0)
