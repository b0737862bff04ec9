"""Dense layers of one-hot features: columns of the weights are looked up, not multiplied.

`kernels.optimize` puts the class in the place of the first dense layer of the heads and of the
RSSM, which see features without a gradient in dreams.
"""

import math
import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamer.kernels.hooks import has_hooks
from dreamer.kernels.in_place import InPlaceDenseLayer

FEW_PRODUCTS = 2**26  # of two numbers; fewer are made as fast as the ones are found


class OneHotLookup(InPlaceDenseLayer):
    """A dense layer whose first inputs are S one-hot rows of K.

    Where a gradient in its input is asked for, and where rows are not one-hot, it multiplies.
    """

    one_hots: tuple[int, int]  # S, K

    def forward(self, x: Tensor) -> Tensor:
        """(..., S * K + others) -> (..., units)."""
        size = math.prod(self.one_hots)
        products = x[..., 0].numel() * size * self.linear.out_features
        if x.requires_grad or x.ndim < 2 or products < FEW_PRODUCTS or has_hooks(self):
            return super().forward(x)
        rows = x.flatten(0, -2)
        ones = _columns_of_ones(x, self.one_hots)  # (N, S)
        if ones is None:  # zeros, where an episode begins, or somebody's own
            return super().forward(x)
        weight, bias = self.linear.weight, self.linear.bias
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        columns = weight[:, :size].t().to(dtype).contiguous()
        y = F.linear(rows[:, size:], weight[:, size:], bias)
        y = y + _SumOfRows.apply(columns, ones)
        return self.activate(self.norm(y)).unflatten(0, x.shape[:-1])


class _Known(NamedTuple):
    """Where the ones of some features are."""

    owner: Callable[[], Tensor | None]  # of their memory, while it lives
    key: tuple  # which memory, and that nobody has written to it since
    ones: Tensor | None  # (N, S) columns; None: a row is not one-hot

    def covers(self, x: Tensor, key: tuple) -> bool:
        """Whether these are the features, or the first of them."""
        owner = self.owner()
        return owner is not None and len(x) <= len(owner) and key == self.key


_known = _Known(lambda: None, (), None)


def _columns_of_ones(x: Tensor, one_hots: tuple[int, int]) -> Tensor | None:
    """Columns (N, S) of the ones in features (..., S * K + others); None: a row is not one-hot.

    Five heads read the same dream, or all of it but its end, so the last answer is kept. What is
    written past autograd, through `.data` or NumPy, is not noticed.
    """
    global _known
    if x.is_inference():  # has no version
        return _look(x, one_hots)
    key = (x.data_ptr(), x.stride(), x.shape[1:], x.dtype, x._version, one_hots)
    known = _known  # once: another thread may act meanwhile
    if not known.covers(x, key):
        known = _known = _Known(weakref.ref(x), key, _look(x, one_hots))
    return None if known.ones is None else known.ones[: x[..., 0].numel()]


def _look(x: Tensor, one_hots: tuple[int, int]) -> Tensor | None:
    """As `_columns_of_ones`, without what is known."""
    variables, classes = one_hots
    stoch = x[..., : variables * classes].flatten(0, -2).unflatten(1, one_hots)
    ones = positions_of_ones(stoch)
    return None if ones is None else ones + torch.arange(variables) * classes


def positions_of_ones(x: Tensor) -> Tensor | None:
    """Where the 1 of each one-hot row (N, S, K) is: (N, S) int64; None if a row is not one-hot.

    A product with 1 ... K names the place, which is faster than a maximum of each row. Then there
    must be a 1 in it, and nothing else anywhere.
    """
    with torch.autocast("cpu", enabled=False):
        place = x.float() @ torch.arange(1.0, x.shape[-1] + 1)  # (N, S)
    ones = place.long().sub_(1).clamp_(0, x.shape[-1] - 1)
    is_one_hot = (
        torch.equal(place - 1, ones.float())
        and bool((x.gather(-1, ones.unsqueeze(-1)) == 1).all())
        and torch.linalg.vector_norm(x, 1).item() == ones.numel()
    )
    return ones if is_one_hot else None


class _SumOfRows(torch.autograd.Function):
    """Rows (R, U), and which of them to sum (N, S) -> (N, U).

    The gradient of a row is a sum of rows as well: those of the outputs that it went into.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, ones: Tensor) -> Tensor:
        ctx.save_for_backward(ones)
        ctx.count = len(rows)
        return F.embedding_bag(ones, rows, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        (ones,) = ctx.saved_tensors
        row, position = ones.flatten().sort()
        starts = torch.searchsorted(row, torch.arange(ctx.count))
        sums = F.embedding_bag(position // ones.shape[1], grad.contiguous(), starts, mode="sum")
        return sums, None
