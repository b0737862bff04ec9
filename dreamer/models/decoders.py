"""Decoders with other likelihoods: plain squared errors, and cross entropy for class images.

`model.world_model.decoder` chooses them. No kernel replaces them as a whole; their convolutions
are replaced as in the plain decoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from torch import Tensor

from dreamer.class_distributions import ClassImage
from dreamer.distributions import Distribution, Normal, SquaredError
from dreamer.models.inputs import class_shapes, with_flat_classes
from dreamer.models.observations import Decoder, ObservationConfig, ObsShapes
from dreamer.models.vision import preprocess
from dreamer.schema.types import FractionBelowOne, PositiveCount, doc

Likelihood = Literal["normal", "squared_error"]


@dataclass(frozen=True)
class DecoderConfig(ObservationConfig):
    """Which observations are predicted, and the likelihood that scores them."""

    likelihood: Annotated[
        Likelihood,
        doc("Of images and vectors: a unit normal, or minus half the squared error alone."),
    ] = "normal"
    min_prob: Annotated[
        FractionBelowOne,
        doc(
            "Share of the uniform distribution in every cell of a class image.", source="PyDreamer"
        ),
    ] = 0.0
    classes: Annotated[
        Mapping[str, PositiveCount],
        doc("Number of classes of every class image (h, w), by observation."),
    ] = field(default_factory=dict)

    def build_decoder(self, input_size: int, obs_shapes: ObsShapes) -> Decoder:
        """See `ObservationConfig`; it is the plain decoder if no other likelihood is needed."""
        one_hot = class_shapes(obs_shapes, self.classes)
        if self.likelihood == "normal" and not one_hot:
            return Decoder(input_size, obs_shapes, self)
        return LikelihoodDecoder(input_size, obs_shapes, self)


class LikelihoodDecoder(Decoder):
    """Features (..., F) -> a distribution per observation (..., *shape)."""

    def __init__(self, input_size: int, obs_shapes: ObsShapes, config: DecoderConfig):
        self.one_hot = class_shapes(obs_shapes, config.classes)
        super().__init__(input_size, with_flat_classes(obs_shapes, self.one_hot), config)
        self.likelihood, self.min_prob = config.likelihood, config.min_prob

    def forward(self, features: Tensor) -> dict[str, Distribution]:
        """(..., F) -> by key, a distribution with batch (...) and event (*shape)."""
        return {key: self._scored(key, d) for key, d in super().forward(features).items()}

    def log_prob(self, features: Tensor, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Decoder`."""
        return {
            key: d.log_prob(obs[key] if key in self.one_hot else preprocess(obs[key]))
            for key, d in self(features).items()
        }

    def _scored(self, key: str, distribution: Distribution) -> Distribution:
        """Replace the unit normal of the plain decoder."""
        assert isinstance(distribution, Normal)
        mean = distribution.mean
        if key in self.one_hot:
            return ClassImage(mean.unflatten(-1, self.one_hot[key]), self.min_prob)
        if self.likelihood == "squared_error":
            return SquaredError(mean, distribution.event_dims)
        return distribution
