"""Dense layers of one-hot rows, which look up columns of their weights in place of multiplying.

The heads and the recurrent model use them in dreams, whose features are categorical latents.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamer.models.linear import linear, product_dtype, remembered
from dreamer.types import OneHotFeatures


def one_hot_linear(x: OneHotFeatures, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` of the features that `x` stands for.

    Args:
        x: (..., F).
        weight: (U, F), of which the first columns belong to the one-hot rows.
        bias: (U,).

    Returns:
        (..., U); gradients flow into weight and bias.
    """
    stoch_size = weight.shape[1] - x.deter.shape[-1]
    dtype = product_dtype(x.deter)
    rows = remembered(
        "one_hot", weight, lambda: weight[:, :stoch_size].t().to(dtype).contiguous()
    )  # (S * K, U)
    others = remembered("others", weight, lambda: weight[:, stoch_size:].contiguous())
    picked = _SumOfRows.apply(rows, x.ones.flatten(0, -2))
    assert isinstance(picked, Tensor)
    y = linear(x.deter, others, bias)
    return y + picked.view_as(y)


class _SumOfRows(torch.autograd.Function):
    """Rows (R, U), and which of them to sum (N, S) -> (N, U).

    The gradient of a row is a sum of rows as well: those of the outputs that it went into.
    `embedding_bag`'s own backward pass adds them one by one and takes three times as long.
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
        starts = torch.searchsorted(row, torch.arange(ctx.count, device=row.device))
        sums = F.embedding_bag(position // ones.shape[1], grad.contiguous(), starts, mode="sum")
        return sums, None
