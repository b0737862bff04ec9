"""Dense layers, norms, activations and initial weights.

Every network is built of them. They know no distribution and no latent state.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.schema.types import doc

Norm = Literal["none", "layer"]
Activation = Literal["elu", "relu", "silu", "gelu", "tanh"]

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
