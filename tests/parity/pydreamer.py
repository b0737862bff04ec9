"""Heads and world models of ours with PyDreamer's weights, by PyDreamer's names."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from golden import Case
from torch import Tensor, nn

from dreamer.models.actor import Actor
from dreamer.models.decoders import DecoderConfig
from dreamer.models.heads import DistributionLayer, Head
from dreamer.models.inputs import EncoderConfig
from dreamer.models.latents import CategoricalLatent
from dreamer.models.layers import MLP, DenseLayer
from dreamer.models.observations import Decoder, ObservationConfig, ObsShapes, VectorConfig
from dreamer.models.probes import ClassImageDecoder
from dreamer.models.rssm import GRUConfig, RSSMConfig
from dreamer.models.vision import ConvConfig
from dreamer.models.world_model import (
    KLConfig,
    ModelHeadConfig,
    RewardTransform,
    WorldModel,
    WorldModelConfig,
)
from dreamer.types import Batch

Weights = Mapping[str, np.ndarray]


def hidden_layers(weights: Weights, folder: str = "model") -> int:
    """The number of layers of an MLP before its last one: <folder>/0, 3, ..., 3L."""
    names = {int(key.split("/")[-2]) for key in weights if key.startswith(f"{folder}/")}
    return max(names) // 3


def mlp_parameters(mlp: MLP, folder: str = "model") -> Iterator[tuple[str, nn.Parameter]]:
    """The hidden layers' weights, by PyDreamer's names."""
    for i, layer in enumerate(mlp):
        assert isinstance(layer, DenseLayer)
        for index, part in ((3 * i, layer.linear), (3 * i + 1, layer.norm)):
            yield from ((f"{folder}/{index}/{k}", p) for k, p in part.named_parameters())


class Parts(NamedTuple):
    """An MLP and the dense layer that it ends in."""

    trunk: MLP
    out: DistributionLayer


AnyHead = Head | Actor | ClassImageDecoder | Parts


def vector_decoder(decoder: Decoder, key: str) -> Parts:
    """The part of a decoder that predicts a vector."""
    out = decoder.outputs[key]
    assert isinstance(out, DistributionLayer)
    return Parts(decoder.vector, out)


def head_parameters(head: AnyHead, folder: str = "model") -> dict[str, list[nn.Parameter]]:
    """All weights of a head, by PyDreamer's names; a normal's mean and deviation are one matrix."""
    found = {name: [p] for name, p in mlp_parameters(head.trunk, folder)}
    outputs = [head.out.out] if head.out.std is None else [head.out.out, head.out.std]
    last = 3 * len(head.trunk)
    for kind in ("weight", "bias"):
        found[f"{folder}/{last}/{kind}"] = [getattr(layer, kind) for layer in outputs]
    return found


@torch.no_grad()
def load_head(head: AnyHead, weights: Weights, folder: str = "model") -> None:
    """Set every weight; all arrays below the folder must be used."""
    parameters = head_parameters(head, folder)
    assert parameters.keys() == {k for k in weights if k.startswith(f"{folder}/")}
    for name, parts in parameters.items():
        blocks = torch.tensor(weights[name]).chunk(len(parts))
        for parameter, block in zip(parts, blocks, strict=True):
            assert parameter.shape == block.shape, (name, parameter.shape, block.shape)
            parameter.copy_(block)


def head_gradients(head: AnyHead, folder: str = "model") -> dict[str, Tensor]:
    """The gradients, by PyDreamer's names and in its layout; nothing where there is none."""
    return {
        name: torch.cat([p.grad for p in parts if p.grad is not None])
        for name, parts in head_parameters(head, folder).items()
        if any(p.grad is not None for p in parts)
    }


NO_CONVOLUTIONS = ConvConfig(1, [], "elu", "none")


def head_options(weights: Weights, distribution: str) -> dict[str, Any]:
    """A head's layers, read from its weights; the keys of a `ModelHeadConfig` without `scale`."""
    return {
        "layers": hidden_layers(weights),
        "units": weights["model/0/weight"].shape[0],
        "activation": "elu",
        "norm": "layer" if "model/1/weight" in weights else "none",
        "distribution": distribution,
        "gradients": True,
    }


def features_model(
    feature_size: int,
    *,
    reward_transform: RewardTransform,
    heads: Mapping[str, ModelHeadConfig],
    decoder: ObservationConfig | None = None,
    obs_shapes: ObsShapes | None = None,
    scales: Mapping[str, float] | None = None,
    classes: Mapping[str, int] | None = None,
) -> WorldModel:
    """A world model for given features: only its heads and its decoder matter."""
    vector = VectorConfig([1], "elu", "none")
    encoder = EncoderConfig("$^", ".*", NO_CONVOLUTIONS, vector, classes=classes or {})
    config = WorldModelConfig(
        latent=CategoricalLatent(1, 2),
        rssm=RSSMConfig(feature_size - 2, 1, "elu", "none", GRUConfig(layer_norm=True), ensemble=1),
        encoder=encoder,
        decoder=decoder or DecoderConfig("$^", ".*", NO_CONVOLUTIONS, vector, "squared_error"),
        heads=heads,
        kl=KLConfig(0.8, 0.0, forward=False, free_avg=True),
        loss_scales=scales or {},
        image_gradients=True,
        reward_transform=reward_transform,
        discount=0.9,
        iwae_samples=1,
    )
    return config.build(obs_shapes or {"none": (1,)}, action_size=1)


def pydreamer_batch(
    reward: Tensor, terminal: Tensor, obs: dict[str, Tensor] | None = None
) -> Batch:
    """A batch (T, B, ...) of what heads predict."""
    assert ((terminal == 0) | (terminal == 1)).all()
    zeros = torch.zeros(*reward.shape, dtype=torch.bool)
    return Batch(obs or {}, torch.zeros(*reward.shape, 1), reward, zeros, terminal > 0)


def repeat(x: Tensor, samples: int) -> Tensor:
    """(T, B, ...) -> (T, B, I, ...)."""
    return x.unsqueeze(2).expand(*x.shape[:2], samples, *x.shape[2:])


def combine(loss: Tensor) -> Tensor:
    """The loss of all samples (T, B, I) -> (T, B): minus the logarithm of the mean likelihood."""
    return math.log(loss.shape[-1]) - (-loss).logsumexp(-1)


def check_groups(
    case: Case,
    model: WorldModel,
    losses: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
) -> None:
    """Compare the losses (T, B) of all steps, and of groups of steps, with their logged forms."""
    metrics = {f"loss_{name}": loss.mean() for name, loss in losses.items()}
    heads = {name: loss for name, loss in losses.items() if name in model.heads}
    ours = model.group_metrics({name: -loss for name, loss in heads.items()}, targets)
    metrics |= {f"loss_{key.replace('_nll_where_', '')}": x for key, x in ours.items()}
    case.check_all("out/metrics", metrics)
    for name, loss in heads.items():
        config, head = model.config.heads[name], model.heads[name]
        assert config is not None and isinstance(head, Head)
        for group, mask in config.groups(head, targets[name]).items():
            case.check(f"out/tensors/loss_{name}{group}", torch.where(mask, loss, math.nan))
