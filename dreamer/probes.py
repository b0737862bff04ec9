"""The probe of a run: a component that reads maps and goals from the features of replayed states.

`dreamer.run` adds it to the agent, by the name `probe`. It learns with an optimiser of its own and
changes nothing else. With `probe_gradients`, its networks are a part of the world model instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from torch import Tensor

from dreamer.components import AgentShape, Component, ComponentOutput, UpdateContext
from dreamer.models.heads import HeadConfig
from dreamer.models.probe_loss import AuxiliaryProbeConfig
from dreamer.models.probe_pictures import draw_probe
from dreamer.models.probes import ClassImageConfig, MapAndGoalsProbe, ProbeNetworks, mark_partial
from dreamer.optim import OptimizerConfig
from dreamer.schema.types import doc
from dreamer.schema.validation import check
from dreamer.types import Batch

PROBE = "probe"  # name of the component

MapKey = Annotated[ClassImageConfig, doc("Layers that predict the map.")]
GoalsKey = Annotated[HeadConfig, doc("Layers that predict each vector to a goal.")]
OptimizerKey = Annotated[
    OptimizerConfig, doc("Optimiser of the probe; unused with probe_gradients=true.")
]


class ProbeConfig:
    """What the configurations of probes share; they have the fields `map` or `goals`, or both."""

    def __post_init__(self):
        check(self)

    @property
    def networks(self) -> ProbeNetworks:
        """Layers of the networks."""
        return ProbeNetworks(getattr(self, "map", None), getattr(self, "goals", None))

    def build(self, shape: AgentShape) -> "Probe":
        """Build the probe as a component, on features without gradients."""
        return Probe(self.networks.build(shape.feature_size, shape.obs_shapes))

    def auxiliary(self) -> AuxiliaryProbeConfig:
        """Return the configuration of the same probe as a loss of the world model."""
        return AuxiliaryProbeConfig(self.networks)


@dataclass(frozen=True)
class MapProbeConfig(ProbeConfig):
    """A probe that predicts the map."""

    map: MapKey
    optimizer: OptimizerKey


@dataclass(frozen=True)
class GoalsProbeConfig(ProbeConfig):
    """A probe that predicts where goals are."""

    goals: GoalsKey
    optimizer: OptimizerKey


@dataclass(frozen=True)
class MapAndGoalsProbeConfig(ProbeConfig):
    """Both probes; they share an optimiser, and its clipping."""

    map: MapKey
    goals: GoalsKey
    optimizer: OptimizerKey


class Probe(Component):
    """Trains a probe on the replayed posteriors."""

    def __init__(self, network: MapAndGoalsProbe):
        super().__init__()
        self.network = network

    def loss(self, context: UpdateContext) -> ComponentOutput:
        """Score the predictions from the posteriors' features, which get no gradient."""
        samples = context.world_model.config.iwae_samples
        features = context.posterior.features.unflatten(1, (-1, samples))  # (T, B, I, F)
        obs = {key: x[:, ::samples] for key, x in context.batch.obs.items()}  # all samples share it
        output = self.network(features, obs)
        return ComponentOutput(output.loss, mark_partial(output.metrics))

    def pictures(self, features: Tensor, batch: Batch) -> Mapping[str, np.ndarray]:
        """See `dreamer.components.DrawsPictures`."""
        return draw_probe(self.network, features, batch)
