"""Normal predictions whose standard deviation follows from their own errors.

The normals of the paper have a standard deviation of 1. An error of 0.1 then costs 0.005 nats, less
than the information that would avoid it, and a task with small numbers needs loss scales of its
own. Here every number has the standard deviation that makes the data most likely: the root mean
square of its errors. A loss in nats then means the same in any units. `_target_` of
`model.world_model.decoder` and `model.world_model.heads.reward` chooses it.

Source: Rybkin et al. 2021, "Simple and Effective VAE Training with Calibrated Decoders",
https://arxiv.org/abs/2006.13202, whose decoder has one standard deviation, of the batch. Differs:
every number has its own, from a running mean, and it has a lower bound.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from dreamer.distributions import Normal
from dreamer.models.decoders import DecoderConfig
from dreamer.models.heads import DistributionLayer, Head
from dreamer.models.model_heads import ModelHeadConfig
from dreamer.schema.types import PositiveFraction, doc
from dreamer.schema.validation import check

ERROR_UPDATES = 100  # over which the mean of squared errors runs
SPREAD_UPDATES = 500  # over which the mean and the spread of the targets run
FLOOR = 1e-3  # least standard deviation, in the units of the targets

MinStd = Annotated[
    PositiveFraction,
    doc("Least standard deviation, as a share of that of the targets; bounds the loss."),
]


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
        self._follow(self.error, error, ERROR_UPDATES)
        self._follow(self.mean, value, SPREAD_UPDATES)
        self._follow(self.square, value.square(), SPREAD_UPDATES)

    def _follow(self, running: Tensor, values: Tensor, updates: int) -> None:
        """Move a running mean towards that of values (n, *shape); at first it is the plain mean."""
        running.lerp_(values.mean(0), self.updates.reciprocal().clamp_min(1 / updates))

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
