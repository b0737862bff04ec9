"""One step of a sequence and its gradient, written out by hand for the released agent.

`unrolled.py` takes it through time. The file knows tensors and no module.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer.models.linear import Repeated
from dreamer.models.mlp import LAYER_NORM_EPSILON
from dreamer.models.recurrent import UPDATE_BIAS

# Overloads by name: finding out which one is meant costs as much as a small operation.
aten = torch.ops.aten
layer_norm = aten.native_layer_norm.default
layer_norm_backward = aten.native_layer_norm_backward.default
softmax_backward = aten._softmax_backward_data.default
tanh_backward = aten.tanh_backward.default
sigmoid_backward = aten.sigmoid_backward.default
elu_backward_out = aten.elu_backward.grad_input


class Weights(NamedTuple):
    """What a step multiplies by; rows are outputs, U the units of the dense layers."""

    stoch: Tensor  # (U, S * K) of the layer before the GRU
    gates: Tensor  # (3 * D, U + D)
    gates_bias: Tensor  # (3 * D,)
    norm: Tensor  # (3 * D,) of the GRU's layer norm
    norm_bias: Tensor  # (3 * D,)
    deter: Tensor  # (U, D) of the layer that meets the embedding
    stats: Tensor  # (S * K, U)
    stats_bias: Tensor  # (S * K,)


class Between(NamedTuple):
    """What lies between the products of a step, as functions that may be compiled."""

    mask: Callable[..., None]
    cell: Callable[..., Tensor]
    draw: Callable[..., None]
    through_sample: Callable[..., None]
    cell_backward: Callable[..., Tensor]
    first_layer_backward: Callable[..., Tensor]


class Kept(NamedTuple):
    """What the backward pass needs, of all steps (T, B, ...) or of one (B, ...).

    What is multiplied is in the type of products, the rest in float32.
    """

    keep: Tensor  # (..., 1)
    stoch_in: Tensor  # (..., S * K), masked, for products
    gru_in: Tensor  # (..., U + D), for products: the layer's output and the masked state
    gates: Tensor  # (..., 3 * D)
    mean: Tensor  # (..., 1)
    inverse_std: Tensor  # (..., 1)
    reset: Tensor  # (..., D)
    new: Tensor  # (..., D)
    update: Tensor  # (..., D)
    deter: Tensor  # (..., D)
    rounded: Tensor  # (..., D), the same for products
    hidden: Tensor  # (..., U), for products
    stats: Tensor  # (..., S * K)

    @classmethod
    def empty(cls, keep: Tensor, units: int, size: int, latents: int, dtype: torch.dtype) -> "Kept":
        """Room for U, D and S * K numbers a step, and those for products in a type of theirs."""

        def room(numbers: int, dtype: torch.dtype = keep.dtype) -> Tensor:
            return keep.new_empty(*keep.shape[:-1], numbers, dtype=dtype)

        deter = room(size)
        return cls(
            keep=keep,
            stoch_in=room(latents, dtype),
            gru_in=room(units + size, dtype),
            gates=room(3 * size),
            mean=room(1),
            inverse_std=room(1),
            reset=room(size),
            new=room(size),
            update=room(size),
            deter=deter,
            rounded=deter if deter.dtype == dtype else room(size, dtype),
            hidden=room(units, dtype),
            stats=room(latents),
        )

    def steps(self) -> Iterator["Kept"]:
        """One by one."""
        return map(Kept._make, zip(*(x.unbind() for x in self), strict=True))


class Gradients(NamedTuple):
    """Those of the sums that layers and gates are made of, of all steps or of one."""

    stats: Tensor  # (..., S * K), for products
    hidden: Tensor  # (..., U), for products
    x: Tensor  # (..., U), for products
    normed: Tensor  # (..., 3 * D)
    gates: Tensor  # (..., 3 * D), for products

    def steps(self) -> Iterator["Gradients"]:
        """One by one."""
        return map(Gradients._make, zip(*(x.unbind() for x in self), strict=True))

    @classmethod
    def empty(cls, kept: Kept) -> "Gradients":
        """Room beside what is kept."""
        return cls(
            stats=torch.empty_like(kept.stoch_in),
            hidden=torch.empty_like(kept.hidden),
            x=torch.empty_like(kept.hidden),
            normed=torch.empty_like(kept.gates),
            gates=torch.empty_like(kept.gates, dtype=kept.hidden.dtype),
        )


# The functions of `Between`. Each writes what it makes into the step's part of what is kept.


def _mask(stoch: Tensor, deter: Tensor, s: Kept) -> None:
    """What the step before left behind, (B, S, K) and (B, D), unless an episode begins."""
    torch.mul(stoch.flatten(1), s.keep, out=s.stoch_in)
    s.gru_in[:, -deter.shape[1] :].copy_(deter * s.keep)


def _cell(product: Tensor, deter: Tensor, norm: Tensor, norm_bias: Tensor, s: Kept) -> Tensor:
    """From the product (B, 3 * D) and the state before (B, D) to the new state.

    Returns the normed gates (B, 3 * D): to write them down would be to copy them.
    """
    if product.dtype != s.gates.dtype:
        s.gates.copy_(product)
    normed, mean, inverse_std = layer_norm(s.gates, norm.shape, norm, norm_bias, LAYER_NORM_EPSILON)
    s.mean.copy_(mean)
    s.inverse_std.copy_(inverse_std)
    reset, candidate, update = normed.chunk(3, -1)
    torch.sigmoid(reset, out=s.reset)
    torch.sigmoid(update, out=s.update)
    torch.tanh(s.reset * candidate, out=s.new)
    old = s.gru_in[:, -deter.shape[1] :]
    old = old if old.dtype == deter.dtype else deter * s.keep  # not the rounded one
    torch.lerp(old, s.new, s.update, out=s.deter)
    if s.rounded.dtype != s.deter.dtype:
        s.rounded.copy_(s.deter)
    return normed


def _draw(product: Tensor, noise: Tensor, classes: Tensor, s: Kept, stoch: Tensor) -> None:
    """From the product (B, S * K) to a sample (B, S, K), by the numbers of the classes (K,)."""
    if product.dtype != s.stats.dtype:
        s.stats.copy_(product)
    chosen = (s.stats.view_as(noise) + noise).max(-1, keepdim=True).indices
    torch.eq(chosen, classes, out=stoch)


def _through_sample(
    later: Tensor, keep: Tensor, wanted: Tensor, probs: Tensor, of_stats: Tensor, g: Gradients
) -> None:
    """Straight-through: the probabilities get the gradient of the sample.

    It is the sum of what the step after wants (B, S * K), if it keeps anything (B, 1), and of what
    else is wanted (B, S, K); that of the statistics (B, S, K) comes on top.
    """
    grad = wanted + (later * keep).view_as(wanted)
    through = softmax_backward(grad, probs, -1, probs.dtype)
    torch.add(through.flatten(1), of_stats.flatten(1), out=g.stats)


def _cell_backward(
    of_product: Tensor,
    later: Tensor,
    wanted: Tensor,
    normed: Tensor,
    norm: Tensor,
    s: Kept,
    g: Gradients,
) -> Tensor:
    """From the gradient of the new state, a sum of three, to that of the gates.

    Returns that of the old state but for its part in the gates, (B, D) as all.
    """
    grad = later + wanted + of_product
    size = grad.shape[1]
    through_new = grad * s.update
    inner = tanh_backward(through_new, s.new)
    g_reset = sigmoid_backward(inner * normed[:, size : 2 * size], s.reset)
    g_update = sigmoid_backward(grad * (s.new - s.gru_in[:, -size:]), s.update)
    torch.cat([g_reset, inner * s.reset, g_update], -1, out=g.normed)
    g.gates.copy_(backward_through_norm(g.normed, s, norm, [True, False, False])[0])
    return grad - through_new


def _first_layer_backward(grad_old: Tensor, g_gru_in: Tensor, s: Kept, g: Gradients) -> Tensor:
    """From the gradients of the GRU's input and old state to that of the state before: (B, D)."""
    units = g.x.shape[1]
    elu_backward_out(g_gru_in[:, :units], 1, 1, 1, True, s.gru_in[:, :units], grad_input=g.x)
    return (grad_old + g_gru_in[:, units:]) * s.keep


