"""Images in pieces: the same numbers with the buffers of a few images in place of a whole batch.

The networks of `vision.py` use it on CPUs, where memory is got and cleared at a price and a small
piece stays in the cache. It knows functions of images, and no network.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PIECE = 128  # images; fewer make the matrix products too small


def in_pieces(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)` of independent rows (N, ...); the backward pass, too, goes piece by piece."""
    if x.device.type != "cpu":
        return function(x)
    return torch.cat([function(piece) for piece in _split(x)])


def score_in_pieces(
    function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
) -> Tensor:
    """`function(x, target)`, a score of each row, with its gradient taken at once.

    A piece's gradient is taken right after its scores, so that no activations wait for the
    backward pass. That needs to know what the backward pass will bring: the same for every row.

    Args:
        function: (n, ...), (n, ...) -> (n,), row by row; reads `parameters` besides.
        x: (N, ...).
        target: (N, ...), constant.
        parameters: what else gets a gradient: weights, or what was made of them.

    Returns:
        (N,) of which the sum or mean may be differentiated, nothing else.

    Raises:
        RuntimeError: in the backward pass, if rows were weighted differently.
    """
    if not torch.is_grad_enabled() or x.device.type != "cpu":
        return function(x, target)
    scores = _Scores.apply(function, x, target, *parameters)
    assert isinstance(scores, Tensor)
    return scores


def _split(x: Tensor) -> Sequence[Tensor]:
    """As few pieces of one size as there can be of at most PIECE rows."""
    return x.chunk(math.ceil(len(x) / PIECE))


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, x: Tensor, target: Tensor, *parameters: Tensor) -> Tensor:
        scores, x_grads, sums = [], [], [torch.zeros_like(p) for p in parameters]
        for piece, piece_target in zip(_split(x), _split(target), strict=True):
            with torch.enable_grad():
                piece = piece.detach().requires_grad_()
                score = function(piece, piece_target)
                x_grad, *gradients = torch.autograd.grad(score.sum(), [piece, *parameters])
            torch._foreach_add_(sums, gradients)
            scores.append(score.detach())
            x_grads.append(x_grad)
        ctx.save_for_backward(torch.cat(x_grads), *sums)
        return torch.cat(scores)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (weights,) = grad_outputs  # (N,)
        if not (weights == weights[0]).all():
            raise RuntimeError("Expect the scores of all rows to count the same in the loss.")
        gradients = torch._foreach_mul(list(ctx.saved_tensors), weights[0])
        return None, gradients[0], None, *gradients[1:]
