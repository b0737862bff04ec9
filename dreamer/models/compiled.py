"""What torch's compiler makes of parts of networks: ELU on CPUs, recurrent steps on GPUs.

On GPUs the small operations between the products of a recurrent step, some forty with their
gradients, take as long as their number says. Compiled they are eleven. (Whole steps on CPUs:
`compiled_steps.py`.)
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dreamer.models.activations import ACTIVATIONS, compiled_elu, load_compiled_elu
from dreamer.models.mlp import DenseLayer
from dreamer.models.recurrent import GRUCell, advance
from dreamer.models.rssm import RSSM
from dreamer.models.steps import PLAIN, Between, Steps
from dreamer.models.vision import ConvDecoder, ConvEncoder


def compile_activations(module: nn.Module) -> bool:
    """Let every ELU in a module be the compiled one, and compile it now; tells if there is any.

    Raises:
        RuntimeError: there is no C++ compiler, or none that works.
        OSError: there is no folder to keep the result in.
    """
    layers = [x for x in module.modules() if isinstance(x, DenseLayer | ConvEncoder | ConvDecoder)]
    layers = [layer for layer in layers if layer.activation is ACTIVATIONS["elu"]]
    if layers:
        load_compiled_elu()
    for layer in layers:
        layer.activation = compiled_elu
    return bool(layers)


def compile_recurrence(module: nn.Module, device: torch.device) -> None:
    """Let every recurrent model in a module take compiled functions between its products.

    They are compiled when they are first called, for the sizes they are called with, and once more
    for any others. A call takes the host longer than the operations it replaces do: they are for
    recordings.

    Raises:
        RuntimeError: nothing can be compiled for the device.
    """
    _compiled(_add_one)(torch.zeros(2, device=device))  # before anything depends on it
    for part in module.modules():
        if isinstance(part, RSSM):
            part.make_steps = functools.partial(Steps, between=_compiled_between())
        if isinstance(part, GRUCell):
            part.advance = _compiled(advance)


@functools.cache
def _compiled_between() -> Between:
    return Between(*map(_compiled, PLAIN))


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True)


def _add_one(x: Tensor) -> Tensor:
    return x + 1
