"""Dense layers, also fast for the few rows that acting has on a CPU.

With one row or a handful, a layer costs what reading its weights costs, and the matrix products
that torch calls leave that to a single core. Every network here is made of these layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 16  # with more, the arithmetic counts, and torch's product is as fast


class Linear(nn.Linear):
    """`nn.Linear` that multiplies by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) -> (..., U)."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear`, on a CPU by all cores even for a few rows, if no gradient is wanted.

    Args:
        x: (..., I).
        weight: (U, I).
        bias: (U,).

    Returns:
        (..., U), equal to `F.linear` but for the order of its sums.
    """
    units, inputs = weight.shape
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.numel() > FEW_ROWS * inputs:
        return F.linear(x, weight, bias)
    cores = torch.get_num_threads()
    if units % cores:
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, inputs)
    blocks = weight.unflatten(0, (cores, -1))  # each core reads its own part of the weights
    if len(rows) == 1:
        y = torch.bmm(blocks, rows.t().expand(cores, -1, -1)).view(units) + bias
    else:
        of_blocks = torch.bmm(rows.expand(cores, -1, -1), blocks.mT)  # (cores, N, U / cores)
        y = of_blocks.transpose(0, 1).reshape(-1, units) + bias
    return y.view(*x.shape[:-1], units)


def product_dtype(x: Tensor) -> torch.dtype:
    """In which type a matrix product of `x` is made here: autocast's, or its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
