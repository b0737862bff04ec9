"""Faster forms of some networks, each beside the plain one that it must equal.

`models/` is the definition and imports nothing from here. `optimize` changes the class of modules
in place, so that parameters, names and checkpoints stay. Only exact classes are replaced, and only
where all their parts are ours: what a user writes runs as it is written.

benchmarks/LOG.md says when a kernel is accepted, and what each gains.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from dreamer.kernels.conv import (
    ChunkedConvEncoder,
    ChunkedDecoder,
    CpuConv2d,
    CpuConvTranspose2d,
)
from dreamer.models.observations import Decoder
from dreamer.models.vision import STRIDE, ConvDecoder, ConvEncoder

# The classes of torch that the models are built of.
TORCH = (
    *(nn.Linear, nn.Conv2d, nn.ConvTranspose2d),
    *(nn.Identity, nn.Sequential, nn.ModuleList, nn.ModuleDict),
)


class Kernel(NamedTuple):
    """One faster form."""

    plain: type[nn.Module]  # the definition
    fast: type[nn.Module]  # a subclass: the same parameters, the same results
    where: Callable[[nn.Module], Iterable[nn.Module]]  # from a network to what it may replace


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


def _convs_of(plain: type[ConvEncoder] | type[ConvDecoder]) -> Callable:
    """Finds the convolutions of encoders, or of decoders, that have the settings of ours."""

    def find(network: nn.Module) -> Iterator[nn.Module]:
        for module in network.modules():
            if type(module) is plain:
                yield from filter(_is_usual, module.convs)

    return find


def _is_usual(conv: nn.Module) -> bool:
    """Whether a convolution has the settings of ours."""
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    settings = conv.stride, conv.padding, conv.output_padding, conv.dilation, conv.groups
    usual = settings == ((STRIDE, STRIDE), (0, 0), (0, 0), (1, 1), 1)
    is_square = conv.kernel_size[0] == conv.kernel_size[1]
    return usual and is_square and conv.bias is not None and conv.padding_mode == "zeros"


KERNELS = (  # inner modules first: they are looked for in plain networks
    Kernel(nn.Conv2d, CpuConv2d, _convs_of(ConvEncoder)),
    Kernel(ConvEncoder, ChunkedConvEncoder, nn.Module.modules),
    Kernel(nn.ConvTranspose2d, CpuConvTranspose2d, _convs_of(ConvDecoder)),
    Kernel(Decoder, ChunkedDecoder, nn.Module.modules),
)
