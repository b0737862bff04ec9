"""Dense layers of one-hot features: columns of the weights are looked up, not multiplied.

`kernels.optimize` puts the class in the place of the first dense layer of the heads and of the
RSSM, which see features without a gradient in dreams.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamer.kernels.hooks import has_hooks
from dreamer.kernels.in_place import InPlaceDenseLayer


class OneHotLookup(InPlaceDenseLayer):
    """A dense layer whose first inputs are S one-hot rows of K, where no gradient asks for them."""

    one_hots: tuple[int, int]  # S, K

    def forward(self, x: Tensor) -> Tensor:
        """(..., S * K + others) -> (..., units)."""
        if x.requires_grad or x.numel() < FEW_ROWS * x.shape[-1] or has_hooks(self):
            return super().forward(x)
        variables, classes = self.one_hots
        size = variables * classes
        rows = x.flatten(0, -2)
        ones = positions_of_ones(rows[:, :size].unflatten(1, self.one_hots))  # (N, S)
        if ones is None:  # zeros, where an episode begins, or somebody's own
            return super().forward(x)
        ones += torch.arange(variables) * classes
        weight, bias = self.linear.weight, self.linear.bias
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        columns = weight[:, :size].t().to(dtype).contiguous()
        y = F.linear(rows[:, size:], weight[:, size:], bias)
        y = y + _SumOfRows.apply(columns, ones)
        return self.activate(self.norm(y)).unflatten(0, x.shape[:-1])


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


FEW_ROWS = 64  # fewer are multiplied as fast
