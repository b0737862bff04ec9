"""Dense layers: the trunk that every head shares, and the layer that ends in a distribution.

Encoder, decoder, RSSM, world model and actor-critic build on it. It knows no latent state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.distributions import (
    Bernoulli,
    Distribution,
    Normal,
    OneHot,
    OneHots,
    SampleGradient,
    TanhNormal,
    TruncatedNormal,
)
from dreamer.models.activations import ACTIVATIONS, activate, check_activation
from dreamer.models.linear import Linear
from dreamer.models.one_hots import one_hot_linear
from dreamer.types import Features, OneHotFeatures

Norm = Literal["none", "layer"]
DistributionName = Literal["mse", "normal", "binary", "onehot", "trunc_normal", "tanh_normal"]

LAYER_NORM_EPSILON = 1e-3  # Keras' default; torch's is 1e-5


@dataclass(frozen=True)
class HeadConfig:
    """A stack of dense layers that ends in a distribution."""

    layers: int
    units: int
    activation: str
    norm: Norm
    distribution: DistributionName

    def __post_init__(self):
        check_activation(self.activation)
        names = get_args(DistributionName)
        if self.distribution not in names:
            raise ValueError(
                f"Expect `distribution` to be one of {list(names)}, actually: {self.distribution}"
            )
        if self.layers < 0 or self.units < 1:
            raise ValueError(
                f"Expect `layers` >= 0 and `units` >= 1, actually: {self.layers}, {self.units}"
            )


def init_glorot(module: nn.Module) -> None:
    """Glorot-uniform kernels and zero biases, as Keras; give it to `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def make_norm(norm: Norm, size: int) -> nn.Module:
    """Layer norm over `size` features in float32, or nothing."""
    if norm not in ("none", "layer"):
        raise ValueError(f"Expect `norm` to be 'none' or 'layer', actually: {norm!r}")
    return LayerNorm(size) if norm == "layer" else nn.Identity()


class LayerNorm(nn.LayerNorm):
    """Layer norm with Keras' epsilon, computed in float32 at any precision."""

    def __init__(self, size: int):
        super().__init__(size, eps=LAYER_NORM_EPSILON)

    def forward(self, input: Tensor) -> Tensor:
        """(..., size) -> (..., size) float32."""
        return super().forward(input.float())


def apply_linear(layer: nn.Linear, x: Features) -> Tensor:
    """`layer(x)` for either kind of features: (..., input_size) -> (..., output_size)."""
    if isinstance(x, OneHotFeatures):
        return one_hot_linear(x, layer.weight, layer.bias)
    return layer(x)


class DenseLayer(nn.Module):
    """`activation(norm(x W + b))`: (..., input_size) -> (..., units).

    Of what is `inner`, one other layer and nothing else may read the result.
    """

    def __init__(
        self, input_size: int, units: int, *, activation: str, norm: Norm, inner: bool = False
    ):
        super().__init__()
        self.linear = Linear(input_size, units)
        self.norm = make_norm(norm, units)
        self.activation = ACTIVATIONS[activation]
        self.inner = inner

    def forward(self, x: Features) -> Tensor:
        """(..., input_size) -> (..., units)."""
        return self.finish(apply_linear(self.linear, x))

    def finish(self, x: Tensor) -> Tensor:
        """What follows the matrix product; callers that split the product end with it."""
        return activate(self.activation, self.norm(x), inner=self.inner)


class MLP(nn.Sequential):
    """Dense layers of the given sizes: (..., input_size) -> (..., sizes[-1]).

    Of what is `inner`, one other layer and nothing else may read the result.
    """

    def __init__(
        self,
        input_size: int,
        sizes: Sequence[int],
        *,
        activation: str,
        norm: Norm,
        inner: bool = False,
    ):
        layers, width = [], input_size
        for number, size in enumerate(sizes, 1):
            is_inner = inner or number < len(sizes)
            layers.append(DenseLayer(width, size, activation=activation, norm=norm, inner=is_inner))
            width = size
        super().__init__(*layers)
        self.output_size = width


class DistributionLayer(nn.Module):
    """A dense layer whose outputs are the statistics of a distribution over (..., *shape)."""

    def __init__(
        self,
        input_size: int,
        shape: Sequence[int],
        name: DistributionName,
        *,
        min_std: float = 0.1,
        init_std: float = 0.0,
        sample_gradient: SampleGradient = "exact",
        choices: Sequence[int] = (),
    ):
        """`min_std` and `init_std` belong to the two bounded normals, which learn their scale.

        `choices` belongs to onehot: the sizes of several one-hot vectors, empty for a single one.
        """
        super().__init__()
        self.shape = tuple(shape)
        self.name = name
        self.min_std = min_std
        self.init_std = init_std
        self.sample_gradient: SampleGradient = sample_gradient
        self.choices = tuple(choices)
        size = int(torch.Size(self.shape).numel())
        self.out = Linear(input_size, size)
        self.std = Linear(input_size, size) if "normal" in name else None

    def forward(self, x: Features) -> Distribution:
        """(..., input_size) -> a distribution with batch (...) and event `shape`."""
        out = apply_linear(self.out, x).float()
        out = out.unflatten(-1, self.shape) if self.shape else out.squeeze(-1)
        dims = len(self.shape)
        match self.name:
            case "mse":
                return Normal(out, 1.0, dims)
            case "binary":
                return Bernoulli(out, dims)
            case "onehot":
                return OneHots(out, self.choices) if self.choices else OneHot(out)
        assert self.std is not None
        raw = apply_linear(self.std, x).float().view(out.shape)
        match self.name:
            case "normal":
                return Normal(out, raw, dims)  # raw on purpose: so the authors' code has it
            case "trunc_normal":
                scale = 2 * torch.sigmoid((raw + self.init_std) / 2) + self.min_std
                return TruncatedNormal(out.tanh(), scale, dims, self.sample_gradient)
            case _:  # tanh_normal
                scale = F.softplus(raw + self.init_std) + self.min_std
                return TanhNormal(5 * torch.tanh(out / 5), scale, dims)


class Head(nn.Module):
    """Dense layers and the distribution they end in: (..., input_size) -> (..., *shape)."""

    def __init__(
        self,
        input_size: int,
        shape: Sequence[int],
        config: HeadConfig,
        *,
        min_std: float = 0.1,
        init_std: float = 0.0,
        sample_gradient: SampleGradient = "exact",
        choices: Sequence[int] = (),
    ):
        """The options after `config` are those of `DistributionLayer`."""
        super().__init__()
        self.trunk = MLP(
            input_size,
            [config.units] * config.layers,
            activation=config.activation,
            norm=config.norm,
            inner=True,
        )
        self.out = DistributionLayer(
            self.trunk.output_size,
            shape,
            config.distribution,
            min_std=min_std,
            init_std=init_std,
            sample_gradient=sample_gradient,
            choices=choices,
        )
        self.apply(init_glorot)

    def forward(self, x: Features) -> Distribution:
        """(..., input_size) -> a distribution with batch (...) and event `shape`."""
        return self.out(self.trunk(x))
