"""Encoder and decoder of observations: convolutions for images, dense layers for vectors.

The world model encodes a dictionary of observations to one embedding, and decodes features to a
distribution per observation. Keys keep their order; the embedding of the images comes first.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from dreamer.distributions import Distribution, Normal
from dreamer.models.heads import DistributionLayer
from dreamer.models.layers import MLP, ActivationKey, NormKey, init_glorot
from dreamer.models.vision import IMAGE_SIZE, ConvConfig, ConvDecoder, ConvEncoder, preprocess
from dreamer.schema.types import Pattern, PositiveCount, doc
from dreamer.schema.validation import check

ObsShapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class VectorConfig:
    """A stack of dense layers for vector observations."""

    layers: Annotated[Sequence[PositiveCount], doc("Units of each layer.")]
    activation: ActivationKey
    norm: NormKey

    def build(self, input_size: int) -> nn.Module:
        """Build an encoder (..., input_size) -> (..., output_size)."""
        return MLP(input_size, self.layers, activation=self.activation, norm=self.norm)

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class ObservationConfig:
    """Which observations are encoded or decoded, and the networks."""

    image_keys: Annotated[Pattern, doc("Pattern of the image observations used; '$^' for none.")]
    vector_keys: Annotated[Pattern, doc("Pattern of the vector observations used; '$^' for none.")]
    image: Annotated[ConvConfig, doc("The convolutions, for images.")]
    vector: Annotated[VectorConfig, doc("The dense layers, for vectors.")]

    def build_encoder(
        self, obs_shapes: ObsShapes, transform: Callable[[Tensor], Tensor]
    ) -> "Encoder":
        """Build the encoder; `transform` maps raw rewards to those that a subclass may encode."""
        return Encoder(obs_shapes, self)

    def build_decoder(self, input_size: int, obs_shapes: ObsShapes) -> "Decoder":
        """Build the decoder; a subclass may build another."""
        return Decoder(input_size, obs_shapes, self)

    def build_output(self, input_size: int, shape: tuple[int, ...]) -> DistributionLayer:
        """Build the last layer of a vector observation; a subclass may build another."""
        return DistributionLayer(input_size, shape, "mse")

    def __post_init__(self):
        check(self)


def select_keys(obs_shapes: ObsShapes, config: ObservationConfig) -> tuple[list[str], list[str]]:
    """Return the image keys (C, 64, 64) and vector keys (O,) that the patterns match.

    Raises:
        ValueError: an image is not 64 pixels wide and high, or no key matches.
    """
    images = [k for k, s in obs_shapes.items() if len(s) == 3 and re.match(config.image_keys, k)]
    vectors = [k for k, s in obs_shapes.items() if len(s) == 1 and re.match(config.vector_keys, k)]
    for key in images:
        if obs_shapes[key][1:] != (IMAGE_SIZE, IMAGE_SIZE):
            raise ValueError(
                f"Image `{key}` must have shape (channels, {IMAGE_SIZE}, {IMAGE_SIZE}), "
                f"got {obs_shapes[key]}"
            )
    if not images and not vectors:
        raise ValueError(
            f"`image_keys` or `vector_keys` must match an observation of {obs_shapes}, "
            f"got {config.image_keys!r} and {config.vector_keys!r}"
        )
    return images, vectors


class Encoder(nn.Module):
    """Observations (..., *shape) -> embedding (..., M)."""

    reads_reward = False  # whether `inputs` needs reward and terminal

    def __init__(self, obs_shapes: ObsShapes, config: ObservationConfig):
        super().__init__()
        self.image_keys, self.vector_keys = select_keys(obs_shapes, config)
        self.output_size = 0
        if self.image_keys:
            channels = sum(obs_shapes[k][0] for k in self.image_keys)
            self.image = ConvEncoder(channels, config.image)
            self.output_size += self.image.output_size
        if self.vector_keys:
            self.vector = config.vector.build(sum(obs_shapes[k][0] for k in self.vector_keys))
            size = self.vector.output_size
            assert isinstance(size, int)
            self.output_size += size
        self.apply(init_glorot)

    def inputs(
        self, obs: dict[str, Tensor], reward: Tensor | None, is_terminal: Tensor | None
    ) -> dict[str, Tensor]:
        """Convert raw observations (..., *shape) to what `forward` gets; here they are the same.

        Args:
            obs: by key.
            reward: (...) raw, of arriving at the observations; a subclass may read it.
            is_terminal: (...) bool; a subclass may read it.
        """
        return obs

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Raw observations (..., *shape) -> (..., M) float32."""
        outputs = []
        if self.image_keys:
            outputs.append(self.image(torch.cat([obs[k] for k in self.image_keys], -3)))
        if self.vector_keys:
            vectors = [preprocess(obs[k]) for k in self.vector_keys]
            outputs.append(self.vector(torch.cat(vectors, -1)))
        return torch.cat([x.float() for x in outputs], -1)


class Decoder(nn.Module):
    """Features (..., F) -> a unit normal per observation (..., *shape)."""

    def __init__(self, input_size: int, obs_shapes: ObsShapes, config: ObservationConfig):
        super().__init__()
        self.image_keys, self.vector_keys = select_keys(obs_shapes, config)
        self.channels = [obs_shapes[k][0] for k in self.image_keys]
        if self.image_keys:
            self.image = ConvDecoder(input_size, sum(self.channels), config.image)
        if self.vector_keys:
            vector = config.vector
            self.vector = MLP(
                input_size, vector.layers, activation=vector.activation, norm=vector.norm
            )
            names = [_module_name(k) for k in self.vector_keys]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(
                    f"Observations must differ in their module names, got {sorted(twice)} twice"
                )
            self.outputs = nn.ModuleDict(
                {
                    _module_name(k): config.build_output(self.vector.output_size, obs_shapes[k])
                    for k in self.vector_keys
                }
            )
        self.apply(init_glorot)

    def forward(self, features: Tensor) -> dict[str, Distribution]:
        """(..., F) -> by key, a distribution with batch (...) and event (*shape)."""
        distributions: dict[str, Distribution] = {}
        if self.image_keys:
            means = self.image(features).split(self.channels, -3)
            for key, mean in zip(self.image_keys, means, strict=True):
                distributions[key] = Normal(mean, 1.0, event_dims=3)
        return distributions | self.vectors(features)

    def vectors(self, features: Tensor) -> dict[str, Distribution]:
        """Decode the vector observations only, as `forward` does."""
        if not self.vector_keys:
            return {}
        x = self.vector(features)
        return {key: self.outputs[_module_name(key)](x) for key in self.vector_keys}

    def log_prob(self, features: Tensor, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Score raw observations.

        Args:
            features: (..., F).
            obs: by key, (..., *shape); no gradient flows into them.

        Returns:
            By key, log-probabilities (...) in nats.
        """
        return {k: d.log_prob(preprocess(obs[k])) for k, d in self(features).items()}


def _module_name(key: str) -> str:
    """Turn the key of an observation into the name of a module.

    Module names have no dots, and `nn.ModuleDict` reserves some.
    """
    name = key.replace(".", "\N{MIDDLE DOT}")
    return f"{name}_" if hasattr(nn.ModuleDict(), name) else name
