"""Faster forms of some networks, each beside the plain one that it must equal.

`models/` is the definition and imports nothing from here. `optimize` changes the class of modules
in place, so that parameters, names and checkpoints stay. Only exact classes are replaced, and only
where all their parts are ours: what a user writes runs as it is written.

benchmarks/LOG.md says when a kernel is accepted, and what each gains.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from dreamer.kernels.conv import (
    ChunkedConvEncoder,
    ChunkedDecoder,
    CpuConvTranspose2d,
    InPlaceConvDecoder,
)
from dreamer.kernels.in_place import InPlaceDenseLayer
from dreamer.kernels.one_hot import OneHotLookup
from dreamer.models.actor import Actor
from dreamer.models.encoder import Decoder
from dreamer.models.latents import CategoricalLatent
from dreamer.models.mlp import DenseLayer, Head
from dreamer.models.rssm import RSSM
from dreamer.models.vision import ConvDecoder, ConvEncoder

MANY_LATENTS = 256  # S * K; fewer one-hot numbers are multiplied faster than rows are looked up

# The classes of torch that the models are built of.
TORCH = (
    *(nn.Linear, nn.Conv2d, nn.ConvTranspose2d),
    *(nn.Identity, nn.Sequential, nn.ModuleList, nn.ModuleDict),
)


class Kernel(NamedTuple):
    """One faster form."""

    plain: type[nn.Module]  # the definition
    fast: type[nn.Module]  # a subclass: the same parameters, the same results
    where: Callable[[nn.Module], Iterable[nn.Module]]  # in a network it computes the same, faster
    attributes: Callable[[nn.Module], dict[str, Any]] = lambda network: {}  # that it needs


def optimize(network: nn.Module, device: torch.device) -> list[str]:
    """Let the parts of a network compute in the forms that are fastest on a device.

    Args:
        network: an agent, or a part of one; modules change their class, in place.
        device: where it will run. There are kernels for CPUs only.

    Returns:
        The names of the kernels that are in use.
    """
    for module in network.modules():
        if type(module) in (ConvEncoder, ConvDecoder):
            # Convolutions read their weights in this order, and copy them if they lie otherwise.
            module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if device.type != "cpu":
        return []
    used = []
    for kernel in KERNELS:
        modules = [m for m in kernel.where(network) if type(m) is kernel.plain and _is_ours(m)]
        for module in modules:
            module.__class__ = kernel.fast
            for name, value in kernel.attributes(network).items():
                setattr(module, name, value)
        used += [kernel.fast.__name__] if modules else []
    return used


def _is_ours(module: nn.Module) -> bool:
    """Whether all parts are those that we built: of others nobody knows what they compute.

    A batch norm, for instance, must not see a chunk where it was to see a batch.
    """
    return all(
        type(part) in TORCH or type(part).__module__.startswith("dreamer.")
        for part in module.modules()
    )


def _convs_of_decoders(network: nn.Module) -> Iterator[nn.Module]:
    for module in network.modules():
        if type(module) is ConvDecoder:
            yield from module.convs


def _layers_that_read_one_hots(network: nn.Module) -> Iterator[nn.Module]:
    """First layers behind a stochastic state that is made of many one-hot numbers."""
    if not _one_hots(network):
        return
    for module in network.modules():
        if type(module) is RSSM:
            yield module.img_in
        elif type(module) in (Head, Actor):
            layers = [layer for layer in module.modules() if isinstance(layer, DenseLayer)]
            yield from layers[:1]


def _one_hots(network: nn.Module) -> dict[str, Any]:
    for module in network.modules():
        if isinstance(module, RSSM) and module.stoch_size >= MANY_LATENTS:
            latent = module.latent
            if type(latent) is CategoricalLatent:
                return {"one_hots": (latent.variables, latent.classes)}
    return {}


KERNELS = (
    Kernel(ConvEncoder, ChunkedConvEncoder, nn.Module.modules),
    Kernel(nn.ConvTranspose2d, CpuConvTranspose2d, _convs_of_decoders),
    Kernel(ConvDecoder, InPlaceConvDecoder, nn.Module.modules),
    Kernel(Decoder, ChunkedDecoder, nn.Module.modules),
    Kernel(DenseLayer, OneHotLookup, _layers_that_read_one_hots, _one_hots),
    Kernel(DenseLayer, InPlaceDenseLayer, nn.Module.modules),  # the others
)
