"""Convolutions of stride 2, each in the form that the device runs fastest.

`vision.py` builds its networks of them. All forms of one give the same numbers, in float32 but for
the order of sums; which is fastest was measured (benchmarks/README.md).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dreamer.models.linear import linear, product_dtype

STRIDE = 2
FEW_OUTPUTS = 64  # images times pixels of a layer
FEW_PIXELS = 2  # of a layer's images, both sides
FEW_CHANNELS = 3  # of a layer; up to so many, CPUs are faster with four pixels at a time


def strided(x: Tensor, conv: nn.Module) -> Tensor:
    """A convolution of stride 2, on CPUs as a matrix product where that is faster.

    With few outputs all the time goes to the weights: a product reads them once, as they lie, and
    a convolution copies them twice before. And with few pixels in each image, there is little to
    copy for a product. (N, C, n, n) -> (N, C', m, m), channels last.
    """
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    kernel = conv.kernel_size[0]
    size = (x.shape[-1] - kernel) // STRIDE + 1
    if x.device.type != "cpu" or (len(x) * size**2 > FEW_OUTPUTS and size > FEW_PIXELS):
        return conv(x)
    if len(x) * size**2 <= FEW_OUTPUTS:
        patches = x.unfold(2, kernel, STRIDE).unfold(3, kernel, STRIDE)  # (N, C, m, m, k, k)
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3)  # (N, m, m, C * k * k)
        return linear(patches, conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)
    dtype = product_dtype(x)
    inputs = (x.permute(0, 2, 3, 1), conv.weight, conv.bias)
    y = _PatchProduct.apply(*(tensor.to(dtype) for tensor in inputs))
    assert isinstance(y, Tensor)
    return y.view(len(x), size, size, -1).permute(0, 3, 1, 2)


class _PatchProduct(torch.autograd.Function):
    """A convolution of stride 2 as a product of patches, which are not kept but copied once more.

    (N, n, n, C), (C', C, k, k) and (C',) -> (N * m * m, C').
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.addmm(bias, _patches(x, weight), _as_matrix(weight).t())

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        x, weight = ctx.saved_tensors
        kernel = weight.shape[-1]
        size = (x.shape[1] - kernel) // STRIDE + 1
        of_weight = grad.t() @ _patches(x, weight)
        of_weight = of_weight.unflatten(1, (kernel, kernel, -1)).permute(0, 3, 1, 2)
        of_patches = (grad @ _as_matrix(weight)).view(len(x), size, size, kernel, kernel, -1)
        of_x = torch.zeros_like(x)
        for i in range(size):
            for j in range(size):
                top, left = STRIDE * i, STRIDE * j
                of_x[:, top : top + kernel, left : left + kernel] += of_patches[:, i, j]
        return of_x, of_weight, grad.sum(0)


def _patches(x: Tensor, weight: Tensor) -> Tensor:
    """What each output sees: (N, n, n, C) and (C', C, k, k) -> (N * m * m, k * k * C)."""
    kernel = weight.shape[-1]
    patches = x.unfold(1, kernel, STRIDE).unfold(2, kernel, STRIDE)  # (N, m, m, C, k, k)
    return patches.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)


def _as_matrix(weight: Tensor) -> Tensor:
    """(C', C, k, k) -> (C', k * k * C)."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def transposed(x: Tensor, conv: nn.Module) -> Tensor:
    """A transposed convolution of stride 2, in the form that CPUs run fastest.

    (N, C, n, n) -> (N, C', 2 (n - 1) + k, 2 (n - 1) + k).
    """
    assert isinstance(conv, nn.ConvTranspose2d) and conv.bias is not None
    if conv.out_channels <= FEW_CHANNELS and conv.kernel_size[0] % STRIDE == 0:
        return F.pixel_shuffle(transposed_to_sub_pixels(x, conv), STRIDE)
    # The bias apart: with it, odd kernels take up to four times as long, and gradients longer.
    y = F.conv_transpose2d(x, conv.weight, stride=STRIDE)
    return y.add_(conv.bias.to(y.dtype)[:, None, None])


def transposed_to_sub_pixels(x: Tensor, conv: nn.Module) -> Tensor:
    """A transposed convolution of stride 2, as a convolution to four pixels at a time.

    Equal in numbers; where there are few output channels, CPUs run it nine times faster.

    # output    y0 y1 | y2 y3 | ...    the pixels of a pair differ in which taps of the kernel
    # kernel    w0 w1   w2 w3   ...    they meet: even pixels the even ones, odd pixels the odd ones

    Args:
        x: (N, C, n, n).
        conv: a ConvTranspose2d with a kernel of k pixels, an even number, without padding.

    Returns:
        (N, C' * 4, m, m), m = n - 1 + k / 2: the images in the form of `sub_pixels`.
    """
    assert isinstance(conv, nn.ConvTranspose2d) and conv.bias is not None
    inputs, outputs, kernel, _ = conv.weight.shape
    taps = kernel // 2
    weight = conv.weight.view(inputs, outputs, taps, 2, taps, 2).flip(2, 4)
    weight = weight.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # (C' * 4, C, taps, taps)
    return F.conv2d(x, weight, conv.bias.repeat_interleave(4), padding=taps - 1)


def sub_pixels(image: Tensor) -> Tensor:
    """Four neighbouring pixels as channels of one: `pixel_unshuffle(image, 2)`, channels last.

    Args:
        image: (N, C, h, w) float32; h and w even.

    Returns:
        (N, C * 4, h / 2, w / 2), in memory (N, h / 2, w / 2, C * 4).
    """
    if image.device.type != "cpu":
        return F.pixel_unshuffle(image, STRIDE)
    pairs = image.contiguous().view(torch.float64)  # (N, C, h, w / 2), each moved as one number
    pairs = pairs.unflatten(2, (-1, 2)).permute(1, 0, 2, 4, 3)  # (C, N, h / 2, w / 2, 2)
    result = pairs.new_empty(*pairs.shape[1:4], len(pairs), 2)
    for channel, of_channel in enumerate(pairs):  # one by one, the inner loops are long
        result[:, :, :, channel] = of_channel
    return result.view(torch.float32).flatten(3).permute(0, 3, 1, 2)
