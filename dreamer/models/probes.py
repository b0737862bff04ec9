"""Probes: networks that read from the features what the agent was never shown.

Components (`dreamer/probes.py`) train them. They know observations by name, no environment.

Letters: I samples of every sequence, C classes of the cells of an h x w map, G goals.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from dreamer.distributions import CategoricalImage
from dreamer.losses import importance_weighted
from dreamer.models.heads import DistributionLayer, Head, HeadConfig
from dreamer.models.layers import MLP, ActivationKey, NormKey, init_glorot
from dreamer.schema.types import Count, Fraction, PositiveCount, doc
from dreamer.schema.validation import check
from dreamer.types import HIDDEN

GOAL_AGES = (0, 5, 10, 50, 200, 1000)  # steps since a goal was seen, the ends of ranges
VISIBLE_STEPS = 500  # `map_vis` below this counts as seen


class MapData(NamedTuple):
    """What a map probe is told, and what it is to find out."""

    map: Tensor  # (T, B, C, h, w) one-hot
    coordinates: Tensor  # (T, B, 4) the agent's position in [-1, 1] and its direction
    seen: Tensor | None = None  # (T, B, h, w) bool, cells that were visible in the episode so far

    @classmethod
    def of(cls, obs: Mapping[str, Tensor]) -> "MapData":
        """Preprocess raw observations, named with `HIDDEN` in front.

        `map_seen`, or else `map_vis`, the steps since a cell was visible, may be missing.
        """
        cells = obs[HIDDEN + "map"].float()
        height, width = cells.shape[-2:]
        position, direction = obs[HIDDEN + "agent_pos"], obs[HIDDEN + "agent_dir"]
        size = torch.stack([position.new_full((), x) for x in (width, height)])
        coordinates = torch.cat([2 * position / size - 1, direction], -1)  # (T, B, 4)
        seen = None
        if (steps := obs.get(HIDDEN + "map_seen")) is not None:
            seen = steps > 0
        elif (steps := obs.get(HIDDEN + "map_vis")) is not None:
            seen = steps < VISIBLE_STEPS
        if seen is not None:
            seen = seen.flatten(2).unflatten(2, (height, width))
        return cls(cells, coordinates.float(), seen)


class GoalsData(NamedTuple):
    """Where goals are, as seen from the agent."""

    target: Tensor  # (T, B, 2) the vector to the goal that counts now
    targets: Tensor  # (T, B, G, 2) the vectors to all goals
    ages: Tensor | None = None  # (T, B, G) steps since each was visible

    @classmethod
    def of(cls, obs: Mapping[str, Tensor]) -> "GoalsData":
        """Preprocess raw observations, named with `HIDDEN` in front; ages may be missing."""
        targets = obs[HIDDEN + "targets_vec"].float()
        return cls(
            obs[HIDDEN + "target_vec"].float(),
            targets.flatten(2).unflatten(2, (-1, 2)),
            obs.get(HIDDEN + "goals_visage"),
        )


class ProbeOutput(NamedTuple):
    """Result of a probe; all but the loss is detached."""

    loss: Tensor  # ()
    metrics: dict[str, Tensor]  # by name, each (); nan where there is nothing to average
    tensors: dict[str, Tensor]  # by name, each (T, B, ...)


@dataclass(frozen=True)
class CategoricalImageConfig:
    """Dense layers that end in a class for every pixel."""

    layers: Annotated[Count, doc("Layers before the last one.")]
    units: Annotated[PositiveCount, doc("Units of each layer.")]
    activation: ActivationKey
    norm: NormKey
    min_prob: Annotated[Fraction, doc("Weight of equal probabilities, mixed with the predicted.")]

    def __post_init__(self):
        check(self)


class CategoricalImageDecoder(nn.Module):
    """Dense layers that end in a class for every pixel: (..., input_size) -> (..., C, h, w)."""

    def __init__(
        self, input_size: int, shape: tuple[int, int, int], config: CategoricalImageConfig
    ):
        """`shape` is (C, h, w)."""
        super().__init__()
        self.trunk = MLP(
            input_size,
            [config.units] * config.layers,
            activation=config.activation,
            norm=config.norm,
        )
        self.out = _CategoricalImageLayer(self.trunk.output_size, shape, config.min_prob)
        self.apply(init_glorot)

    def forward(self, x: Tensor) -> CategoricalImage:
        """(..., input_size) -> a distribution with batch (...) and event (C, h, w)."""
        return self.out(self.trunk(x))


class _CategoricalImageLayer(DistributionLayer):
    def __init__(self, input_size: int, shape: tuple[int, int, int], min_prob: float):
        super().__init__(input_size, shape, "categorical_image")
        self.min_prob = min_prob

    def distribution(self, out: Tensor, raw: Tensor | None) -> CategoricalImage:
        return CategoricalImage(out, self.min_prob)


class MapProbe(nn.Module):
    """Predicts the whole map from the features and the agent's position on it.

    Source: `MapProbeHead` of PyDreamer, https://github.com/jurgisp/pydreamer
    """

    def __init__(
        self, feature_size: int, shape: tuple[int, int, int], config: CategoricalImageConfig
    ):
        """`shape` is (C, h, w) of the map."""
        super().__init__()
        self.decoder = CategoricalImageDecoder(feature_size + 4, shape, config)

    def forward(self, features: Tensor, data: MapData) -> ProbeOutput:
        """Score the predictions.

        Args:
            features: (T, B, I, F); gradients flow into them.
            data: (T, B, ...).
        """
        samples = features.shape[2]
        coordinates = data.coordinates[:, :, None].expand(-1, -1, samples, -1)
        prediction = self.decoder(torch.cat([features, coordinates], -1))
        loss = importance_weighted(-prediction.log_prob(data.map[:, :, None]))  # (T, B)
        tensors = {"loss_map": loss.detach()}
        with torch.no_grad():
            # The average of the samples' probabilities.
            log_probs = -importance_weighted(-prediction.log_probs.movedim(2, -1))
            tensors["map_rec"] = log_probs.log_softmax(2)  # (T, B, C, h, w)
            correct = log_probs.argmax(2) == data.map.argmax(2)  # (T, B, h, w)
            tensors["acc_map"] = correct.float().mean((-2, -1))
            if data.seen is not None:
                right = (correct & data.seen).float().sum((-2, -1))
                tensors["acc_map_seen"] = right / data.seen.float().sum((-2, -1))
            metrics = {key: tensors[key].mean() for key in ("loss_map", "acc_map")}
            if data.seen is not None:  # nowhere at first, in an environment that starts blind
                metrics["acc_map_seen"] = tensors["acc_map_seen"].nanmean()
        return ProbeOutput(loss.mean(), metrics, tensors)


class GoalsProbe(nn.Module):
    """Predicts from the features where goals are, as seen from the agent.

    Source: `GoalsProbe` of PyDreamer, https://github.com/jurgisp/pydreamer
    """

    def __init__(self, feature_size: int, goals: int, config: HeadConfig):
        """`goals` is G."""
        super().__init__()
        self.target = Head(feature_size, (2,), config)
        self.targets = Head(feature_size, (goals, 2), config)

    def forward(self, features: Tensor, data: GoalsData) -> ProbeOutput:
        """Score the predictions.

        Args:
            features: (T, B, I, F); gradients flow into them.
            data: (T, B, ...).
        """
        target, targets = self.target(features), self.targets(features)
        losses = {  # (T, B) each
            "loss_goal_direction": importance_weighted(-target.log_prob(data.target[:, :, None])),
            "loss_goals_direction": importance_weighted(
                -targets.log_prob(data.targets[:, :, None])
            ),
        }
        with torch.no_grad():
            mean = targets.mean.mean(2)  # (T, B, G, 2)
            distance = (mean - data.targets).square().sum(-1)  # (T, B, G), squared
            metrics = {key: x.mean() for key, x in losses.items()}
            metrics["mse_goals"] = distance.mean()
            metrics["var_goals"] = data.targets.flatten(0, 1).var(0).sum(-1).mean()
            if data.ages is not None:
                metrics |= _by_age(distance, data.ages)
            tensors = {key: x.detach() for key, x in losses.items()} | {
                "goal_direction_pred": target.mean.mean(2),
                "goals_direction_pred": mean,
            }
        loss = torch.stack([x.mean() for x in losses.values()]).sum()
        return ProbeOutput(loss, metrics, tensors)


class MapAndGoalsProbe(nn.Module):
    """A map probe, a goals probe, or both, on raw observations; the loss is the sum of theirs."""

    def __init__(self, map_probe: MapProbe | None, goals_probe: GoalsProbe | None):
        super().__init__()
        self.map, self.goals = map_probe, goals_probe

    def forward(self, features: Tensor, obs: Mapping[str, Tensor]) -> ProbeOutput:
        """Score the predictions.

        Args:
            features: (T, B, I, F); gradients flow into them.
            obs: raw, by name, each (T, B, ...).
        """
        outputs = []
        if self.map is not None:
            outputs.append(self.map(features, MapData.of(obs)))
        if self.goals is not None:
            outputs.append(self.goals(features, GoalsData.of(obs)))
        return ProbeOutput(
            torch.stack([output.loss for output in outputs]).sum(),
            {key: x for output in outputs for key, x in output.metrics.items()},
            {key: x for output in outputs for key, x in output.tensors.items()},
        )


def _by_age(distance: Tensor, ages: Tensor) -> dict[str, Tensor]:
    """Average (T, B, G) where the age is in each range; nan where it never is."""
    means = {}
    for low, high in pairwise((-1, *GOAL_AGES)):
        chosen = (ages > low) & (ages <= high)
        means[f"mse_goal_age{high}"] = (distance * chosen).sum() / chosen.sum()
    return means
