"""Probes of ours with PyDreamer's weights, and of the sizes that these have."""

from golden import Case
from pydreamer import AnyHead, Weights, head_gradients, hidden_layers, load_head

from dreamer.models.heads import HeadConfig
from dreamer.models.layers import Norm
from dreamer.models.probes import (
    ClassImageConfig,
    ClassImageDecoder,
    GoalsProbe,
    MapProbe,
)

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
    """The decoder of categorical images."""
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


def goals_probe(weights: Weights, feature_size: int) -> GoalsProbe:
    """The probe for as many goals as the weights are for."""
    layers, units = hidden_layers(weights, GOALS), weights[f"{GOALS}/0/weight"].shape[0]
    goals = weights[f"{GOALS}/{3 * layers}/bias"].shape[0] // 2
    config = HeadConfig(layers, units, "elu", norm_of(weights, GOALS), "squared_error")
    probe = GoalsProbe(feature_size, goals, config)
    load_head(probe.target, weights, GOAL)
    load_head(probe.targets, weights, GOALS)
    return probe


def check_gradients(case: Case, head: AnyHead, folder: str) -> None:
    """Compare the gradients of all weights below a folder."""
    for name, gradient in head_gradients(head, folder).items():
        case.check(f"grad/{name}", gradient)
