"""Activations by name, and the released agent's, ELU, in the forms that take the least time.

They change what they are given in place where their gradient needs only the result: the layer
before has no use for its own. Dense layers and convolutions use them; which of them use the
compiled ELU, `compiled.py` says.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamer.models.ahead_of_time import Kernel, load, make, path_of

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "elu": F.elu_,
    "relu": F.relu_,
    "silu": F.silu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}
LARGE = 2**14  # numbers; with fewer, calling what is ours takes longer than what it saves
DTYPES = (torch.float32, torch.bfloat16)  # of the compiled ELU


def check_activation(name: str) -> None:
    """Raise a ValueError that lists the known activations if `name` is none of them."""
    if name not in ACTIVATIONS:
        raise ValueError(f"Expect `activation` to be one of {list(ACTIVATIONS)}, actually: {name}")


def activate(activation: Activation, x: Tensor, *, inner: bool) -> Tensor:
    """`activation(x)`: (...) -> (...).

    What is `inner` is read by one other layer and nothing else, so that the gradient which that one
    makes for it may be changed in place. Large tensors come from far away: a third one to write to
    doubles the time.
    """
    is_elu = activation in (ACTIVATIONS["elu"], compiled_elu)
    if not (
        inner and is_elu and x.requires_grad and torch.is_grad_enabled() and x.numel() >= LARGE
    ):
        return activation(x)
    y = _Elu.apply(x, activation, True)
    assert isinstance(y, Tensor)
    return y


def compiled_elu(x: Tensor) -> Tensor:
    """ELU in place, for this processor alone: (...) -> (...).

    torch's own kernels are made for many, and on CPUs its `expm1` takes three times as long.
    """
    if x.numel() < LARGE or x.device.type != "cpu" or x.dtype not in DTYPES:
        return F.elu_(x)
    if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        return F.elu_(x)
    if torch.compiler.is_exporting():  # the compiler at work on what contains it
        return F.elu_(x)
    if x.requires_grad and torch.is_grad_enabled():
        y = _Elu.apply(x, compiled_elu, False)
        assert isinstance(y, Tensor)
        return y
    if torch.jit.is_tracing():  # which hears of torch's operations only
        return torch.ops.dreamer.elu_(x)
    return _elu_in_place(x)


def _elu_in_place(x: Tensor) -> Tensor:
    """The kernel on all numbers of `x` (...), whose memory is one row of them."""
    _kernel(x.dtype)([x.as_strided((x.numel(),), (1,))])
    return x


_OPERATIONS = torch.library.Library("dreamer", "FRAGMENT")
_OPERATIONS.define("elu_(Tensor(a!) x) -> Tensor(a!)")
_OPERATIONS.impl("elu_", _elu_in_place, "CPU")


class _Elu(torch.autograd.Function):
    """One of the forms of ELU, which changes (...) in place, and maybe its gradient, too."""

    @staticmethod
    def forward(ctx, x: Tensor, elu: Activation, gradient_in_place: bool) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.gradient_in_place = gradient_in_place
        return elu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        (y,) = ctx.saved_tensors
        if ctx.gradient_in_place and grad.dtype == y.dtype and grad.stride() == y.stride():
            elu_backward = torch.ops.aten.elu_backward.grad_input
            return elu_backward(grad, 1, 1, 1, True, y, grad_input=grad), None, None
        return torch.ops.aten.elu_backward(grad, 1, 1, 1, True, y), None, None


def load_compiled_elu() -> None:
    """Have the compiled ELU ready, if need be by compiling it.

    Raises:
        RuntimeError: there is no C++ compiler, or none that works.
        OSError: there is no folder to keep the result in.
    """
    if not all(_path(dtype).exists() for dtype in DTYPES):
        print("Compiling activations for this processor, once: up to half a minute.")
    for dtype in DTYPES:
        _kernel(dtype)


@functools.cache
def _kernel(dtype: torch.dtype) -> Kernel:
    """ELU of one row (n,), in place."""
    path = _path(dtype)
    if not path.exists():
        numbers = torch.export.Dim("numbers", min=2)
        make(path, _elu_of_row, [torch.zeros(LARGE, dtype=dtype)], [{0: numbers}])
    return load(path)


def _elu_of_row(x: Tensor) -> None:
    x.copy_(torch.where(x > 0, x, torch.expm1(x)))


def _path(dtype: torch.dtype) -> Path:
    return path_of(f"elu-{str(dtype).removeprefix('torch.')}", Path(__file__).read_text())
