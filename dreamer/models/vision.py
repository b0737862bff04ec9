"""Pixels to vectors and back: two convolutional networks, mirror images of each other.

`encoder.py` decides which observations come here. Layouts follow torch outside (channels first)
and the authors' code inside: the encoder flattens height, width, channel, in that order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from dreamer.models.layers import ACTIVATIONS, ActivationKey, Norm, NormKey, make_norm
from dreamer.schema.types import PositiveCount, doc
from dreamer.schema.validation import check

IMAGE_SIZE = 64  # pixels, both sides
STRIDE = 2
IN_DEPTHS = 32  # the decoder starts from one pixel of this many times `depth` channels


@dataclass(frozen=True)
class ConvConfig:
    """A stack of stride-2 convolutions without padding."""

    depth: Annotated[
        PositiveCount, doc("Channels of the outermost layer; they double from layer to layer.")
    ]
    kernels: Annotated[
        Sequence[PositiveCount],
        doc("Edge of each layer's kernel, in the order of computation.", unit="pixels"),
    ]
    activation: ActivationKey
    norm: NormKey

    def __post_init__(self):
        check(self)


def preprocess(observation: Tensor) -> Tensor:
    """Bytes become floats in [-0.5, 0.5], all else floats, any shape: as in the authors' code."""
    if observation.dtype == torch.uint8:
        return observation.float().div_(255).sub_(0.5)
    return observation.float()


class ChannelNorm(nn.Module):
    """The configured norm over the channel axis of images (N, C, h, w)."""

    def __init__(self, norm: Norm, channels: int):
        super().__init__()
        self.norm = make_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvEncoder(nn.Module):
    """Images (..., C, 64, 64) -> (..., M)."""

    def __init__(self, channels: int, config: ConvConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        size = IMAGE_SIZE
        for i, kernel in enumerate(config.kernels):
            width = config.depth * 2**i
            self.convs.append(nn.Conv2d(channels, width, kernel, STRIDE))
            self.norms.append(ChannelNorm(config.norm, width))
            channels, size = width, (size - kernel) // STRIDE + 1
            if size < 1:
                raise ValueError(
                    f"The encoder's `kernels` must fit {IMAGE_SIZE} pixels, "
                    f"got {list(config.kernels)}"
                )
        self.output_size = channels * size * size

    def forward(self, image: Tensor) -> Tensor:
        """(..., C, 64, 64), bytes or floats -> (..., M)."""
        x = preprocess(image.flatten(0, -4))  # (N, C, 64, 64)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.activation(norm(conv(x)))
        x = x.permute(0, 2, 3, 1).flatten(1)  # (N, M): height, width, channel
        return x.unflatten(0, image.shape[:-3])


class ConvDecoder(nn.Module):
    """Features (..., F) -> means of images (..., C, 64, 64)."""

    def __init__(self, input_size: int, channels: int, config: ConvConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        layers = len(config.kernels)
        widths = [config.depth * 2 ** (layers - i - 2) for i in range(layers - 1)] + [channels]
        previous, size = IN_DEPTHS * config.depth, 1
        self.dense = nn.Linear(input_size, previous)
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for width, kernel in zip(widths, config.kernels, strict=True):
            self.convs.append(nn.ConvTranspose2d(previous, width, kernel, STRIDE))
            self.norms.append(ChannelNorm(config.norm, width))
            previous, size = width, STRIDE * (size - 1) + kernel
        del self.norms[-1]  # the last layer has neither norm nor activation
        if size != IMAGE_SIZE or layers < 2:
            raise ValueError(
                f"The decoder's `kernels` must be at least two and make {IMAGE_SIZE} pixels, "
                f"got {list(config.kernels)}, which make {size}"
            )

    def forward(self, features: Tensor) -> Tensor:
        """(..., F) -> (..., C, 64, 64) float32."""
        x = self.dense(features.flatten(0, -2))[..., None, None]  # (N, C, 1, 1)
        *inner, last = self.convs
        for conv, norm in zip(inner, self.norms, strict=True):
            x = self.activation(norm(conv(x)))
        return last(x).float().unflatten(0, features.shape[:-1])
