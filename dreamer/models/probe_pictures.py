"""Pictures of what a probe predicts, beside the truth; both kinds of probes draw them."""

import numpy as np
import torch
from torch import Tensor

from dreamer.captions import panels
from dreamer.models.probes import GoalsData, MapAndGoalsProbe, MapData
from dreamer.types import HIDDEN, Batch
from dreamer.video import goal_rows, map_rows


@torch.no_grad()
def draw_probe(network: MapAndGoalsProbe, features: Tensor, batch: Batch) -> dict[str, np.ndarray]:
    """Draw truth and prediction of `map` and `goals`, as far as the probe has them.

    Args:
        network: the probe.
        features: (T, B, F).
        batch: (T, B, ...), raw.

    Returns:
        By name, images (T, height, width, 3) uint8, the B sequences side by side.
    """
    predicted = network(features[:, :, None], batch.obs).tensors
    drawn = {}
    if network.map is not None:
        truth = MapData.of(batch.obs)
        maps = map_rows(
            _numpy(truth.map),
            _numpy(predicted["map_rec"].argmax(2)),
            seen=None if truth.seen is None else _numpy(truth.seen),
            position=_numpy(batch.obs[HIDDEN + "agent_pos"]),
            direction=_numpy(batch.obs[HIDDEN + "agent_dir"]),
        )
        drawn["map"] = panels(maps)
    if network.goals is not None:
        truth = GoalsData.of(batch.obs)
        goals = goal_rows(_numpy(truth.targets), _numpy(predicted["goals_direction_pred"]))
        drawn["goals"] = panels(goals)
    return drawn


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
