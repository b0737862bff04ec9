"""ELU in machine code for the processor at hand, made by torch.compile.

torch's own kernels are made for many processors, and on CPUs its `expm1` takes three times as long
as one for this processor alone. A run that asks for it lets its networks take this one for their
large tensors: compiled once, it serves any number of numbers.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dreamer.models.mlp import ACTIVATIONS, DenseLayer
from dreamer.models.vision import ConvDecoder, ConvEncoder

LARGE = 2**20  # numbers; in the middle of an update, calling what is compiled takes 0.1 ms


def compile_activations(module: nn.Module) -> bool:
    """Let every ELU in a module be the compiled one, and compile it now; tells if there is any.

    Raises:
        RuntimeError: there is no C++ compiler, or none that works.
    """
    layers = [x for x in module.modules() if isinstance(x, DenseLayer | ConvEncoder | ConvDecoder)]
    layers = [layer for layer in layers if layer.activation is ACTIVATIONS["elu"]]
    if layers:
        _kernel()
    for layer in layers:
        layer.activation = compiled_elu
    return bool(layers)


def compiled_elu(x: Tensor) -> Tensor:
    """`F.elu(x, inplace=True)`: (...) -> (...), with its gradient."""
    has_no_gaps = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    if x.numel() < LARGE or x.device.type != "cpu" or not has_no_gaps:
        return F.elu_(x)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _elu_(x)
    y = _Elu.apply(x)
    assert isinstance(y, Tensor)
    return y


class _Elu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return _elu_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (y,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(grad_outputs[0], 1, 1, 1, True, y)


def _elu_(x: Tensor) -> Tensor:
    """Change a tensor without gaps."""
    # Its memory as one row, and no view: of a view, torch.compile would ask what it is a view of.
    numbers = torch.empty(0, dtype=x.dtype)
    numbers.set_(x.untyped_storage(), x.storage_offset(), (x.numel(),), (1,))
    with _as_compiled():
        _kernel()(numbers)
    return x


@contextmanager
def _as_compiled() -> Iterator[None]:
    """One state of torch for all calls: in another one, torch.compile would compile once more."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False, cache_enabled=False):
        yield


@functools.cache
def _kernel() -> Callable[[Tensor], None]:
    """Compile for rows of any length and both types; torch keeps the result on disk."""

    def elu_(x: Tensor) -> None:
        x.copy_(torch.where(x > 0, x, torch.expm1(x)))

    kernel = torch.compile(elu_, dynamic=True)
    with _as_compiled():
        for dtype in (torch.float32, torch.bfloat16):
            kernel(torch.zeros(LARGE, dtype=dtype))
    return kernel
