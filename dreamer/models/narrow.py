"""Convolutional networks of few channels, those of `vision.py`, as CPUs run them fastest.

A processor makes sixteen channels of a pixel in the time of two. So the outer two layers read and
write blocks of pixels, 4 x 4 in the images and 2 x 2 between the layers, without a stride; their
kernels have zeros where pixels do not meet. The inner layers, of few pixels, are dense: a matrix
from all numbers of an image to all of the next. Numbers are the same but for the order of sums.

# pixels of an image       p0 p1 p2 p3 | p4 p5 p6 p7      in blocks of four,
# kernel for output 0      k0 k1 k2 k3 |                  outputs 0 and 1 in a block of two,
# kernel for output 1            k0 k1 | k2 k3            which meets two blocks
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.distributions import unit_normal_log_prob
from dreamer.models.activations import Activation, activate
from dreamer.models.convolutions import STRIDE
from dreamer.models.linear import linear
from dreamer.models.pieces import in_pieces, score_in_pieces
from dreamer.models.pixels import preprocess, sub_pixels

EDGE = 4  # pixels of a block of the image, both sides
FEW_CHANNELS = 4  # of the outermost layer of a narrow network
MANY_IMAGES = 64  # worth making the kernels for
# Of the outer two layers, in the order of computation: those that fit blocks.
ENCODER_KERNELS = [4, 4]
DECODER_KERNELS = [6, 6]


def suits(images: Tensor) -> bool:
    """Whether a narrow network should take (N, ...) in this form, here and now."""
    on_cpu = images.device.type == "cpu"
    return on_cpu and len(images) >= MANY_IMAGES and not torch.is_autocast_enabled("cpu")


def encode(image: Tensor, convs: Iterable[nn.Module], activation: Activation) -> Tensor:
    """All of an encoder's layers.

    Args:
        image: (N, C, 64, 64), bytes or floats.
        convs: Conv2d, of which the first two have `ENCODER_KERNELS`.
        activation: of every layer.

    Returns:
        (N, M): height, width, channel.
    """
    (first, first_bias), (second, second_bias), *others = map(_weights, convs)
    first, first_bias = _between_blocks(first, EDGE // 2, planes=True), first_bias.repeat(4)
    second = _between_blocks(second, 1)

    def encode_outer(piece: Tensor) -> Tensor:
        x = preprocess(sub_pixels(piece, EDGE))  # (n, 16 C, 16, 16)
        x = activate(activation, F.conv2d(x, first, first_bias), inner=True)  # (n, 4 C', 15, 15)
        return activate(activation, F.conv2d(x, second, second_bias), inner=bool(others))

    x = in_pieces(encode_outer, image)  # (N, C'', 14, 14)
    size = x.shape[-1]
    x = x.permute(0, 2, 3, 1).flatten(1)
    for i, (weight, bias) in enumerate(others, 1):
        larger, size = size, (size - weight.shape[-1]) // STRIDE + 1
        x = linear(x, _as_matrix(weight, size, larger).t(), bias.repeat(size**2))
        x = activate(activation, x, inner=i < len(others))
    return x


def score(x: Tensor, image: Tensor, convs: Iterable[nn.Module], activation: Activation) -> Tensor:
    """Log-densities of images under unit normals around what a decoder makes of its first layer.

    Args:
        x: (N, C, n, n), what the first layer has made.
        image: (N, C', 64, 64), bytes or floats.
        convs: the other ConvTranspose2d, of which the last two have `DECODER_KERNELS`.
        activation: of every layer but the last.

    Returns:
        (N,) in nats, of which the sum or mean may be differentiated, nothing else.
    """
    *others, (third, third_bias), (last, last_bias) = map(_weights, convs)
    size = x.shape[-1]
    x = x.permute(0, 2, 3, 1).flatten(1)
    for weight, bias in others:
        smaller, size = size, STRIDE * (size - 1) + weight.shape[-1]
        x = linear(x, _as_matrix(weight, smaller, size), bias.repeat(size**2))
        x = activate(activation, x, inner=True)
    x = x.unflatten(1, (size, size, -1)).permute(0, 3, 1, 2)

    third, third_bias = _transpose(_between_blocks(third, 1)), third_bias.repeat(4)
    last = _transpose(_between_blocks(last, EDGE // 2, planes=True))
    last_bias = last_bias.repeat_interleave(EDGE**2)

    def score_outer(piece: Tensor, target: Tensor) -> Tensor:
        y = F.conv2d(piece, third, third_bias, padding=third.shape[-1] - 1)  # (n, 4 C'', 15, 15)
        y = activate(activation, y, inner=True)
        means = F.conv2d(y, last, last_bias, padding=last.shape[-1] - 1)  # (n, 16 C', 16, 16)
        return unit_normal_log_prob(means, preprocess(sub_pixels(target, EDGE)))

    return score_in_pieces(score_outer, x, image, [third, third_bias, last, last_bias])


def _weights(conv: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and conv.bias is not None
    return conv.weight, conv.bias


def _between_blocks(weight: Tensor, edge: int, *, planes: bool = False) -> Tensor:
    """The kernel of a convolution of stride 2, as one of stride 1 between blocks of pixels.

    Args:
        weight: (S, L, k, k) between S channels of the smaller images and L of the larger, which
            is how both directions have it.
        edge: pixels of a block of the smaller images, both sides; of the larger, twice as many.
        planes: the larger are the network's images, of which a block is channel, row, column, as
            `sub_pixels` makes it. Other blocks are row, column, channel.

    Returns:
        (edge**2 * S, 4 * edge**2 * L, t, t), channels last.
    """
    block, kernel = STRIDE * edge, weight.shape[-1]
    taps = -(-(STRIDE * (edge - 1) + kernel) // block)
    shifts = [STRIDE * i for i in range(edge)]
    room = taps * block - kernel
    places = [F.pad(weight, (j, room - j, i, room - i)) for i in shifts for j in shifts]
    spread = torch.stack(places).unflatten(4, (taps, block)).unflatten(3, (taps, block))
    # (edge**2, S, L, taps, block, taps, block)
    order = (2, 4, 6) if planes else (4, 6, 2)
    spread = spread.permute(0, 1, *order, 3, 5).flatten(2, 4).flatten(0, 1)
    return spread.contiguous(memory_format=torch.channels_last)


def _transpose(kernel: Tensor) -> Tensor:
    """For a convolution that does what a transposed one does with this kernel; channels last."""
    return kernel.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)


def _as_matrix(weight: Tensor, smaller: int, larger: int) -> Tensor:
    """The kernel of a convolution of stride 2 as a matrix between whole images.

    Args:
        weight: (S, L, k, k), as that of `_between_blocks`.
        smaller: pixels n of the smaller images, both sides.
        larger: m of the larger.

    Returns:
        (m * m * L, n * n * S), each height, width, channel.
    """
    few, many, kernel, _ = weight.shape
    zeros = weight.new_zeros(larger**2 * many, smaller**2 * few)
    column = zeros.shape[1]
    # From a pixel to its neighbour in the larger images, and in the smaller.
    down, right = larger * many * column, many * column
    below, beside = smaller * few, few
    # All places where the kernel lies: output pixels, taps, channels of either side.
    size = (smaller, smaller, kernel, kernel, many, few)
    stride = (STRIDE * down + below, STRIDE * right + beside, down, right, column, 1)
    placed = weight.permute(2, 3, 1, 0).expand(size)
    return zeros.as_strided_scatter(placed, size, stride)
