"""Convolutions of stride 2, each in the form that the device runs fastest.

`vision.py` builds its networks of them. All forms of one give the same numbers, in float32 but for
the order of sums; which is fastest was measured (benchmarks/README.md).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dreamer.models.linear import is_intel, linear, product_dtype
from dreamer.models.pixels import grey_pixels, sub_pixels

STRIDE = 2
FEW_OUTPUTS = 64  # images times pixels of a layer
FEW_PIXELS = 2  # of a layer's smaller images, both sides; up to so many, products are faster
FEW_PIXELS_BF16 = 6  # the same in bfloat16, whose products some processors have a unit for
FEW_PIXELS_TRANSPOSED = 5  # the same of transposed convolutions, in either type
FEW_CHANNELS = 3  # of a layer; up to so many, CPUs are faster with four pixels at a time


def strided(x: Tensor, conv: nn.Module) -> Tensor:
    """A convolution of stride 2, on CPUs as a matrix product where that is faster.

    With few outputs all the time goes to the weights: a product reads them once, as they lie, and
    a convolution copies them twice before. For one image, Intel's processors multiply faster in all
    layers. And with few pixels in each image, there is little to copy for a product.
    (N, C, n, n) -> (N, C', m, m), channels last.
    """
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    kernel, dtype = conv.kernel_size[0], product_dtype(x)
    size = (x.shape[-1] - kernel) // STRIDE + 1
    few_pixels = FEW_PIXELS_BF16 if dtype == torch.bfloat16 else FEW_PIXELS
    few = len(x) * size**2 <= FEW_OUTPUTS or (len(x) == 1 and is_intel())
    if x.device.type != "cpu" or (not few and size > few_pixels):
        return conv(x)
    if few:
        patches = _patches(x, kernel)  # (N, m, m, k * k * C)
        return linear(patches, as_matrix(conv.weight), conv.bias).permute(0, 3, 1, 2)
    y = _PatchProduct.apply(*(tensor.to(dtype) for tensor in (x, conv.weight, conv.bias)))
    assert isinstance(y, Tensor)
    return y


class _PatchProduct(torch.autograd.Function):
    """A convolution of stride 2 as a product of patches, which are not kept but copied once more.

    (N, C, n, n), (C', C, k, k) and (C',) -> (N, C', m, m), channels last.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        patches = _patches(x, weight.shape[-1])  # (N, m, m, k * k * C)
        y = _images(len(x), len(weight), patches.shape[1], x)
        torch.addmm(bias, patches.flatten(0, 2), as_matrix(weight).t(), out=_pixels(y))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        x, weight = ctx.saved_tensors
        kernel, pixels = weight.shape[-1], _pixels(grad)  # (N * m * m, C')
        of_weight = pixels.t() @ _patches(x, kernel).flatten(0, 2)
        of_patches = pixels @ as_matrix(weight)
        of_x = _add_patches(of_patches, torch.zeros_like(x), kernel)
        return of_x, _as_kernel(of_weight, kernel), pixels.sum(0)


class _TransposedProduct(torch.autograd.Function):
    """A transposed convolution of stride 2 as a product that makes a patch of every pixel.

    (N, C, n, n), (C, C', k, k) and (C',) -> (N, C', m, m), channels last. One row of pixels after
    the other, for patches take several times the memory of the images that they add up to.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        matrix, kernel = as_matrix(weight), weight.shape[-1]
        y = _images(len(x), len(bias), STRIDE * (x.shape[-1] - 1) + kernel, x)
        y[:] = bias[:, None, None]
        for pixels, band in zip(_rows(x), _bands(y, kernel), strict=True):
            _add_patches(pixels @ matrix, band, kernel)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        x, weight = ctx.saved_tensors
        matrix, kernel = as_matrix(weight), weight.shape[-1]
        of_x, of_matrix = _images(len(x), x.shape[1], x.shape[2], x), torch.zeros_like(matrix)
        bands = zip(of_x.unbind(2), _rows(x), _bands(grad, kernel), strict=True)
        for of_row, pixels, band in bands:
            patches = _patches(band, kernel).flatten(0, 2)  # (N * n, k * k * C')
            of_row.copy_((patches @ matrix.t()).unflatten(0, (len(x), -1)).transpose(1, 2))
            of_matrix.addmm_(pixels.t(), patches)
        return of_x, _as_kernel(of_matrix, kernel), _pixels(grad).sum(0)


def _rows(x: Tensor) -> list[Tensor]:
    """Of images (N, C, n, n), by row: its pixels as a matrix (N * n, C)."""
    return [row.transpose(1, 2).flatten(0, 1) for row in x.unbind(2)]


def _bands(images: Tensor, kernel: int) -> list[Tensor]:
    """Of the larger images (N, C, m, m), by row of the smaller: the band that it meets."""
    tops = range(0, images.shape[2] - kernel + 1, STRIDE)
    return [images[:, :, top : top + kernel] for top in tops]  # (N, C, k, m) each


def _images(count: int, channels: int, size: int, like: Tensor) -> Tensor:
    """Room for images (N, C, n, n), channels last.

    What a function makes is no view of anything else, so that activations may change it in place.
    """
    return torch.empty(
        (count, channels, size, size), dtype=like.dtype, memory_format=torch.channels_last
    )


def _pixels(x: Tensor) -> Tensor:
    """Images as a matrix, a view where channels are last: (N, C, n, n) -> (N * n * n, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _patches(x: Tensor, kernel: int) -> Tensor:
    """What each pixel of the smaller images meets: (N, C, m, m) -> (N, n, n, k * k * C)."""
    patches = x.unfold(2, kernel, STRIDE).unfold(3, kernel, STRIDE)  # (N, C, n, n, k, k)
    return patches.permute(0, 2, 3, 4, 5, 1).flatten(3)


def _add_patches(patches: Tensor, images: Tensor, kernel: int) -> Tensor:
    """Undo `_patches`, adding up where they overlap: (N * n * n, k * k * C) onto (N, C, m, m)."""
    rows, columns = ((size - kernel) // STRIDE + 1 for size in images.shape[2:])
    patches = patches.view(len(images), rows, columns, kernel, kernel, -1)
    for i, band in enumerate(_bands(images, kernel)):
        for j in range(columns):
            left = STRIDE * j
            band[..., left : left + kernel] += patches[:, i, j].permute(0, 3, 1, 2)
    return images


def as_matrix(weight: Tensor) -> Tensor:
    """A kernel as a matrix, a view where channels are last: (C', C, k, k) -> (C', k * k * C)."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _as_kernel(matrix: Tensor, kernel: int) -> Tensor:
    """Undo `_as_matrix`."""
    return matrix.unflatten(1, (kernel, kernel, -1)).permute(0, 3, 1, 2)


def transposed(x: Tensor, conv: nn.Module) -> Tensor:
    """A transposed convolution of stride 2, in the form that CPUs run fastest.

    (N, C, n, n) -> (N, C', 2 (n - 1) + k, 2 (n - 1) + k).
    """
    assert isinstance(conv, nn.ConvTranspose2d) and conv.bias is not None
    if conv.out_channels <= FEW_CHANNELS and conv.kernel_size[0] % STRIDE == 0:
        return F.pixel_shuffle(transposed_to_sub_pixels(x, conv, STRIDE), STRIDE)
    few_pixels, odd = x.shape[-1] <= FEW_PIXELS_TRANSPOSED, conv.kernel_size[0] % STRIDE
    if x.device.type != "cpu" or (odd and not few_pixels):
        # The bias apart: with it, odd kernels take up to four times as long.
        y = F.conv_transpose2d(x, conv.weight, stride=STRIDE)
        return y.add_(conv.bias.to(y.dtype)[:, None, None])
    function = _TransposedProduct if few_pixels else _TransposedConvolution
    y = function.apply(*(t.to(product_dtype(x)) for t in (x, conv.weight, conv.bias)))
    assert isinstance(y, Tensor)
    return y


class _TransposedConvolution(torch.autograd.Function):
    """One of stride 2 with torch's gradients, but that of the bias, which CPUs sum faster apart.

    (N, C, n, n), (C, C', k, k) and (C',) -> (N, C', m, m).
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        if not (is_intel() and x.dtype == torch.float32):
            return F.conv_transpose2d(x, weight, bias, stride=STRIDE)
        # Intel's processors make the squares faster, and put them in their places, too.
        squares = _to_squares(x, weight, bias)
        y = _images(len(x), len(bias), STRIDE * squares.shape[1], x)
        pixels = y.permute(0, 2, 3, 1).unflatten(2, (-1, STRIDE)).unflatten(1, (-1, STRIDE))
        pixels.copy_(squares.transpose(2, 3))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        stride, others = [STRIDE, STRIDE], ([0, 0], [1, 1], True, [0, 0], 1)
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(
            grad, *ctx.saved_tensors, None, stride, *others, [True, True, False]
        )
        return of_x, of_weight, _pixels(grad).sum(0)


def _to_squares(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A transposed convolution of stride 2 as one of stride 1 to 2 x 2 pixels.

    (N, C, n, n), (C, C', k, k) and (C',) -> (N, m, m, 2, 2, C').
    """
    taps = weight.shape[-1] // STRIDE
    kernel = weight.unflatten(3, (taps, STRIDE)).unflatten(2, (taps, STRIDE)).flip(2, 4)
    kernel = kernel.permute(3, 5, 1, 0, 2, 4).flatten(0, 2)  # (2 * 2 * C', C, taps, taps)
    y = F.conv2d(x, kernel, bias.repeat(STRIDE**2), padding=taps - 1)
    return y.permute(0, 2, 3, 1).unflatten(3, (STRIDE, STRIDE, -1))


def is_slow_in_bfloat16(device: torch.device) -> bool:
    """Whether a convolution to so few channels as an image has takes longer than in float32."""
    return device.type == "cpu" and not is_intel()


def sub_pixel_edge(conv: nn.Module, device: torch.device) -> int:
    """How many pixels `transposed_to_sub_pixels` should make at a time, both sides."""
    assert isinstance(conv, nn.ConvTranspose2d)
    # CPUs make sixteen numbers at a time: a grey image has so many in four by four pixels.
    return 4 if conv.out_channels == 1 and device.type == "cpu" else 2


def transposed_to_sub_pixels(x: Tensor, conv: nn.Module, edge: int) -> Tensor:
    """A transposed convolution of stride 2, as a convolution to 2 x 2 or 4 x 4 pixels at a time.

    Equal in numbers; where there are few output channels, CPUs run it several times faster.

    # output    y0 y1 | y2 y3 | ...    the pixels of a pair differ in which taps of the kernel
    # kernel    w0 w1   w2 w3   ...    they meet: even pixels the even ones, odd pixels the odd ones

    Args:
        x: (N, C, n, n).
        conv: a ConvTranspose2d with a kernel of k pixels, an even number, without padding.
        edge: 2, or 4 if there is one output channel and its images can be cut into such squares.

    Returns:
        (N, C' * edge**2, m, m): the images in the form of `sub_pixels`.
    """
    assert isinstance(conv, nn.ConvTranspose2d) and conv.bias is not None
    inputs, outputs, kernel, _ = conv.weight.shape
    taps = kernel // 2
    weight = conv.weight.view(inputs, outputs, taps, 2, taps, 2).flip(2, 4)
    weight = weight.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # (C' * 4, C, taps, taps)
    if edge == STRIDE:
        return F.conv2d(x, weight, conv.bias.repeat_interleave(4), padding=taps - 1)
    # Four neighbours at once: the same kernel in four places of one that is a tap larger.
    places = [F.pad(weight, (j, 1 - j, i, 1 - i)) for i in (0, 1) for j in (0, 1)]
    square = torch.stack(places).unflatten(0, (2, 2)).unflatten(2, (2, 2)).transpose(1, 2)
    square = square.flatten(0, 3)  # (16, C, taps + 1, taps + 1)
    inputs = x, square, conv.bias.repeat_interleave(16), weight.detach()
    y = _FourAtOnce.apply(*(tensor.to(product_dtype(x)) for tensor in inputs))
    assert isinstance(y, Tensor)
    return y


class _FourAtOnce(torch.autograd.Function):
    """A convolution of stride 2 whose outputs are four neighbours of one of stride 1.

    (N, C, n, n), (16, C, t + 1, t + 1), (16,) and, of stride 1, (4, C, t, t) -> (N, 16, m, m).
    CPUs are faster with four in all but the gradient of `x`, where the larger kernel costs more.
    """

    @staticmethod
    def forward(ctx, x: Tensor, square: Tensor, bias: Tensor, single: Tensor) -> Tensor:
        ctx.save_for_backward(x, square, single)
        return F.conv2d(x, square, bias, stride=2, padding=single.shape[-1] - 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        x, square, single = ctx.saved_tensors
        padding, others = [single.shape[-1] - 1] * 2, ([1, 1], False, [0, 0], 1)
        backward = torch.ops.aten.convolution_backward
        _, of_square, of_bias = backward(
            *(grad, x, square, [len(square)], [2, 2], padding, *others, [False, True, True])
        )
        of_single = sub_pixels(grey_pixels(grad), 2)
        of_x, _, _ = backward(
            *(of_single, x, single, None, [1, 1], padding, *others, [True, False, False])
        )
        return of_x, of_square, of_bias, None
