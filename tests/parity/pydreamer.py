"""Networks of ours with PyDreamer's weights: an MLP and what it ends in, by PyDreamer's names."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from dreamer.models.actor import Actor
from dreamer.models.heads import Head
from dreamer.models.layers import MLP, DenseLayer
from dreamer.models.probes import CategoricalImageDecoder

AnyHead = Head | Actor | CategoricalImageDecoder
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
