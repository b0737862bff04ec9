"""Scales that follow from the data: of losses, and of rewards.

The normals of the paper have a standard deviation of 1. An error of 0.1 then costs 0.005 nats, less
than the information that would avoid it, and a task with small numbers needs loss scales of its
own. Here every number has the standard deviation that makes the data most likely: the root mean
square of its errors. A loss in nats then means the same in any units.

Returns differ as much between tasks, and with them what an entropy bonus is worth. Here rewards are
divided by their root mean square in the replay before they are predicted, so that actor and critic
see the same units in all tasks.

`model=small` uses both: `_target_` of `model.world_model`, of its `decoder` and of `heads.reward`
choose them.

Source: Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated Decoders",
https://arxiv.org/abs/2006.13202, whose decoder has one standard deviation, of the batch. Differs:
every number has its own, from a running mean, and it has a lower bound.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from dreamer.distributions import Normal
from dreamer.models.decoders import DecoderConfig
from dreamer.models.heads import DistributionLayer, Head
from dreamer.models.model_heads import ModelHeadConfig
from dreamer.models.observations import ObsShapes
from dreamer.models.world_model import WorldModel, WorldModelConfig, WorldModelOutput
from dreamer.schema.types import PositiveFraction, doc
from dreamer.schema.validation import check
from dreamer.types import Batch, RSSMState

ERROR_UPDATES = 100  # over which the mean of squared errors runs
TARGET_UPDATES = 500  # over which the statistics of targets run
FLOOR = 1e-3  # least standard deviation, in the units of the targets

MinStd = Annotated[
    PositiveFraction,
    doc("Least standard deviation, as a share of that of the targets; bounds the loss."),
]


def follow(running: Tensor, values: Tensor, update: Tensor, updates: int) -> None:
    """Move a running mean (*shape) towards that of values (n, *shape), in place.

    Up to `updates` updates it is the plain mean of all. `update` () counts from 1. Numbers that are
    not finite change nothing: the update that has them stops the run, which is saved.
    """
    mean = values.mean(0)
    mean = mean.where(mean.isfinite(), running)
    running.lerp_(mean, update.reciprocal().clamp_min(1 / updates))


class CalibratedNormal(Normal):
    """A normal with the standard deviation of its layer, which learns it from what is scored."""

    def __init__(self, mean: Tensor, layer: "CalibratedLayer"):
        super().__init__(mean, layer.running_std, len(layer.shape))
        self.layer = layer

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *event) -> (...) in nats; while gradients are enabled, the layer learns first."""
        if torch.is_grad_enabled():
            self.layer.track(self.mean.detach(), value.detach())
            self.std = self.layer.running_std
        return super().log_prob(value)


class CalibratedLayer(DistributionLayer):
    """A dense layer whose outputs are the means of normals over (..., *shape).

    As batch normalisation, it keeps statistics of the data it is trained on.
    """

    error: Tensor  # (*shape) running mean of the squared errors
    mean: Tensor  # (*shape) running mean of the targets
    square: Tensor  # (*shape) running mean of their squares
    updates: Tensor  # () number of batches

    def __init__(self, input_size: int, shape: tuple[int, ...], min_std: float):
        super().__init__(input_size, shape, "mse")
        self.min_std = min_std
        for name in ("error", "mean", "square"):
            self.register_buffer(name, torch.zeros(self.shape))
        self.register_buffer("updates", torch.zeros(()))

    @property
    def running_std(self) -> Tensor:
        """(*shape) the root mean square of the errors, at least a share of the targets' spread."""
        spread = self.square - self.mean.square()
        return self.error.maximum(self.min_std**2 * spread).clamp_min(FLOOR**2).sqrt()

    @torch.no_grad()
    def track(self, mean: Tensor, value: Tensor) -> None:
        """Learn from predictions and targets of a batch, two (..., *shape)."""
        self.updates += 1
        rows = -1, *self.shape
        value = value.float().reshape(rows)
        error = (value - mean.reshape(rows)).square()
        follow(self.error, error, self.updates, ERROR_UPDATES)
        follow(self.mean, value, self.updates, TARGET_UPDATES)
        follow(self.square, value.square(), self.updates, TARGET_UPDATES)

    def distribution(self, out: Tensor, raw: Tensor | None) -> CalibratedNormal:
        """See `DistributionLayer`."""
        return CalibratedNormal(out, self)


