"""What the encoder gets besides plain observations: one-hot class images, reward and terminal.

`model.world_model.encoder` chooses it. A class image (h, w) holds the index of a class in every
cell, as grid worlds show them; dense layers encode it. Nothing here knows the RSSM.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer.models.observations import Encoder, ObservationConfig, ObsShapes, select_keys
from dreamer.models.vision import IMAGE_SIZE, preprocess
from dreamer.schema.types import PositiveCount, doc

REWARD_INPUT = "reward_input"  # key of the encoder's input of reward and terminal


def one_hot_images(image: Tensor, classes: int) -> Tensor:
    """Convert class indices (..., h, w) of any integer type to one-hot (..., K, h, w) float32."""
    return F.one_hot(image.long(), classes).movedim(-1, -3).float()


def class_shapes(obs_shapes: ObsShapes, classes: Mapping[str, int]) -> ObsShapes:
    """Return the shapes (K, h, w) of one-hot class images, by key.

    Raises:
        ValueError: the number of classes of a class image is missing, or of something else given.
    """
    keys = {key for key, shape in obs_shapes.items() if len(shape) == 2}
    if missing := keys - classes.keys():
        key = min(missing)
        raise ValueError(
            f"`classes` must have the number of classes of `{key}`, a class image "
            f"{obs_shapes[key]}, got {dict(classes)}"
        )
    if others := classes.keys() - keys:
        raise ValueError(
            f"The keys of `classes` must be class images (h, w), got {sorted(others)} among "
            f"observations {obs_shapes}"
        )
    return {key: (classes[key], *obs_shapes[key]) for key in obs_shapes if key in keys}


def with_flat_classes(obs_shapes: ObsShapes, one_hot: ObsShapes) -> ObsShapes:
    """Replace the shapes of class images by those of their flattened one-hot forms."""
    flat = {key: (int(torch.Size(shape).numel()),) for key, shape in one_hot.items()}
    return {key: flat.get(key, shape) for key, shape in obs_shapes.items()}


@dataclass(frozen=True)
class EncoderConfig(ObservationConfig):
    """Which observations are encoded, and what else."""

    reward_input: Annotated[
        bool,
        doc("Encode reward and terminal of the step, too.", source="PyDreamer"),
    ] = False
    classes: Annotated[
        Mapping[str, PositiveCount],
        doc("Number of classes of every class image (h, w), by observation."),
    ] = field(default_factory=dict)

    def build_encoder(
        self, obs_shapes: ObsShapes, transform: Callable[[Tensor], Tensor]
    ) -> Encoder:
        """See `ObservationConfig`; it is the plain encoder if nothing has to be converted."""
        one_hot = class_shapes(obs_shapes, self.classes)
        if not (one_hot or self.reward_input):
            return Encoder(obs_shapes, self)
        return ConvertingEncoder(obs_shapes, self, transform)


class ConvertingEncoder(Encoder):
    """Gets one-hot class images and, with `reward_input`, reward and terminal of the same step.

    Reward and terminal are two constant planes beside the images, or two numbers beside the vectors
    if there are no images.
    """

    def __init__(
        self,
        obs_shapes: ObsShapes,
        config: EncoderConfig,
        transform: Callable[[Tensor], Tensor],
    ):
        """`transform` maps raw rewards to what the encoder gets.

        Raises:
            ValueError: see `class_shapes`; or an observation has the name of the added input.
        """
        self.one_hot = class_shapes(obs_shapes, config.classes)
        self.transform = transform
        shapes = with_flat_classes(obs_shapes, self.one_hot)
        used: ObservationConfig = config
        if config.reward_input:
            if REWARD_INPUT in obs_shapes:
                raise ValueError(
                    f"No observation must be called `{REWARD_INPUT}` with reward_input=true, got "
                    f"{sorted(obs_shapes)}"
                )
            images, _ = select_keys(shapes, config)
            part = "image_keys" if images else "vector_keys"
            shapes[REWARD_INPUT] = (2, IMAGE_SIZE, IMAGE_SIZE) if images else (2,)
            pattern = f"(?:{getattr(config, part)})|{REWARD_INPUT}$"
            used = dataclasses.replace(config, **{part: pattern})
        super().__init__(shapes, used)
        self.reads_reward = config.reward_input

    def inputs(
        self, obs: dict[str, Tensor], reward: Tensor | None, is_terminal: Tensor | None
    ) -> dict[str, Tensor]:
        """See `Encoder`.

        Raises:
            ValueError: reward or terminal is missing, and read.
        """
        obs = obs | {
            key: one_hot_images(obs[key], shape[0]).flatten(-3)
            for key, shape in self.one_hot.items()
        }
        if not self.reads_reward:
            return obs
        if reward is None or is_terminal is None:
            raise ValueError(
                "Reward and terminal of the step must be given to an agent with reward_input=true, "
                "got none"
            )
        numbers = torch.stack([self.transform(reward.float()), is_terminal.float()], -1)  # (..., 2)
        if self.image_keys:
            numbers = numbers[..., None, None].expand(*numbers.shape, IMAGE_SIZE, IMAGE_SIZE)
            images = [key for key in self.image_keys if key != REWARD_INPUT]
            obs = obs | {key: preprocess(obs[key]) for key in images}
        return obs | {REWARD_INPUT: numbers}
