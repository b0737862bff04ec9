"""Faster versions of some networks, each equal to the plain one.

`models/` is the definition and imports nothing from here. `optimize` changes the class of modules
in place, so that parameters, names and checkpoints do not change. A user's code runs as written:

- Only exact classes are replaced, and only if all their parts come from torch or this project.
- A kernel repeats what some methods of the models compute. Once they are edited, it is not used.

benchmarks/LOG.md explains when a kernel is accepted, and what each gains.
"""

import ast
import hashlib
import inspect
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from dreamer.distributions import Normal
from dreamer.kernels.conv import (
    ChunkedConvEncoder,
    ChunkedDecoder,
    CpuConv2d,
    CpuConvTranspose2d,
)
from dreamer.kernels.ensemble import CpuEnsemble
from dreamer.models.ensemble import Ensemble
from dreamer.models.observations import Decoder
from dreamer.models.vision import STRIDE, ConvDecoder, ConvEncoder

# The classes of torch that the models are built from.
TORCH = (
    *(nn.Linear, nn.Conv2d, nn.ConvTranspose2d),
    *(nn.Identity, nn.Sequential, nn.ModuleList, nn.ModuleDict),
)


class Kernel(NamedTuple):
    """One faster version."""

    plain: type[nn.Module]  # the definition
    fast: type[nn.Module]  # a subclass with the same parameters and results
    where: Callable[[nn.Module], Iterable[nn.Module]]  # finds candidates in a network
    restates: Sequence[tuple[type, str]] = ()  # methods that `fast` repeats in its own code
    written_for: str = ""  # their fingerprint

    @property
    def is_up_to_date(self) -> bool:
        """Whether the methods that it restates are those that it was written for."""
        return not self.restates or fingerprint(self.restates) == self.written_for


def optimize(network: nn.Module, device: torch.device) -> list[str]:
    """Replace parts of a network by their fastest versions on a device.

    Args:
        network: an agent, or a part of one; modules change their class, in place.
        device: where the network will run. There are kernels for CPUs only.

    Returns:
        The names of the kernels that this call has installed.
    """
    for module in network.modules():
        if type(module) in (ConvEncoder, ConvDecoder):
            # Convolutions read weights in this order, and copy those in another.
            module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if device.type != "cpu":
        return []
    used = []
    for kernel in KERNELS:
        modules = [m for m in kernel.where(network) if type(m) is kernel.plain and _is_known(m)]
        if modules and not kernel.is_up_to_date:
            names = ", ".join(f"{owner.__name__}.{name}" for owner, name in kernel.restates)
            warnings.warn(
                f"The kernel {kernel.fast.__name__} is not used, because it was written for other "
                f"code of {names}. The models run as they are written.",
                stacklevel=2,
            )
            modules = []
        for module in modules:
            module.__class__ = kernel.fast
        used += [kernel.fast.__name__] if modules else []
    return used


def fingerprint(methods: Iterable[tuple[type, str]]) -> str:
    """Hash the code of methods, without comments and docstrings."""
    texts = []
    for owner, name in methods:
        tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(owner, name))))
        (definition,) = tree.body
        if isinstance(definition, ast.FunctionDef) and ast.get_docstring(definition) is not None:
            definition.body = definition.body[1:] or [ast.Pass()]
        texts.append(ast.unparse(tree))
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _is_known(module: nn.Module) -> bool:
    """Whether all parts come from torch or this project, so that it is known what they compute.

    A user's batch norm, for instance, must not see a chunk instead of a batch.
    """
    return all(
        type(part) in TORCH or type(part).__module__.startswith("dreamer.")
        for part in module.modules()
    )


def _convs_of(plain: type[ConvEncoder] | type[ConvDecoder]) -> Callable:
    """Return a function that finds the supported convolutions of encoders, or of decoders."""

    def find(network: nn.Module) -> Iterator[nn.Module]:
        for module in network.modules():
            if type(module) is plain:
                yield from filter(_is_supported, module.convs)

    return find


def _is_supported(conv: nn.Module) -> bool:
    """Whether a convolution has the settings that the kernels support."""
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    settings = conv.stride, conv.padding, conv.output_padding, conv.dilation, conv.groups
    has_settings = settings == ((STRIDE, STRIDE), (0, 0), (0, 0), (1, 1), 1)
    is_square = conv.kernel_size[0] == conv.kernel_size[1]
    return has_settings and is_square and conv.bias is not None and conv.padding_mode == "zeros"


KERNELS = (  # inner modules first: they are found in plain networks only
    Kernel(nn.Conv2d, CpuConv2d, _convs_of(ConvEncoder)),
    Kernel(
        ConvEncoder,
        ChunkedConvEncoder,
        nn.Module.modules,
        restates=[(ConvEncoder, "forward")],
        written_for="e4818b92603d",
    ),
    Kernel(nn.ConvTranspose2d, CpuConvTranspose2d, _convs_of(ConvDecoder)),
    Kernel(
        Decoder,
        ChunkedDecoder,
        nn.Module.modules,
        restates=[
            *((Decoder, "log_prob"), (Decoder, "forward")),
            *((ConvDecoder, "forward"), (Normal, "log_prob")),
        ],
        written_for="2a1192fe54fb",
    ),
    Kernel(
        Ensemble,
        CpuEnsemble,
        nn.Module.modules,
        restates=[(Ensemble, "disagreement")],
        written_for="0f9ba59eb02c",
    ),
)