@dataclass(frozen=True)
class CalibratedHeadConfig(ModelHeadConfig):
    """A head of the world model with calibrated normals."""

    distribution: Annotated[Literal["mse"], doc("Distribution of the predictions.")]
    min_std: MinStd = 0.3

    def __post_init__(self):
        check(self)

    def build(self, feature_size: int, transform: object) -> Head:
        """Build the head; see `ModelHeadConfig`."""
        shape = tuple(self.shape)
        return Head(
            feature_size, shape, self, lambda size: CalibratedLayer(size, shape, self.min_std)
        )


@dataclass(frozen=True)
class CalibratedDecoderConfig(DecoderConfig):
    """Decodes vectors to calibrated normals; images as the plain decoder."""

    likelihood: Annotated[Literal["normal"], doc("Of images and vectors.")] = "normal"
    min_std: MinStd = 0.1

    def __post_init__(self):
        check(self)

    def build_output(self, input_size: int, shape: tuple[int, ...]) -> DistributionLayer:
        """See `ObservationConfig`."""
        return CalibratedLayer(input_size, shape, self.min_std)


@dataclass(frozen=True)
class CalibratedWorldModelConfig(WorldModelConfig):
    """A world model that measures rewards by their root mean square."""

    def __post_init__(self):
        super().__post_init__()
        reward = self.heads["reward"]
        if reward is not None and reward.distribution == "categorical":
            raise ValueError(
                "`heads.reward.distribution` must not be categorical in this world model, whose "
                "unit of rewards changes: choose another model, such as model=tiny"
            )

    def build(self, obs_shapes: ObsShapes, action_size: int) -> "CalibratedWorldModel":
        """See `WorldModelConfig`."""
        return CalibratedWorldModel(self, obs_shapes, action_size)


class CalibratedWorldModel(WorldModel):
    """Divides rewards by their root mean square; logs it as `reward_rms`.

    All predicted rewards and values are in this unit. It follows the batches it is trained on.
    """

    reward_square: Tensor  # () running mean of the squared rewards
    reward_updates: Tensor  # () number of batches

    def __init__(self, config: WorldModelConfig, obs_shapes: ObsShapes, action_size: int):
        super().__init__(config, obs_shapes, action_size)
        self.register_buffer("reward_square", torch.ones(()))
        self.register_buffer("reward_updates", torch.zeros(()))

    def transform_of(self, head: str) -> Callable[[Tensor], Tensor]:
        """See `WorldModel`."""
        plain = super().transform_of(head)
        return partial(self._in_units, plain) if head == "reward" else plain

    def _in_units(self, transform: Callable[[Tensor], Tensor], reward: Tensor) -> Tensor:
        return transform(reward) / self.reward_rms

    @property
    def reward_rms(self) -> Tensor:
        """() the unit of rewards; 1 as long as there are none."""
        return self.reward_square.where(self.reward_square > 0, 1.0).sqrt()

    def loss(
        self, batch: Batch, start: RSSMState | None = None, noise: Tensor | None = None
    ) -> WorldModelOutput:
        """See `WorldModel`; while gradients are enabled, the unit follows the batch first."""
        if torch.is_grad_enabled():
            self.reward_updates += 1
            square = super().transform_of("reward")(batch.reward).square().flatten()
            follow(self.reward_square, square, self.reward_updates, TARGET_UPDATES)
        output = super().loss(batch, start, noise)
        return output._replace(metrics=output.metrics | {"reward_rms": self.reward_rms})
