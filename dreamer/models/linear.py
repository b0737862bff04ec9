"""Dense layers, each product in the form that the device runs fastest. All networks use them.

On CPUs there are three. With one row or a handful, a layer costs what reading its weights costs,
which all cores should do. Large products are faster by oneDNN, which comes with torch for its
convolutions, above all if the weights lie in its own order (benchmarks/README.md has figures). The
others are best left to torch.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEW_ROWS = 16  # with more, the arithmetic counts, and torch's product is as fast
# Multiplications of a product by oneDNN; with fewer, putting the weights in order costs too much.
LARGE = 2 * 10**8
LARGE_IN_DREAM = 2 * 10**7  # where they are used once a step, some fifteen times
LARGE_IN_SEQUENCE = 5 * 10**6  # some fifty times

_forms: ContextVar[dict[tuple[str, Tensor], Tensor] | None] = ContextVar("forms", default=None)


class Linear(nn.Linear):
    """`nn.Linear` that multiplies by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) -> (..., U)."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear`, on a CPU in the fastest form.

    Args:
        x: (..., I).
        weight: (U, I).
        bias: (U,).

    Returns:
        (..., U), equal to `F.linear` but for the order of its sums.
    """
    units, inputs = weight.shape
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled() and x.numel() <= FEW_ROWS * inputs:
        cores = torch.get_num_threads()
        return F.linear(x, weight, bias) if units % cores else _by_all(cores, x, weight, bias)
    least = LARGE if _forms.get() is None else LARGE_IN_DREAM
    dtype = product_dtype(x)
    if x.numel() * units < least or dtype not in _onednn_types():
        return F.linear(x, weight, bias)
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()
    x, bias = x.to(dtype), bias.to(dtype)
    if torch.is_grad_enabled():
        y = _Product.apply(x, weight.to(dtype), bias)
        assert isinstance(y, Tensor)
        return y
    ordered = remembered("ordered", weight, lambda: in_order(weight.to(dtype), x.numel() // inputs))
    return multiply(x, ordered, bias)


@contextmanager
def constant_weights() -> Iterator[None]:
    """Promise that no weights change meanwhile: forms of them are made once, without gradients."""
    token = _forms.set({})
    try:
        yield
    finally:
        _forms.reset(token)


def remembered(form: str, weight: Tensor, make: Callable[[], Tensor]) -> Tensor:
    """`make()`, a form of `weight` by that name; the same again within `constant_weights`."""
    forms = _forms.get()
    if forms is None or torch.is_grad_enabled():
        return make()
    if (form, weight) not in forms:
        forms[form, weight] = make()
    return forms[form, weight]


def in_order(weight: Tensor, rows: int) -> Tensor:
    """Contiguous weights (U, I) as oneDNN likes to read them for so many rows, for `multiply` only.

    Those that are not contiguous stay as they are: that reordering takes longer than it saves.
    """
    if not weight.is_contiguous():
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` by oneDNN, without a gradient.

    Args:
        x: (..., I).
        weight: (U, I), contiguous, transposed or `in_order`: it is very slow with other views.
        bias: (U,).

    Returns:
        (..., U).
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class Repeated:
    """Products with the same weights again and again, whose gradients are somebody else's work."""

    def __init__(self, weight: Tensor, rows: int):
        """For weights (U, I) and so many rows."""
        large = rows * weight.numel() >= LARGE_IN_SEQUENCE and weight.device.type == "cpu"
        large &= weight.dtype in _onednn_types()
        self._weight = weight.contiguous() if large else weight
        self._ordered = in_order(self._weight, rows) if large else None

    def forward(self, x: Tensor, offset: Tensor, out: Tensor | None = None) -> Tensor:
        """`x @ weight' + offset`: (rows, I), (U,) or (rows, U) -> (rows, U), maybe in `out`."""
        if self._ordered is None:
            return torch.addmm(offset, x, self._weight.t(), out=out)
        if offset.ndim == 1:
            y = multiply(x, self._ordered, offset)
        else:
            sum_of = torch.ops.mkldnn._linear_pointwise.binary
            y = sum_of(x, offset, self._ordered, None, "add")
        return y if out is None else out.copy_(y)

    def backward(self, grad: Tensor) -> Tensor:
        """From the gradient of the result (rows, U) to that of `x` (rows, I)."""
        return grad @ self._weight if self._ordered is None else multiply(grad, self._weight.t())


def product_dtype(x: Tensor) -> torch.dtype:
    """In which type a matrix product of `x` is made here: autocast's, or its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


@functools.cache
def _onednn_types() -> tuple[torch.dtype, ...]:
    """What this processor multiplies by oneDNN; nothing where torch was built without it."""
    if not torch.backends.mkldnn.is_available():
        return ()
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return (torch.float32,)
    return (torch.float32, torch.bfloat16)


def _by_all(cores: int, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` of a few rows, where each core reads its own part of the weights."""
    units, inputs = weight.shape
    rows = x.reshape(-1, inputs)
    blocks = weight.unflatten(0, (cores, -1))
    if len(rows) == 1:
        y = torch.bmm(blocks, rows.t().expand(cores, -1, -1)).view(units) + bias
    else:
        of_blocks = torch.bmm(rows.expand(cores, -1, -1), blocks.mT)  # (cores, N, U / cores)
        y = of_blocks.transpose(0, 1).reshape(-1, units) + bias
    return y.view(*x.shape[:-1], units)


class _Product(torch.autograd.Function):
    """(..., I), (U, I) and (U,), all of one type -> (..., U)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        ctx.save_for_backward(rows, weight)
        y = multiply(rows, in_order(weight, len(rows)), bias)
        # No view, so that what follows may change it in place.
        return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], len(weight)))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        rows, weight = ctx.saved_tensors
        (grad,) = grad_outputs
        of_rows = grad.contiguous().flatten(0, -2)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = multiply(of_rows, weight.t()).view(*grad.shape[:-1], -1)
        return of_x, of_rows.t() @ rows, of_rows.sum(0)
