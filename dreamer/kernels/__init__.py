"""Faster forms of some networks, each beside the plain one that it must equal.

`models/` is the definition and imports nothing from here. `optimize` changes the class of modules
in place, so that parameters, names and checkpoints stay. Only exact classes are replaced, and only
where all their parts are ours: what a user writes runs as it is written.

benchmarks/LOG.md says when a kernel is accepted, and what each gains.
"""

import math
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
from dreamer.models.vision import STRIDE, ConvDecoder, ConvEncoder

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
    where: Callable[
        [nn.Module], Iterable[nn.Module]
    ]  # the modules of a network that it may replace
    attributes: Callable[[nn.Module], dict[str, Any]] = lambda network: {}  # set on its modules


def optimize(network: nn.Module, device: torch.device) -> list[str]:
    """Let the parts of a network compute in the forms that are fastest on a device.

    Args:
        network: an agent, or a part of one; modules change their class, in place.
        device: where it will run. There are kernels for CPUs only.

    Returns:
        The names of the kernels that this call has put in place.
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
            yield from filter(_is_usual, module.convs)


def _is_usual(conv: nn.Module) -> bool:
    """Whether a transposed convolution has the settings of ours."""
    assert isinstance(conv, nn.ConvTranspose2d)
    settings = conv.stride, conv.padding, conv.output_padding, conv.dilation, conv.groups
    usual = settings == ((STRIDE, STRIDE), (0, 0), (0, 0), (1, 1), 1)
    return usual and conv.bias is not None and conv.kernel_size[0] == conv.kernel_size[1]


def _layers_that_read_one_hots(network: nn.Module) -> Iterator[nn.Module]:
    """First layers behind a stochastic state that is made of many one-hot numbers."""
    size = math.prod(_one_hots(network).get("one_hots", ()))
    for module in network.modules():
        layers = [layer for layer in module.modules() if type(layer) is DenseLayer]
        if type(module) is RSSM:
            layers = [module.img_in]
        elif type(module) not in (Head, Actor):
            continue
        for layer in layers[:1]:
            if 1 < size <= layer.linear.in_features:
                yield layer


def _one_hots(network: nn.Module) -> dict[str, Any]:
    """S and K of the latent of the network's RSSM, where there is one with many such numbers."""
    rssms = [module for module in network.modules() if type(module) is RSSM]
    if len(rssms) != 1 or rssms[0].stoch_size < MANY_LATENTS:
        return {}
    latent = rssms[0].latent
    is_categorical = type(latent) is CategoricalLatent
    return {"one_hots": (latent.variables, latent.classes)} if is_categorical else {}


KERNELS = (
    Kernel(ConvEncoder, ChunkedConvEncoder, nn.Module.modules),
    Kernel(nn.ConvTranspose2d, CpuConvTranspose2d, _convs_of_decoders),
    Kernel(ConvDecoder, InPlaceConvDecoder, nn.Module.modules),
    Kernel(Decoder, ChunkedDecoder, nn.Module.modules),
    Kernel(DenseLayer, OneHotLookup, _layers_that_read_one_hots, _one_hots),
    Kernel(DenseLayer, InPlaceDenseLayer, nn.Module.modules),  # the others
)
