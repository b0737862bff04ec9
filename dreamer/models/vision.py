"""Pixels to vectors and back: two convolutional networks, mirror images of each other.

`encoder.py` decides which observations come here. Layouts follow torch outside (channels first)
and the authors' code inside: the encoder flattens height, width, channel, in that order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.distributions import unit_normal_log_prob
from dreamer.models import narrow
from dreamer.models.activations import ACTIVATIONS, activate, check_activation
from dreamer.models.convolutions import (
    STRIDE,
    as_matrix,
    is_slow_in_bfloat16,
    strided,
    sub_pixel_edge,
    transposed,
    transposed_to_sub_pixels,
)
from dreamer.models.linear import Linear, linear
from dreamer.models.mlp import Norm, make_norm
from dreamer.models.pieces import in_pieces, score_in_pieces
from dreamer.models.pixels import preprocess, sub_pixels

IMAGE_SIZE = 64  # pixels, both sides
IN_DEPTHS = 32  # the decoder starts from one pixel of this many times `depth` channels


@dataclass(frozen=True)
class ConvConfig:
    """A stack of stride-2 convolutions without padding."""

    depth: int  # channels of the outermost layer; they double from layer to layer
    kernels: Sequence[int]  # one per layer, in the order of computation
    activation: str
    norm: Norm

    def __post_init__(self):
        check_activation(self.activation)

    @property
    def is_narrow(self) -> bool:
        """Whether `narrow.py` knows a faster form of it, once its kernels fit."""
        return self.depth <= narrow.FEW_CHANNELS and self.norm == "none"


class ChannelNorm(nn.Module):
    """The configured norm over the channel axis of images (N, C, h, w)."""

    def __init__(self, norm: Norm, channels: int):
        super().__init__()
        self.norm = make_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        if isinstance(self.norm, nn.Identity):
            return x
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _put_channels_last(network: nn.Module) -> None:
    """Lay kernels out in the order that they are read in: else every convolution copies them."""
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


class ConvEncoder(nn.Module):
    """Images (..., C, 64, 64) -> (..., M)."""

    def __init__(self, channels: int, config: ConvConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        size = IMAGE_SIZE
        for i, kernel in enumerate(config.kernels):
            width = config.depth * 2**i
            self.convs.append(nn.Conv2d(channels, width, kernel, STRIDE))
            self.norms.append(ChannelNorm(config.norm, width))
            channels, size = width, (size - kernel) // STRIDE + 1
            if size < 1:
                raise ValueError(
                    f"Expect the encoder's `kernels` to fit {IMAGE_SIZE} pixels, "
                    f"actually: {list(config.kernels)}"
                )
        self.output_size = channels * size * size
        self.is_narrow = config.is_narrow and [*config.kernels[:2]] == narrow.ENCODER_KERNELS
        _put_channels_last(self)

    def forward(self, image: Tensor) -> Tensor:
        """(..., C, 64, 64), bytes or floats -> (..., M)."""
        images = image.flatten(0, -4)
        if self.is_narrow and narrow.suits(images):
            x = narrow.encode(images, self.convs, self.activation)  # (N, M)
        else:
            x = in_pieces(self._encode, images)
        return x.unflatten(0, image.shape[:-3])

    def _encode(self, image: Tensor) -> Tensor:
        """(N, C, 64, 64) -> (N, M)."""
        x = preprocess(image).contiguous(memory_format=torch.channels_last)  # (N, C, h, w)
        if x.shape[1] == 1:  # both layouts at once: choose, or what follows is reordered
            x = x.view(-1, IMAGE_SIZE, IMAGE_SIZE, 1).permute(0, 3, 1, 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            is_last = conv is self.convs[-1]
            x = activate(self.activation, norm(strided(x, conv)), inner=not is_last)
        return x.permute(0, 2, 3, 1).flatten(1)  # (N, M): height, width, channel


class ConvDecoder(nn.Module):
    """Features (..., F) -> means of images (..., C, 64, 64)."""

    def __init__(self, input_size: int, channels: int, config: ConvConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        layers = len(config.kernels)
        widths = [config.depth * 2 ** (layers - i - 2) for i in range(layers - 1)] + [channels]
        self.start_channels = IN_DEPTHS * config.depth
        self.dense = Linear(input_size, self.start_channels)
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        previous, size = self.start_channels, 1
        for width, kernel in zip(widths, config.kernels, strict=True):
            self.convs.append(nn.ConvTranspose2d(previous, width, kernel, STRIDE))
            self.norms.append(ChannelNorm(config.norm, width))
            previous, size = width, STRIDE * (size - 1) + kernel
        self.norms[-1] = nn.Identity()  # the last layer has neither norm nor activation
        if size != IMAGE_SIZE or layers < 2:
            raise ValueError(
                f"Expect the decoder's `kernels` to be at least two and make {IMAGE_SIZE} pixels, "
                f"actually: {list(config.kernels)} make {size}"
            )
        self.is_narrow = config.is_narrow and [*config.kernels[-2:]] == narrow.DECODER_KERNELS
        _put_channels_last(self)

    def forward(self, features: Tensor) -> Tensor:
        """(..., F) -> (..., C, 64, 64) float32."""
        image = in_pieces(self._to_pixels, self._first(features.flatten(0, -2)))
        return image.unflatten(0, features.shape[:-1])

    def log_prob(self, features: Tensor, image: Tensor) -> Tensor:
        """Log-density of images under unit normals around the decoded means.

        Args:
            features: (..., F).
            image: (..., C, 64, 64), bytes or floats.

        Returns:
            (...) in nats, of which the sum or mean may be differentiated, nothing else.
        """
        x, images = self._first(features.flatten(0, -2)), image.flatten(0, -4)
        if self.is_narrow and narrow.suits(x):
            scores = narrow.score(x, images, self.convs[1:], self.activation)
        else:
            parameters = [*self.convs[1:].parameters(), *self.norms[1:].parameters()]
            scores = score_in_pieces(self._score, x, images, parameters)
        return scores.unflatten(0, features.shape[:-1])

    def _score(self, x: Tensor, image: Tensor) -> Tensor:
        """The other layers: (N, C, k, k) and the image (N, C, 64, 64) -> (N,) in nats."""
        edge = sub_pixel_edge(self.convs[-1], image.device)
        target = preprocess(sub_pixels(image, edge))
        return unit_normal_log_prob(self._to_sub_pixels(x, edge), target)

    def _to_pixels(self, x: Tensor) -> Tensor:
        """The other layers: (N, C, k, k) -> (N, C, 64, 64) float32."""
        edge = sub_pixel_edge(self.convs[-1], x.device)
        return F.pixel_shuffle(self._to_sub_pixels(x, edge), edge)

    def _to_sub_pixels(self, x: Tensor, edge: int) -> Tensor:
        """The other layers: (N, C, k, k) -> (N, C * edge**2, ...) float32, see `sub_pixels`."""
        for conv, norm in zip(self.convs[1:-1], self.norms[1:-1], strict=True):
            x = activate(self.activation, norm(transposed(x, conv)), inner=True)
        if not is_slow_in_bfloat16(x.device):
            return transposed_to_sub_pixels(x, self.convs[-1], edge).float()
        with torch.autocast(x.device.type, enabled=False):
            return transposed_to_sub_pixels(x.float(), self.convs[-1], edge)

    def _first(self, features: Tensor) -> Tensor:
        """The first two layers, dense and a transposed convolution of one pixel.

        (N, F) -> (N, C, k, k). A convolution of one pixel is a matrix product, and the convolution
        kernels of CPUs are several times slower.
        """
        conv = self.convs[0]
        assert isinstance(conv, nn.ConvTranspose2d) and conv.bias is not None
        kernel = conv.kernel_size[0]
        weight = as_matrix(conv.weight).t()  # (k * k * C, 32 * depth)
        x = linear(self.dense(features), weight, conv.bias.repeat(kernel**2))
        x = torch.ops.aten._unsafe_view(x, (len(x), kernel, kernel, -1))
        norm = self.norms[0]
        assert isinstance(norm, ChannelNorm)
        return self.activation(norm.norm(x)).permute(0, 3, 1, 2)
