"""Auxiliary losses of the world model: networks on its features that train it as well.

`model.world_model.auxiliary` names them. Unlike a component, an auxiliary network sends gradients
into the latent state, and belongs to the world model: its optimiser, its norm, its checkpoint.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from dreamer.types import Batch


class AuxiliaryShape(NamedTuple):
    """The sizes that an auxiliary network is built for."""

    feature_size: int  # F
    obs_shapes: Mapping[str, tuple[int, ...]]  # by key, one observation; those for probes, too
    action_size: int  # A


class AuxiliaryContext(NamedTuple):
    """What the losses are computed from."""

    features: Tensor  # (T, B, F) of the posteriors, with gradients; of several samples the first
    reward: Tensor  # (T, B) after the reward transform
    batch: Batch  # (T, B, ...), raw
    samples: Tensor  # (T, B, I, F) of all samples, with gradients


class AuxiliaryOutput(NamedTuple):
    """Result of `Auxiliary.loss`."""

    loss: Tensor  # (), without its weight
    metrics: Mapping[str, Tensor] = {}  # each (); logged as `world_model/<name>_<key>`


class Auxiliary(nn.Module):
    """A network with a loss on the features. It must not wait for the device."""

    def loss(self, context: AuxiliaryContext) -> AuxiliaryOutput:
        """Compute the loss. Gradients flow into this network and into the features."""
        raise NotImplementedError

    def begin_update(self, update: int) -> None:
        """Do what depends on the number of the update (0, 1, ...), before its losses."""


class AuxiliaryConfig(Protocol):
    """Interface of a configuration in `model.world_model.auxiliary`."""

    @property
    def weight(self) -> float:
        """Weight of the loss in that of the world model."""
        ...

    def build(self, shape: AuxiliaryShape) -> Auxiliary:
        """Build the network."""
        ...
