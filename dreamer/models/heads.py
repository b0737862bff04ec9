"""Heads: dense layers that end in a distribution.

The world model and the critic predict with them. They know no latent states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from dreamer.distributions import Bernoulli, Distribution, Normal, OneHot, SquaredError
from dreamer.models.layers import MLP, ActivationKey, NormKey, init_glorot
from dreamer.schema.types import Count, PositiveCount, doc
from dreamer.schema.validation import check

DistributionName = Literal["mse", "squared_error", "normal", "binary", "onehot"]


@dataclass(frozen=True)
class HeadConfig:
    """A stack of dense layers that ends in a distribution."""

    layers: Annotated[Count, doc("Layers before the last one.")]
    units: Annotated[PositiveCount, doc("Units of each layer.")]
    activation: ActivationKey
    norm: NormKey
    distribution: Annotated[DistributionName, doc("Distribution of the predictions.")]

    def __post_init__(self):
        check(self)


class DistributionLayer(nn.Module):
    """A dense layer whose outputs are the statistics of a distribution over (..., *shape)."""

    def __init__(self, input_size: int, shape: Sequence[int], name: str):
        """`name` is a `DistributionName`; a subclass may support others."""
        super().__init__()
        self.shape = tuple(shape)
        self.name = name
        size = int(torch.Size(self.shape).numel())
        self.out = nn.Linear(input_size, size)
        self.std = nn.Linear(input_size, size) if "normal" in name else None

    def forward(self, x: Tensor) -> Distribution:
        """(..., input_size) -> a distribution with batch (...) and event `shape`."""
        out = self._reshape(self.out(x))
        return self.distribution(out, None if self.std is None else self._reshape(self.std(x)))

    def distribution(self, out: Tensor, raw: Tensor | None) -> Distribution:
        """Build it from outputs (..., *shape); `raw` are standard deviations, for normals only."""
        dims = len(self.shape)
        match self.name:
            case "binary":
                return Bernoulli(out, dims)
            case "onehot":
                return OneHot(out)
            case "normal":
                assert raw is not None
                return Normal(out, raw, dims)  # no softplus, as in the authors' code
            case "squared_error":
                return SquaredError(out, dims)
            case _:  # mse
                return Normal(out, 1.0, dims)

    def _reshape(self, out: Tensor) -> Tensor:
        """(..., size) -> (..., *shape) float32."""
        return out.float().unflatten(-1, self.shape) if self.shape else out.float().squeeze(-1)


class Head(nn.Module):
    """Dense layers and the distribution they end in: (..., input_size) -> (..., *shape)."""

    def __init__(
        self,
        input_size: int,
        shape: Sequence[int],
        config: HeadConfig,
        make_layer: Callable[[int], DistributionLayer] | None = None,
    ):
        """`make_layer` makes the last layer from its input size; None: as `config` says."""
        super().__init__()
        self.trunk = MLP(
            input_size,
            [config.units] * config.layers,
            activation=config.activation,
            norm=config.norm,
        )
        size = self.trunk.output_size
        if make_layer is None:
            self.out = DistributionLayer(size, shape, config.distribution)
        else:
            self.out = make_layer(size)
        self.apply(init_glorot)

    def forward(self, x: Tensor) -> Distribution:
        """(..., input_size) -> a distribution with batch (...) and event `shape`."""
        return self.out(self.trunk(x))
