"""Probes of ours with PyDreamer's weights, and of the sizes that these have."""

import numpy as np
import torch
import torch.nn.functional as F
from golden import Case
from pydreamer import (
    AnyHead,
    Weights,
    head_gradients,
    head_parameters,
    hidden_layers,
    load_head,
)

from dreamer.models.heads import HeadConfig
from dreamer.models.layers import Norm
from dreamer.models.probes import (
    ClassImageConfig,
    ClassImageDecoder,
    GoalsProbe,
    MapAndGoalsProbe,
    MapProbe,
)
from dreamer.types import HIDDEN, Batch

MAP_FOLDER = "decoder/model"
GOAL, GOALS = "decoders/goal_direction/model/model", "decoders/goals_direction/model/model"


def norm_of(weights: Weights, folder: str) -> Norm:
    """Whether the hidden layers are normed."""
    return "layer" if f"{folder}/1/weight" in weights else "none"


def image_config(weights: Weights, folder: str, min_prob: float = 0.0) -> ClassImageConfig:
    """Sizes of the layers, read from the weights."""
    units = weights[f"{folder}/0/weight"].shape[0]
    layers, norm = hidden_layers(weights, folder), norm_of(weights, folder)
    return ClassImageConfig(layers, units, "elu", norm, min_prob)


def map_shape(weights: Weights, folder: str, edges: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, h, w) of the predictions for maps of that height and width."""
    outputs = weights[f"{folder}/{3 * hidden_layers(weights, folder)}/bias"].shape[0]
    return outputs // (edges[0] * edges[1]), edges[0], edges[1]


def image_decoder(case: Case) -> ClassImageDecoder:
    """The decoder of a probe, with the weights of a case."""
    weights = case.under("w")
    shape = map_shape(weights, "model", case.array("in/map").shape[2:])
    config = image_config(weights, "model", case.parameters["min_prob"])
    decoder = ClassImageDecoder(case.array("in/features").shape[-1], shape, config)
    load_head(decoder, weights)
    return decoder


def map_probe(weights: Weights, feature_size: int, edges: tuple[int, ...]) -> MapProbe:
    """The probe for maps of that height and width."""
    shape = map_shape(weights, MAP_FOLDER, edges)
    probe = MapProbe(feature_size, shape, image_config(weights, MAP_FOLDER))
    load_head(probe.decoder, weights, MAP_FOLDER)
    return probe


def goals_config(weights: Weights) -> HeadConfig:
    """Sizes of the layers, read from the weights."""
    layers, units = hidden_layers(weights, GOALS), weights[f"{GOALS}/0/weight"].shape[0]
    return HeadConfig(layers, units, "elu", norm_of(weights, GOALS), "squared_error")


def goals_probe(weights: Weights, feature_size: int) -> GoalsProbe:
    """The probe for as many goals as the weights are for."""
    config = goals_config(weights)
    goals = weights[f"{GOALS}/{3 * config.layers}/bias"].shape[0] // 2
    probe = GoalsProbe(feature_size, goals, config)
    load_head(probe.target, weights, GOAL)
    load_head(probe.targets, weights, GOALS)
    return probe


def check_gradients(case: Case, head: AnyHead, folder: str) -> None:
    """Compare the gradients of all weights below a folder."""
    for name, gradient in head_gradients(head, folder).items():
        case.check(f"grad/{name}", gradient)


# -------------------------------------------------------------------------- in a whole agent

MAP_PROBE, GOALS_PROBE = "probe_model/map_probe/", "probe_model/goals_probe/"


def with_truth(case: Case, batch: Batch) -> Batch:
    """Add a batch's preprocessed maps and goals as the raw observations that they come from."""
    cells, coordinates = case["in/map"], case["in/map_coord"]
    classes = map_shape(probe_weights(case, MAP_PROBE), MAP_FOLDER, tuple(cells.shape[2:]))[0]
    edges = torch.tensor([cells.shape[-1], cells.shape[-2]])
    truth = {
        "map": F.one_hot(cells, classes).movedim(-1, 2).to(torch.uint8),
        "agent_pos": (coordinates[..., :2] + 1) / 2 * edges,
        "agent_dir": coordinates[..., 2:],
        "target_vec": case["in/goal_direction"],
        "targets_vec": case["in/goals_direction"],
    }
    return batch._replace(obs=batch.obs | {HIDDEN + key: x for key, x in truth.items()})


def probe_weights(case: Case, part: str) -> dict[str, np.ndarray]:
    """The initial weights of one probe of an agent."""
    weights = case.under("w")
    return {k.removeprefix(part): x for k, x in weights.items() if k.startswith(part)}


def agent_heads(network: MapAndGoalsProbe) -> dict[str, AnyHead]:
    """The networks of both probes, by the folders of their weights."""
    assert network.map is not None
    assert network.goals is not None
    return {
        MAP_PROBE + MAP_FOLDER: network.map.decoder,
        GOALS_PROBE + GOAL: network.goals.target,
        GOALS_PROBE + GOALS: network.goals.targets,
    }


def load_agent_probe(network: MapAndGoalsProbe, case: Case, deter: int, stoch: int) -> None:
    """Set all weights; PyDreamer's features begin with the deterministic state."""
    for folder, head in agent_heads(network).items():
        weights = {k: x for k, x in case.under("w").items() if k.startswith(f"{folder}/")}
        first = f"{folder}/0/weight"
        weights[first] = swap_states(weights[first], deter, stoch)
        load_head(head, weights, folder)


def agent_probe_values(
    network: MapAndGoalsProbe, deter: int, stoch: int, *, gradient: bool = False
) -> dict[str, torch.Tensor]:
    """Copies of all weights, or of their gradients, by PyDreamer's names."""
    values = {}
    for folder, head in agent_heads(network).items():
        for name, (parameter,) in head_parameters(head, folder).items():
            value = parameter.grad if gradient else parameter
            assert value is not None
            ours = value.detach().numpy().copy()
            if name == f"{folder}/0/weight":
                ours = swap_states(ours, stoch, deter)
            values[name] = torch.from_numpy(ours)
    return values


def swap_states(matrix: np.ndarray, first: int, second: int) -> np.ndarray:
    """Exchange the first columns of a matrix with those that follow; the rest stays."""
    parts = np.split(matrix, [first, first + second], 1)
    return np.concatenate([parts[1], parts[0], parts[2]], 1)
