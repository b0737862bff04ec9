"""Dense layers, each product in the form that the device runs fastest. All networks use them.

On CPUs there are three. With one row, or a few, a layer costs what reading its weights costs, which
all cores should do, each its part. Large products are faster by oneDNN, which comes with torch for
its convolutions, above all if the weights lie in its own order (benchmarks/README.md has figures);
so are those of a few rows with large weights. The others are best left to torch, and on Intel's
processors, for which its float32 products are made, nearly all but those with weights in order.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEW_ROWS = 64  # with which oneDNN reads weights as they lie: putting them in order costs too much
MANY_WEIGHTS = 4 * 10**5  # of a product of a few rows by oneDNN
ROWS_BY_PARTS = range(8, 33)  # that Intel's library multiplies faster by parts of the weights,
MANY_INPUTS = 1000  # if they are as long as this
# Multiplications of one of more rows by oneDNN; with fewer, the order costs too much.
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
    if x.device.type != "cpu":
        if _forms.get() is not None:  # autocast would make its copies anew at every step
            dtype = product_dtype(x)
            weight, bias = (
                remembered("cast", w, functools.partial(w.to, dtype)) for w in (weight, bias)
            )
        return F.linear(x, weight, bias)
    rows, cores = x.numel() // weight.shape[1], torch.get_num_threads()
    learns, dtype, cut = torch.is_grad_enabled(), product_dtype(x), len(weight) % cores == 0
    ordered = _forms.get() is not None and not learns
    if is_intel() and dtype == torch.float32 and not ordered:
        if rows in ROWS_BY_PARTS and not learns and cut and weight.shape[1] >= MANY_INPUTS:
            return _by_parts(cores, x, weight, bias)
        return _by_torch(x, weight, bias)
    if rows == 1 and not learns and cut:
        return _by_parts(cores, x, weight, bias)
    few = rows <= FEW_ROWS and not learns and not ordered
    if not _is_large(rows, weight, few) or dtype not in _onednn_types():
        return _by_torch(x, weight, bias)
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()
    x, bias = x.to(dtype), bias.to(dtype)
    if learns:
        y = _Product.apply(x, weight.to(dtype), bias)
        assert isinstance(y, Tensor)
        return y
    if few:
        return multiply(x, weight.to(dtype), bias)
    return multiply(
        x, remembered("ordered", weight, lambda: in_order(weight.to(dtype), rows)), bias
    )


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
    if torch.jit.is_tracing():  # which cannot write down the operation's empty list
        return torch.ops.dreamer.multiply(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


_OPERATIONS = torch.library.Library("dreamer", "FRAGMENT")
_OPERATIONS.define("multiply(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_OPERATIONS.impl("multiply", multiply, "CPU")


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

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """`y += x @ weight'`: (rows, U) and (rows, I) -> the same `y`."""
        return y.addmm_(x, self._weight.t()) if self._ordered is None else self.forward(x, y, y)

    def backward(self, grad: Tensor) -> Tensor:
        """From the gradient of the result (rows, U) to that of `x` (rows, I)."""
        return grad @ self._weight if self._ordered is None else multiply(grad, self._weight.t())


def product_dtype(x: Tensor) -> torch.dtype:
    """In which type a matrix product of `x` is made here: autocast's, or its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


@functools.cache
def is_intel() -> bool:
    """Whether this processor is Intel's; those that know bfloat16 have a unit for its products."""
    path = Path("/proc/cpuinfo")
    return path.exists() and "GenuineIntel" in path.read_text()


@functools.cache
def _onednn_types() -> tuple[torch.dtype, ...]:
    """What this processor multiplies by oneDNN; nothing where torch was built without it."""
    if not torch.backends.mkldnn.is_available():
        return ()
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return (torch.float32,)
    return (torch.float32, torch.bfloat16)


def _is_large(rows: int, weight: Tensor, few: bool) -> bool:
    if few:
        return weight.numel() >= MANY_WEIGHTS
    return rows * weight.numel() >= (LARGE if _forms.get() is None else LARGE_IN_DREAM)


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` that gives no view: autograd copies the gradient of one changed in place twice."""
    if x.ndim <= 2 or not torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    y = F.linear(x.flatten(0, -2), weight, bias)
    return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], len(weight)))


def _by_parts(cores: int, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` of a few rows, where each core reads its own part of the weights."""
    blocks = weight.unflatten(0, (cores, -1))
    columns = x.reshape(-1, x.shape[-1]).t()  # with the strides that `bmm` multiplies fastest
    y = torch.bmm(blocks, columns.expand(cores, -1, -1)).permute(2, 0, 1)  # (rows, cores, ...)
    y = torch.add(y, bias.view(cores, -1), out=y.new_empty(y.shape))
    return y.view(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """(..., I), (U, I) and (U,), all of one type -> (..., U)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        ctx.save_for_backward(rows, weight)
        # Intel's matrix units take less time for a product in bfloat16 than the order would.
        y = multiply(rows, weight if is_intel() else in_order(weight, len(rows)), bias)
        # No view, as in `_by_torch`.
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
        # Laid out as the weights are: a parameter that they are a view of would have it copied.
        as_they_lie = weight.is_contiguous()
        of_weight = of_rows.t() @ rows if as_they_lie else (rows.t() @ of_rows).t()
        return of_x, of_weight, of_rows.sum(0)
