"""The posteriors of a whole sequence as one operation, with its gradient written out by hand.

`RSSM.observe` is the definition; this is the same arithmetic for the released agent. On a CPU
autograd's bookkeeping of some sixty small operations a step takes longer than most of them do; on a
GPU it is their number that counts. `steps.py` has what happens in a step.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamer.models.linear import product_dtype
from dreamer.models.steps import (
    Constants,
    Gradients,
    Kept,
    Later,
    Steps,
    Wanted,
    Weights,
    backward_through_norm,
)

MakeSteps = Callable[[Constants, int], Steps]  # for so many sequences at once


def unroll(
    from_embed: Tensor,
    from_action: Tensor,
    keep: Tensor,
    noise: Tensor,
    deter: Tensor,
    stoch: Tensor,
    weights: Weights,
    make_steps: MakeSteps,
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
        make_steps: `Steps`, or the same compiled.

    Returns:
        deter (T, B, D), stoch (T, B, S, K) and logits (T, B, S, K).
    """
    inputs = from_embed, from_action, keep, noise, deter, stoch
    states = _Unroll.apply(make_steps, *inputs, *weights)
    assert isinstance(states, tuple)
    return states  # pyright: ignore[reportReturnType]


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, make_steps: MakeSteps, from_embed, from_action, keep, noise, deter, stoch, *w: Tensor
    ):
        # Compiled steps read memory as it lies.
        keep, noise, deter, stoch = (x.contiguous() for x in (keep, noise, deter, stoch))
        dtype = product_dtype(from_embed)
        _, batch, units = from_embed.shape
        kept = Kept.empty(keep, units, deter.shape[-1], noise.shape[-2:].numel(), dtype)
        stochs = torch.empty_like(noise)
        # What the products add to.
        kept.gru_in[..., :units] = from_action
        kept.hidden[:] = from_embed

        steps = make_steps(Constants.of(Weights(*w), dtype, noise.shape[-1]), batch)
        normed = []
        for s, gumbel, stoch_out in zip(kept.steps(), noise.unbind(), stochs.unbind(), strict=True):
            normed.append(steps.forward(stoch, deter, gumbel, stoch_out, s))
            deter, stoch = s.deter, stoch_out

        ctx.save_for_backward(*kept, *w, *normed)
        ctx.steps = steps
        return kept.deter, stochs, kept.stats.view_as(noise)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        saved = iter(ctx.saved_tensors)
        kept = Kept._make(itertools.islice(saved, len(Kept._fields)))
        w = Weights._make(itertools.islice(saved, len(Weights._fields)))
        normed = list(saved)
        gradients = Gradients.empty(kept)
        probs = kept.stats.view_as(grad_outputs[1]).softmax(-1)
        # Of the last step, none is wanted by another.
        zeros = torch.zeros_like(kept.deter[0]), torch.zeros_like(kept.stoch_in[0])
        later = Later(*zeros, kept.keep[0])
        wanted = zip(*(x.contiguous().unbind() for x in grad_outputs), strict=True)
        wanted = map(Wanted._make, wanted)
        parts = wanted, probs.unbind(), normed, kept.steps(), gradients.steps()
        for step in reversed(list(zip(*parts, strict=True))):
            later = ctx.steps.backward(later, *step)

        def product(grad: Tensor, x: Tensor) -> Tensor:
            return (grad.flatten(0, 1).t() @ x.flatten(0, 1)).to(w.gates.dtype)

        def total(grad: Tensor) -> Tensor:
            return grad.sum((0, 1), dtype=w.gates.dtype)

        _, of_norm, of_norm_bias = backward_through_norm(
            gradients.normed, kept, w.norm, [False, True, True]
        )
        of_weights = Weights(
            stoch=product(gradients.x, kept.stoch_in),
            gates=product(gradients.gates, kept.gru_in),
            gates_bias=total(gradients.gates),
            norm=of_norm,
            norm_bias=of_norm_bias,
            deter=product(gradients.hidden, kept.rounded),
            stats=product(gradients.stats, kept.hidden),
            stats_bias=total(gradients.stats),
        )
        grad_stoch = (later.stoch * later.keep).view_as(probs[0])
        of_inputs = gradients.hidden, gradients.x, None, None, later.deter, grad_stoch
        return None, *of_inputs, *of_weights
