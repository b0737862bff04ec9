"""The probe of a run: a component that reads maps and goals from the features of replayed states.

`dreamer.run` adds it to the agent, by the name `probe`. It learns with an optimiser of its own and,
unless `probe_gradients` is true, changes nothing else. It knows no environments.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from dreamer.components import AgentShape, Component, ComponentOutput, UpdateContext
from dreamer.models.heads import HeadConfig
from dreamer.models.probes import (
    CategoricalImageConfig,
    GoalsData,
    GoalsProbe,
    MapAndGoalsProbe,
    MapData,
    MapProbe,
)
from dreamer.optim import OptimizerConfig
from dreamer.schema.types import doc
from dreamer.schema.validation import check
from dreamer.types import HIDDEN, Batch
from dreamer.video import draw_goals, draw_maps

PROBE = "probe"  # name of the component

MapKey = Annotated[CategoricalImageConfig, doc("Layers that predict the map.")]
GoalsKey = Annotated[HeadConfig, doc("Layers that predict each vector to a goal.")]
OptimizerKey = Annotated[OptimizerConfig, doc("Optimiser of the probe.")]


@dataclass(frozen=True)
class MapProbeConfig:
    """A probe that predicts the map."""

    map: MapKey
    optimizer: OptimizerKey

    def __post_init__(self):
        check(self)

    def build(self, shape: AgentShape) -> "Probe":
        """Build the probe."""
        return Probe(MapAndGoalsProbe(_make_map_probe(self.map, shape), None))


@dataclass(frozen=True)
class GoalsProbeConfig:
    """A probe that predicts where goals are."""

    goals: GoalsKey
    optimizer: OptimizerKey

    def __post_init__(self):
        check(self)

    def build(self, shape: AgentShape) -> "Probe":
        """Build the probe."""
        return Probe(MapAndGoalsProbe(None, _make_goals_probe(self.goals, shape)))


@dataclass(frozen=True)
class MapAndGoalsProbeConfig:
    """Both probes; they share an optimiser, and its clipping."""

    map: MapKey
    goals: GoalsKey
    optimizer: OptimizerKey

    def __post_init__(self):
        check(self)

    def build(self, shape: AgentShape) -> "Probe":
        """Build the probes."""
        return Probe(
            MapAndGoalsProbe(_make_map_probe(self.map, shape), _make_goals_probe(self.goals, shape))
        )


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
        return ComponentOutput(
            output.loss, {_metric_name(key): x for key, x in output.metrics.items()}
        )

    @torch.no_grad()
    def pictures(self, features: Tensor, batch: Batch) -> Mapping[str, np.ndarray]:
        """Draw truth and prediction; see `dreamer.components.Pictures`."""
        tensors = self.network(features[:, :, None], batch.obs).tensors
        drawn = {}
        if self.network.map is not None:
            truth = MapData.of(batch.obs)
            drawn["map"] = draw_maps(
                truth.map.argmax(2).cpu().numpy(),
                tensors["map_rec"].argmax(2).cpu().numpy(),
                seen=None if truth.seen is None else truth.seen.cpu().numpy(),
                position=batch.obs[HIDDEN + "agent_pos"].float().cpu().numpy(),
                direction=batch.obs[HIDDEN + "agent_dir"].float().cpu().numpy(),
            )
        if self.network.goals is not None:
            drawn["goals"] = draw_goals(
                GoalsData.of(batch.obs).targets.cpu().numpy(),
                tensors["goals_direction_pred"].cpu().numpy(),
            )
        return drawn


def _metric_name(key: str) -> str:
    """Mark what may be nan: `Metrics` leaves it out of its averages."""
    return re.sub(r"^(acc_map|mse_goal)_(seen|age\d+)$", r"\1_where_\2", key)


def _make_map_probe(config: CategoricalImageConfig, shape: AgentShape) -> MapProbe:
    (cells, _, _) = (_shape_of(shape, key) for key in ("map", "agent_pos", "agent_dir"))
    if len(cells) != 3:
        raise ValueError(
            f"The observation `{HIDDEN}map` must have the shape (classes, height, width), one-hot, "
            f"got {cells}"
        )
    return MapProbe(shape.feature_size, (cells[0], cells[1], cells[2]), config)


def _make_goals_probe(config: HeadConfig, shape: AgentShape) -> GoalsProbe:
    (targets, _) = (_shape_of(shape, key) for key in ("targets_vec", "target_vec"))
    return GoalsProbe(shape.feature_size, int(np.prod(targets)) // 2, config)


def _shape_of(shape: AgentShape, key: str) -> tuple[int, ...]:
    """Return the shape of a hidden observation.

    Raises:
        ValueError: The environment does not provide it.
    """
    name = HIDDEN + key
    if name not in shape.obs_shapes:
        raise ValueError(
            f"`probe` must be none in an environment without the observation `{name}`, got a probe "
            f"that needs it beside {', '.join(shape.obs_shapes)}. MiniGrid has maps and goals; "
            "docs/probes.md shows how an environment of your own provides them."
        )
    return shape.obs_shapes[name]
