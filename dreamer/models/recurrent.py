"""What a recurrent model computes at every step: a gated cell, and linear layers made for loops.

`rssm.py` unrolls them over sequences. The file knows tensors and no latent state.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dreamer.models.linear import Linear, Repeated, product_dtype
from dreamer.models.mlp import LAYER_NORM_EPSILON, LayerNorm

UPDATE_BIAS = -1.0  # the GRU starts out slow to replace its state


class GRUCell(nn.Module):
    """A gated recurrent unit with one layer norm over all its gates.

    The reset gate multiplies the normalised candidate, not the old state; an update near 1
    replaces the state.

    Source: `GRUCell` of the authors' code. Differs from the paper: layer norm is on by default.
    """

    def __init__(self, input_size: int, size: int, *, layer_norm: bool):
        super().__init__()
        self.linear = Linear(input_size + size, 3 * size)
        self.norm = LayerNorm(3 * size) if layer_norm else nn.Identity()
        self.advance = advance

    def forward(self, x: Tensor, deter: Tensor) -> Tensor:
        """Input (..., input_size) and state (..., D) -> new state (..., D) float32."""
        return self.finish(self.linear(torch.cat([x, deter], -1)), deter)

    def finish(self, gates: Tensor, deter: Tensor) -> Tensor:
        """What follows the matrix product: (..., 3 * D) and (..., D) -> new state (..., D)."""
        if isinstance(self.norm, LayerNorm) and not torch.is_grad_enabled():
            return self.advance(gates, deter, self.norm.weight, self.norm.bias)
        state = _Gates.apply(self.norm(gates).float(), deter)
        assert isinstance(state, Tensor)
        return state


def advance(gates: Tensor, deter: Tensor, norm: Tensor, norm_bias: Tensor) -> Tensor:
    """`GRUCell.finish` with a layer norm and without a graph, as a function to be compiled."""
    normed = F.layer_norm(gates.float(), norm.shape, norm, norm_bias, LAYER_NORM_EPSILON)
    return _pass_gates(normed, deter)[-1]


class LoopLinear:
    """A linear layer for the steps of a loop: `x W' + bias + offset`.

    Autograd would add a gradient of the size of the weights to their sum after every step. Here
    the steps only keep what it is made of, and one matrix product after all of them makes the sum.
    Needs one backward pass, at most, through all steps of the loop.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        """For one loop over `weight` (U, I) and `bias` (U,)."""
        self._steps: list[tuple[Tensor, Tensor]] = []  # of the backward pass: inputs, gradients
        self._parameters = _Parameters.apply(self._steps, weight, bias)
        self._product: Repeated | None = None  # needs to know how many rows there will be

    def __call__(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """(B, I), and (B, U) if there is no bias -> (B, U)."""
        if self._product is None:
            self._product = Repeated(self._parameters[0].detach(), len(x))
        y = _Step.apply(self._steps, self._product, x, offset, *self._parameters)
        assert isinstance(y, Tensor)
        return y


class _Parameters(torch.autograd.Function):
    """Hands the parameters to the steps; its backward pass runs after those of all of them."""

    @staticmethod
    def forward(ctx, steps, weight: Tensor, bias: Tensor | None):
        ctx.steps, ctx.has_bias = steps, bias is not None
        ctx.set_materialize_grads(False)
        ctx.dtype, dtype = weight.dtype, product_dtype(weight)
        cast = [None if x is None else x.to(dtype, copy=True) for x in (weight, bias)]
        return tuple(cast)

    @staticmethod
    @once_differentiable
    def backward(ctx, *_):
        inputs, gradients = (torch.cat(x) for x in zip(*ctx.steps, strict=True))
        ctx.steps.clear()
        weight = (gradients.t() @ inputs).to(ctx.dtype)
        return None, weight, gradients.sum(0, dtype=ctx.dtype) if ctx.has_bias else None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, steps, product: Repeated, x: Tensor, offset: Tensor | None, weight, bias):
        ctx.steps, ctx.product = steps, product
        ctx.x_dtype, ctx.has_offset = x.dtype, offset is not None
        x = x.to(weight.dtype)
        ctx.save_for_backward(x)
        return product.forward(x, bias if offset is None else offset.to(weight.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        (x,) = ctx.saved_tensors
        ctx.steps.append((x, grad))
        of_x = ctx.product.backward(grad).to(ctx.x_dtype)
        return None, None, of_x, grad if ctx.has_offset else None, None, None


def _pass_gates(gates: Tensor, deter: Tensor) -> tuple[Tensor, ...]:
    """(..., 3 * D) and (..., D) -> candidate, reset, update, its result and the new state."""
    reset, candidate, update = gates.chunk(3, -1)
    reset = torch.sigmoid(reset)
    update = torch.sigmoid(update + UPDATE_BIAS)
    new = torch.tanh(reset * candidate)
    return candidate, reset, update, new, torch.lerp(deter, new, update)


class _Gates(torch.autograd.Function):
    """The gates of the cell, (..., 3 * D) and (..., D) -> (..., D): few operations, few buffers."""

    @staticmethod
    def forward(ctx, gates: Tensor, deter: Tensor) -> Tensor:
        *kept, state = _pass_gates(gates, deter)
        ctx.save_for_backward(*kept, deter)
        return state

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        candidate, reset, update, new, deter = ctx.saved_tensors
        grad_gates = grad.new_empty(*grad.shape[:-1], 3 * grad.shape[-1])
        grad_reset, grad_candidate, grad_update = grad_gates.chunk(3, -1)
        through_new = grad * update
        inner = torch.ops.aten.tanh_backward(through_new, new)
        sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
        sigmoid_backward(inner * candidate, reset, grad_input=grad_reset)
        torch.mul(inner, reset, out=grad_candidate)
        sigmoid_backward(grad * (new - deter), update, grad_input=grad_update)
        return grad_gates, grad - through_new
