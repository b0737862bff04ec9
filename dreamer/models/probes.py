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

from dreamer.class_distributions import ClassImage
from dreamer.losses import importance_weighted
from dreamer.models.heads import DistributionLayer, Head, HeadConfig
from dreamer.models.layers import MLP, ActivationKey, NormKey, init_glorot
from dreamer.models.maps import map_coordinates, seen_mask
from dreamer.schema.types import Count, FractionBelowOne, PositiveCount, doc
from dreamer.schema.validation import check
from dreamer.types import HIDDEN

GOAL_AGES = (0, 5, 10, 50, 200, 1000)  # steps since a goal was seen, the ends of ranges


class MapData(NamedTuple):
    """What a map probe is told, and what it is to find out."""

    map: Tensor  # (T, B, h, w) class of each cell
    coordinates: Tensor  # (T, B, 4) the agent's position in [-1, 1] and its direction
    seen: Tensor | None = None  # (T, B, h, w) bool, cells that were visible in the episode so far

    @classmethod
    def of(cls, obs: Mapping[str, Tensor]) -> "MapData":
        """Preprocess raw observations, named with `HIDDEN` in front.

        `map_seen`, or else `map_vis`, the steps since a cell was visible, may be missing.
        """
        one_hot = obs[HIDDEN + "map"]
        height, width = one_hot.shape[-2:]
        position, direction = obs[HIDDEN + "agent_pos"], obs[HIDDEN + "agent_dir"]
        edges = torch.stack([position.new_full((), edge) for edge in (width, height)])
        flags, ages = obs.get(HIDDEN + "map_seen"), obs.get(HIDDEN + "map_vis")
        seen = None
        if flags is not None or ages is not None:
            seen = seen_mask(seen=flags, steps_since_visible=ages)
            seen = seen.flatten(2).unflatten(2, (height, width))
        return cls(one_hot.argmax(2), map_coordinates(position, direction, edges), seen)


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
class ClassImageConfig:
    """Dense layers that end in a class for every pixel."""

    layers: Annotated[Count, doc("Layers before the last one.")]
    units: Annotated[PositiveCount, doc("Units of each layer.")]
    activation: ActivationKey
    norm: NormKey
    min_prob: Annotated[
        FractionBelowOne, doc("Weight of equal probabilities, mixed with the predicted.")
    ]

    def __post_init__(self):
        check(self)


class ClassImageDecoder(nn.Module):
    """Dense layers that end in a class for every pixel: (..., input_size) -> (..., C, h, w)."""

    def __init__(self, input_size: int, shape: tuple[int, int, int], config: ClassImageConfig):
        """`shape` is (C, h, w)."""
        super().__init__()
        self.trunk = MLP(
            input_size,
            [config.units] * config.layers,
            activation=config.activation,
            norm=config.norm,
        )
        self.out = _ClassImageLayer(self.trunk.output_size, shape, config.min_prob)
        self.apply(init_glorot)

    def forward(self, x: Tensor) -> ClassImage:
        """(..., input_size) -> a distribution with batch (...) and event (C, h, w)."""
        return self.out(self.trunk(x))


class _ClassImageLayer(DistributionLayer):
    def __init__(self, input_size: int, shape: tuple[int, int, int], min_prob: float):
        super().__init__(input_size, shape, "class_image")
        self.min_prob = min_prob

    def distribution(self, out: Tensor, raw: Tensor | None) -> ClassImage:
        return ClassImage(out, self.min_prob)


class MapProbe(nn.Module):
    """Predicts the whole map from the features and the agent's position on it.

    Source: `MapProbeHead` of PyDreamer, https://github.com/jurgisp/pydreamer
    """

    def __init__(self, feature_size: int, shape: tuple[int, int, int], config: ClassImageConfig):
        """`shape` is (C, h, w) of the map."""
        super().__init__()
        self.decoder = ClassImageDecoder(feature_size + 4, shape, config)

    def forward(self, features: Tensor, data: MapData) -> ProbeOutput:
        """Score the predictions.

        Args:
            features: (T, B, I, F); gradients flow into them.
            data: (T, B, ...).
        """
        samples = features.shape[2]
        coordinates = data.coordinates[:, :, None].expand(-1, -1, samples, -1)
        prediction = self.decoder(torch.cat([features, coordinates], -1))
        target = data.map[:, :, None].expand(-1, -1, samples, -1, -1)
        loss = importance_weighted(-prediction.log_prob(target))  # (T, B)
        tensors = {"loss_map": loss.detach()}
        with torch.no_grad():
            # The average of the samples' probabilities.
            log_probs = -importance_weighted(-prediction.log_probs.movedim(2, -1))
            tensors["map_rec"] = log_probs.log_softmax(2)  # (T, B, C, h, w)
            correct = log_probs.argmax(2) == data.map  # (T, B, h, w)
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


class ProbeNetworks(NamedTuple):
    """Layers of the networks of a probe; None: without that probe."""

    map: ClassImageConfig | None
    goals: HeadConfig | None

    def build(
        self, feature_size: int, obs_shapes: Mapping[str, tuple[int, ...]]
    ) -> MapAndGoalsProbe:
        """Build them for an environment's observations.

        Raises:
            ValueError: The environment does not provide what the probe needs.
        """
        map_probe = goals_probe = None
        if self.map is not None:
            shape, *_ = (_shape_of(obs_shapes, x) for x in ("map", "agent_pos", "agent_dir"))
            if len(shape) != 3:
                raise ValueError(
                    f"The observation `{HIDDEN}map` must have the shape (classes, height, width), "
                    f"one-hot, got {shape}"
                )
            map_probe = MapProbe(feature_size, shape, self.map)
        if self.goals is not None:
            shape, _ = (_shape_of(obs_shapes, x) for x in ("targets_vec", "target_vec"))
            goals_probe = GoalsProbe(feature_size, torch.Size(shape).numel() // 2, self.goals)
        return MapAndGoalsProbe(map_probe, goals_probe)


def _shape_of(obs_shapes: Mapping[str, tuple[int, ...]], key: str) -> tuple[int, ...]:
    """Return the shape of a hidden observation.

    Raises:
        ValueError: The environment does not provide it.
    """
    name = HIDDEN + key
    if name not in obs_shapes:
        raise ValueError(
            f"`probe` must be none in an environment without the observation `{name}`, got a probe "
            f"that needs it beside {', '.join(obs_shapes)}. MiniGrid has maps and goals; "
            "docs/probes.md shows how an environment of your own provides them."
        )
    return obs_shapes[name]


def mark_partial(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename metrics that may be nan, so that loggers average them where they are not."""
    names = {"acc_map_seen": "acc_map_where_seen"}
    names |= {f"mse_goal_age{age}": f"mse_goal_where_age{age}" for age in GOAL_AGES}
    return {names.get(key, key): x for key, x in metrics.items()}


def _by_age(distance: Tensor, ages: Tensor) -> dict[str, Tensor]:
    """Average (T, B, G) where the age is in each range; nan where it never is."""
    means = {}
    for low, high in pairwise((-1, *GOAL_AGES)):
        chosen = (ages > low) & (ages <= high)
        means[f"mse_goal_age{high}"] = (distance * chosen).sum() / chosen.sum()
    return means
