"""Activations that overwrite what they are computed from.

Fresh memory costs time on a CPU, and the gradient of ELU needs no exponential where the result is
at hand. In the plain networks nothing is overwritten, so that a hook may keep what it sees.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamer.kernels.hooks import has_hooks
from dreamer.models.mlp import DenseLayer

Activation = Callable[[Tensor], Tensor]


def elu_between(x: Tensor) -> Tensor:
    """ELU that overwrites its input, and in the backward pass the gradient of its result, too.

    Exactly one operation may read the result: then nothing else needs that gradient.
    """
    y = _EluBetween.apply(x)
    assert isinstance(y, Tensor)
    return y


class _EluBetween(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return F.elu_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        (y,) = ctx.saved_tensors
        if grad.dtype != y.dtype or grad.stride() != y.stride():
            return torch.ops.aten.elu_backward(grad, 1, 1, 1, True, y)
        return torch.ops.aten.elu_backward.grad_input(grad, 1, 1, 1, True, y, grad_input=grad)


def in_place(activation: Activation) -> Activation:
    """The form of an activation that overwrites its input, where there is one."""
    if activation is F.elu:
        return F.elu_
    return F.relu_ if activation is F.relu else activation


class InPlaceDenseLayer(DenseLayer):
    """A dense layer whose activation overwrites the product."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., input_size) -> (..., units)."""
        if x.ndim < 2 or has_hooks(self):
            return super().forward(x)
        # As a matrix: autograd copies the gradient of a view that is overwritten.
        return self.activate(self.norm(self.linear(x.flatten(0, -2)))).unflatten(0, x.shape[:-1])

    def activate(self, x: Tensor) -> Tensor:
        """The activation of (N, units), which is overwritten."""
        return in_place(self.activation)(x)
