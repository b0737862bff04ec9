"""A probe that trains the world model: its loss is added to the model's (`probe_gradients`).

It belongs to the world model: its optimiser, its norm, its checkpoint. `dreamer/probes.py` has the
probe that leaves the world model alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from dreamer.models.auxiliary import Auxiliary, AuxiliaryContext, AuxiliaryOutput, AuxiliaryShape
from dreamer.models.probe_pictures import draw_probe
from dreamer.models.probes import MapAndGoalsProbe, ProbeNetworks, mark_partial
from dreamer.schema.types import NonNegative, doc
from dreamer.schema.validation import check
from dreamer.types import Batch


@dataclass(frozen=True)
class AuxiliaryProbeConfig:
    """A probe as an auxiliary loss."""

    networks: ProbeNetworks
    weight: Annotated[NonNegative, doc("Weight of the loss in that of the world model.")] = 1.0

    def __post_init__(self):
        check(self)

    def build(self, shape: AuxiliaryShape) -> "AuxiliaryProbe":
        """Build the probe."""
        return AuxiliaryProbe(self.networks.build(shape.feature_size, shape.obs_shapes))


class AuxiliaryProbe(Auxiliary):
    """Sends the gradients of a probe into the features of all samples."""

    def __init__(self, network: MapAndGoalsProbe):
        super().__init__()
        self.network = network

    def loss(self, context: AuxiliaryContext) -> AuxiliaryOutput:
        """See `Auxiliary`."""
        output = self.network(context.samples, context.batch.obs)
        return AuxiliaryOutput(output.loss, mark_partial(output.metrics))

    @torch.no_grad()
    def pictures(self, features: Tensor, batch: Batch) -> Mapping[str, np.ndarray]:
        """See `dreamer.components.DrawsPictures`."""
        return draw_probe(self.network, features, batch)
