"""The posteriors of a whole sequence as one operation, with its gradient written out by hand.

`RSSM.observe` is the definition; this is the same arithmetic for the released agent on a CPU, where
autograd's bookkeeping of some sixty small operations a step takes longer than most of them do. The
file knows tensors and no module.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamer.models.linear import Repeated
from dreamer.models.mlp import LAYER_NORM_EPSILON
from dreamer.models.recurrent import UPDATE_BIAS

# Overloads by name: finding out which one is meant costs as much as a small operation.
aten = torch.ops.aten
layer_norm_out = aten.native_layer_norm.out
layer_norm_backward = aten.native_layer_norm_backward.default
softmax_backward = aten._softmax_backward_data.default
tanh_backward = aten.tanh_backward.default
sigmoid_backward_out = aten.sigmoid_backward.grad_input
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


class _Kept(NamedTuple):
    """What the backward pass needs, of all steps (T, B, ...) or of one (B, ...)."""

    keep: Tensor  # (..., 1)
    stoch_in: Tensor  # (..., S * K), masked
    gru_in: Tensor  # (..., U + D): the layer's output and the masked state
    gates: Tensor  # (..., 3 * D)
    normed: Tensor  # (..., 3 * D)
    mean: Tensor  # (..., 1)
    inverse_std: Tensor  # (..., 1)
    reset: Tensor  # (..., D)
    new: Tensor  # (..., D)
    update: Tensor  # (..., D)
    deter: Tensor  # (..., D)
    hidden: Tensor  # (..., U)
    stats: Tensor  # (..., S * K)

    def steps(self) -> Iterator["_Kept"]:
        return map(_Kept._make, zip(*(x.unbind() for x in self), strict=True))


class _Gradients(NamedTuple):
    """Those of the sums that layers and gates are made of, of all steps or of one."""

    stats: Tensor  # (..., S * K)
    hidden: Tensor  # (..., U)
    x: Tensor  # (..., U)
    normed: Tensor  # (..., 3 * D)
    gates: Tensor  # (..., 3 * D)

    def steps(self) -> Iterator["_Gradients"]:
        return map(_Gradients._make, zip(*(x.unbind() for x in self), strict=True))


def unroll(
    from_embed: Tensor,
    from_action: Tensor,
    keep: Tensor,
    noise: Tensor,
    deter: Tensor,
    stoch: Tensor,
    weights: Weights,
) -> tuple[Tensor, Tensor, Tensor]:
    """Infer categorical states: dense layers with ELU and without a norm, a GRU with one.

    Args:
        from_embed: (T, B, U), the embedding's part of its layer, bias included.
        from_action: (T, B, U), the action's part of the first layer, bias included.
        keep: (T, B, 1), 0 where an episode begins, else 1.
        noise: (T, B, S, K), Gumbel.
        deter: (B, D) before the first step.
        stoch: (B, S, K) before the first step.
        weights: of the layers.

    Returns:
        deter (T, B, D), stoch (T, B, S, K) and logits (T, B, S, K).
    """
    states = _Unroll.apply(from_embed, from_action, keep, noise, deter, stoch, *weights)
    assert isinstance(states, tuple)
    return states  # pyright: ignore[reportReturnType]


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(ctx, from_embed, from_action, keep, noise, deter, stoch, *weights: Tensor):
        w = Weights(*weights)
        length, batch, units = from_embed.shape
        size, latents = deter.shape[-1], noise.shape[-2:].numel()
        sizes = (latents, units + size, 3 * size, 3 * size, 1, 1, *[size] * 4, units, latents)
        kept = _Kept(keep, *(from_embed.new_empty(length, batch, n) for n in sizes))
        stochs = torch.zeros_like(noise)
        norm_bias = w.norm_bias.clone()
        norm_bias[2 * size :] += UPDATE_BIAS

        of_stoch, of_gates, of_deter, of_stats = products = [
            Repeated(x, batch) for x in (w.stoch, w.gates, w.deter, w.stats)
        ]
        parts = (x.unbind() for x in (from_embed, from_action, noise, stochs))
        for s, embedded, acted, gumbel, stoch_out in zip(kept.steps(), *parts, strict=True):
            x, deter_in = s.gru_in.split([units, size], -1)
            torch.mul(stoch.flatten(1), s.keep, out=s.stoch_in)
            torch.mul(deter, s.keep, out=deter_in)
            F.elu_(of_stoch.forward(s.stoch_in, acted, out=x))
            of_gates.forward(s.gru_in, w.gates_bias, out=s.gates)
            layer_norm_out(
                *(s.gates, (3 * size,), w.norm, norm_bias, LAYER_NORM_EPSILON),
                **{"out0": s.normed, "out1": s.mean, "out2": s.inverse_std},
            )
            reset, candidate, update = s.normed.chunk(3, -1)
            torch.sigmoid(reset, out=s.reset)
            torch.sigmoid(update, out=s.update)
            torch.tanh(s.reset * candidate, out=s.new)
            deter = torch.lerp(deter_in, s.new, s.update, out=s.deter)
            F.elu_(of_deter.forward(deter, embedded, out=s.hidden))
            of_stats.forward(s.hidden, w.stats_bias, out=s.stats)
            chosen = (s.stats.view_as(gumbel) + gumbel).argmax(-1, keepdim=True)
            stoch = stoch_out.scatter_(-1, chosen, 1.0)

        ctx.save_for_backward(*kept, *weights)
        ctx.products = products
        return kept.deter, stochs, kept.stats.view_as(noise)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        count = len(_Kept._fields)
        kept, w = _Kept(*ctx.saved_tensors[:count]), Weights(*ctx.saved_tensors[count:])
        units, size = kept.hidden.shape[-1], kept.deter.shape[-1]
        like = kept.stats, kept.hidden, kept.hidden, kept.gates, kept.gates
        gradients = _Gradients(*map(torch.empty_like, like))
        probs = kept.stats.view_as(grad_outputs[1]).softmax(-1)
        of_stoch, of_gates, of_deter, of_stats = ctx.products
        # What a step's successor wants of its state, none for the last.
        grad_deter, grad_stoch = (torch.zeros_like(x[0]) for x in grad_outputs[:2])

        parts = (x.unbind() for x in (probs, *grad_outputs))
        steps = zip(kept.steps(), gradients.steps(), *parts, strict=True)
        for s, g, prob, wanted_deter, wanted_stoch, wanted_stats in reversed(list(steps)):
            # Straight-through: the probabilities get the gradient of the sample.
            through_sample = softmax_backward(grad_stoch + wanted_stoch, prob, -1, prob.dtype)
            torch.add(through_sample.flatten(1), wanted_stats.flatten(1), out=g.stats)
            g_hidden = of_stats.backward(g.stats)
            elu_backward_out(g_hidden, 1, 1, 1, True, s.hidden, grad_input=g.hidden)
            grad = of_deter.backward(g.hidden).add_(grad_deter).add_(wanted_deter)

            x, deter_in = s.gru_in.split([units, size], -1)
            g_reset, g_candidate, g_update = g.normed.chunk(3, -1)
            through_new = grad * s.update
            inner = tanh_backward(through_new, s.new)
            candidate = s.normed[:, size : 2 * size]
            sigmoid_backward_out(inner * candidate, s.reset, grad_input=g_reset)
            torch.mul(inner, s.reset, out=g_candidate)
            sigmoid_backward_out(grad * (s.new - deter_in), s.update, grad_input=g_update)
            g.gates.copy_(_layer_norm_backward(g.normed, s, w, [True, False, False])[0])
            g_x, g_deter_in = of_gates.backward(g.gates).split([units, size], -1)
            elu_backward_out(g_x, 1, 1, 1, True, x, grad_input=g.x)
            grad_deter = (grad - through_new + g_deter_in) * s.keep
            grad_stoch = (of_stoch.backward(g.x) * s.keep).view_as(wanted_stoch)

        def product(grad: Tensor, x: Tensor) -> Tensor:
            return grad.flatten(0, 1).t() @ x.flatten(0, 1)

        _, of_norm, of_norm_bias = _layer_norm_backward(
            gradients.normed, kept, w, [False, True, True]
        )
        of_weights = Weights(
            stoch=product(gradients.x, kept.stoch_in),
            gates=product(gradients.gates, kept.gru_in),
            gates_bias=gradients.gates.sum((0, 1)),
            norm=of_norm,
            norm_bias=of_norm_bias,
            deter=product(gradients.hidden, kept.deter),
            stats=product(gradients.stats, kept.hidden),
            stats_bias=gradients.stats.sum((0, 1)),
        )
        of_inputs = gradients.hidden, gradients.x, None, None, grad_deter, grad_stoch
        return *of_inputs, *of_weights


def _layer_norm_backward(
    grad: Tensor, kept: _Kept, w: Weights, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the layer norm's input, scale and bias, those that are wanted."""
    statistics = kept.mean, kept.inverse_std
    return layer_norm_backward(
        grad, kept.gates, w.norm.shape, *statistics, w.norm, w.norm_bias, wanted
    )