def backward_through_norm(
    grad: Tensor, kept: Kept, norm: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the layer norm's input, scale and bias, those that are wanted."""
    # The bias counts for nothing here but has to be given.
    return layer_norm_backward(
        grad, kept.gates, norm.shape, kept.mean, kept.inverse_std, norm, norm, wanted
    )


def _multiply(product: Repeated, x: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """`x @ weight' + bias`: (B, I) -> (B, U), in `out` where that is of its type."""
    return product.forward(x, bias, out if out.dtype == x.dtype else None)


PLAIN = Between(_mask, _cell, _draw, _through_sample, _cell_backward, _first_layer_backward)


class Constants(NamedTuple):
    """What is the same in all steps, of `Weights` and in the types that are needed."""

    stoch: Tensor  # as in `Weights`, all four for products
    gates: Tensor
    deter: Tensor
    stats: Tensor
    gates_bias: Tensor  # (3 * D,), for products
    stats_bias: Tensor  # (S * K,), for products
    norm: Tensor  # (3 * D,)
    norm_bias: Tensor  # (3 * D,), with that of the update gate
    classes: Tensor  # (K,) their numbers

    @classmethod
    def of(cls, w: Weights, dtype: torch.dtype, classes: int) -> "Constants":
        """Prepare for products of a type."""
        norm_bias = w.norm_bias.clone()
        norm_bias[2 * len(norm_bias) // 3 :] += UPDATE_BIAS
        matrices = w.stoch, w.gates, w.deter, w.stats, w.gates_bias, w.stats_bias
        return cls(
            *(x.to(dtype) for x in matrices),
            norm=w.norm,
            norm_bias=norm_bias,
            classes=torch.arange(classes, device=norm_bias.device),
        )


class Wanted(NamedTuple):
    """Gradients of what a step makes, from all who read it but the next step."""

    deter: Tensor  # (B, D)
    stoch: Tensor  # (B, S, K)
    stats: Tensor  # (B, S, K)


class Later(NamedTuple):
    """Gradients from the next step, the second still to be multiplied by whether it kept it."""

    deter: Tensor  # (B, D)
    stoch: Tensor  # (B, S * K)
    keep: Tensor  # (B, 1)


class Steps:
    """The steps of one sequence, forward and backward."""

    def __init__(self, constants: Constants, batch: int, between: Between = PLAIN):
        self._constants, self._between = constants, between
        self._products = [Repeated(x, batch) for x in constants[:4]]

    def forward(
        self, stoch: Tensor, deter: Tensor, noise: Tensor, stoch_out: Tensor, s: Kept
    ) -> Tensor:
        """From a state (B, S, K), (B, D) and noise (B, S, K) to `stoch_out` and what is kept.

        Returns the normed gates (B, 3 * D).
        """
        c, between = self._constants, self._between
        of_stoch, of_gates, of_deter, of_stats = self._products
        between.mask(stoch, deter, s)
        F.elu_(of_stoch.add_to(s.gru_in[:, : -deter.shape[1]], s.stoch_in))
        gates = _multiply(of_gates, s.gru_in, c.gates_bias, s.gates)
        normed = between.cell(gates, deter, c.norm, c.norm_bias, s)
        F.elu_(of_deter.add_to(s.hidden, s.rounded))
        stats = _multiply(of_stats, s.hidden, c.stats_bias, s.stats)
        between.draw(stats, noise, c.classes, s, stoch_out)
        return normed

    def backward(
        self, later: Later, wanted: Wanted, probs: Tensor, normed: Tensor, s: Kept, g: Gradients
    ) -> Later:
        """From what is wanted of a step to what it wants of the one before, and its gradients.

        Takes the probabilities (B, S, K) and the normed gates (B, 3 * D) besides.
        """
        between = self._between
        of_stoch, of_gates, of_deter, of_stats = self._products
        between.through_sample(later.stoch, later.keep, wanted.stoch, probs, wanted.stats, g)
        g_hidden = of_stats.backward(g.stats)
        elu_backward_out(g_hidden, 1, 1, 1, True, s.hidden, grad_input=g.hidden)
        of_state = of_deter.backward(g.hidden), later.deter, wanted.deter
        grad_old = between.cell_backward(*of_state, normed, self._constants.norm, s, g)
        g_gru_in = of_gates.backward(g.gates)
        grad_deter = between.first_layer_backward(grad_old, g_gru_in, s, g)
        return Later(grad_deter, of_stoch.backward(g.x), s.keep)
