"""Dense layers: the trunk that every head shares, and the layer that ends in a distribution.

Encoder, decoder, RSSM, world model and actor-critic build on it. It knows no latent state.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.distributions import Bernoulli, Distribution, Normal, OneHot
from dreamer.schema.types import Count, PositiveCount, doc
from dreamer.schema.validation import check

Norm = Literal["none", "layer"]
Activation = Literal["elu", "relu", "silu", "gelu", "tanh"]
DistributionName = Literal["mse", "normal", "binary", "onehot"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}
LAYER_NORM_EPSILON = 1e-3  # Keras' default; torch's is 1e-5


# What the layers of every network have in common.
ActivationKey = Annotated[Activation, doc("Activation of the layers.", source="the authors' code")]
NormKey = Annotated[Norm, doc("Norm before each activation: none, or layer norm.")]


@dataclass(frozen=True)
class HeadConfig:
    """A stack of dense layers that ends in a distribution."""

    layers: Annotated[Count, doc("Layers before the last one.")]
    units: Annotated[PositiveCount, doc("Units of each layer.")]
    activation: ActivationKey
    norm: NormKey
    distribution: Annotated[DistributionName, doc("Distribution that the head ends in.")]

    def __post_init__(self):
        check(self)


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


class DenseLayer(nn.Module):
    """`activation(norm(x W + b))`: (..., input_size) -> (..., units)."""

    def __init__(self, input_size: int, units: int, *, activation: Activation, norm: Norm):
        super().__init__()
        self.linear = nn.Linear(input_size, units)
        self.norm = make_norm(norm, units)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(..., input_size) -> (..., units)."""
        return self.activation(self.norm(self.linear(x)))


class MLP(nn.Sequential):
    """Dense layers of the given sizes: (..., input_size) -> (..., sizes[-1])."""

    def __init__(
        self, input_size: int, sizes: Sequence[int], *, activation: Activation, norm: Norm
    ):
        widths = [input_size, *sizes]
        super().__init__(
            *(
                DenseLayer(a, b, activation=activation, norm=norm)
                for a, b in itertools.pairwise(widths)
            )
        )
        self.output_size = widths[-1]


class DistributionLayer(nn.Module):
    """A dense layer whose outputs are the statistics of a distribution over (..., *shape)."""

    def __init__(self, input_size: int, shape: Sequence[int], name: str):
        """`name` is a `DistributionName`; a subclass may know others."""
        super().__init__()
        self.shape = tuple(shape)
        self.name = name
        size = int(torch.Size(self.shape).numel())
        self.out = nn.Linear(input_size, size)
        self.std = nn.Linear(input_size, size) if "normal" in name else None

    def forward(self, x: Tensor) -> Distribution:
        """(..., input_size) -> a distribution with batch (...) and event `shape`."""
        out = self._shaped(self.out(x))
        return self.distribution(out, None if self.std is None else self._shaped(self.std(x)))

    def distribution(self, out: Tensor, raw: Tensor | None) -> Distribution:
        """From outputs (..., *shape), and raw standard deviations where the name is of a normal."""
        dims = len(self.shape)
        match self.name:
            case "binary":
                return Bernoulli(out, dims)
            case "onehot":
                return OneHot(out)
            case "normal":
                assert raw is not None
                return Normal(out, raw, dims)  # raw on purpose: so the authors' code has it
            case _:  # mse
                return Normal(out, 1.0, dims)

    def _shaped(self, out: Tensor) -> Tensor:
        """(..., size) -> (..., *shape) float32."""
        return out.float().unflatten(-1, self.shape) if self.shape else out.float().squeeze(-1)


class Head(nn.Module):
    """Dense layers and the distribution they end in: (..., input_size) -> (..., *shape)."""

    def __init__(self, input_size: int, shape: Sequence[int], config: HeadConfig):
        super().__init__()
        self.trunk = MLP(
            input_size,
            [config.units] * config.layers,
            activation=config.activation,
            norm=config.norm,
        )
        self.out = DistributionLayer(self.trunk.output_size, shape, config.distribution)
        self.apply(init_glorot)

    def forward(self, x: Tensor) -> Distribution:
        """(..., input_size) -> a distribution with batch (...) and event `shape`."""
        return self.out(self.trunk(x))
