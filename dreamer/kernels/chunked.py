"""Process independent rows in chunks, to keep the activations of one chunk at a time.

On a CPU, new memory costs time, and the activations of a small chunk stay in the cache. The file
knows functions of rows, and no networks.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 128  # rows, images here; fewer make the matrix products too small


def split(x: Tensor) -> Sequence[Tensor]:
    """Split into the fewest chunks of equal size with at most CHUNK rows."""
    return x.chunk(max(1, math.ceil(len(x) / CHUNK)))


def chunked_scores(
    function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
) -> Tensor:
    """Compute `function(x, target)`, a score per row, without keeping activations of all rows.

    The gradient of a chunk is taken right after its scores, for a loss that weights all rows
    equally, such as a mean. For other losses, the backward pass computes the scores again.

    Args:
        function: (n, ...), (n, ...) -> (n,), row by row; also reads `parameters`.
        x: (N, ...).
        target: (N, ...), without gradient.
        parameters: other tensors that get a gradient.

    Returns:
        (N,), differentiable once in `x` and `parameters`.
    """
    if not torch.is_grad_enabled():
        return torch.cat([function(*rows) for rows in zip(split(x), split(target), strict=True)])
    scores = _ChunkedScores.apply(function, x, target, *parameters)
    assert isinstance(scores, Tensor)
    return scores


class _ChunkedScores(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, function, x: Tensor, target: Tensor, *parameters: Tensor) -> Tensor:
        scores, gradients = _differentiate(function, x, target, parameters)
        ctx.function = function
        ctx.save_for_backward(x, target, *parameters)
        ctx.gradients = gradients  # of the sum of all scores
        return scores

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, *grad_outputs: Tensor):
        (weights,) = grad_outputs  # (N,)
        if (weights == weights[0]).all():
            gradients = torch._foreach_mul(ctx.gradients, weights[0])
        else:
            x, target, *parameters = ctx.saved_tensors
            _, gradients = _differentiate(ctx.function, x, target, parameters, weights)
        return None, gradients[0], None, *gradients[1:]


def _differentiate(
    function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    parameters: Sequence[Tensor],
    weights: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Compute scores (N,) and gradients of their weighted sum in x and parameters, by chunks."""
    scores, x_grads, sums = [], [], [torch.zeros_like(p) for p in parameters]
    weights = torch.ones(len(x)) if weights is None else weights
    for rows, targets, weight in zip(split(x), split(target), split(weights), strict=True):
        with torch.enable_grad():
            rows = rows.detach().requires_grad_()
            score = function(rows, targets)
            x_grad, *gradients = torch.autograd.grad(score, [rows, *parameters], weight)
        if sums:
            torch._foreach_add_(sums, gradients)
        scores.append(score.detach())
        x_grads.append(x_grad)
    return torch.cat(scores), [torch.cat(x_grads), *sums]
