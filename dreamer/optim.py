"""Optimisers: Adam in the authors' epsilon-hat form, and PyDreamer's AdamW.

The agent makes one per loss. The file knows parameters, not modules. A step never waits for the
device, so that a CUDA graph can capture it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from dreamer.schedules import PositiveSchedule, parse_schedule
from dreamer.schema.types import FractionBelowOne, Positive, doc
from dreamer.schema.validation import check


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser of one loss."""

    learning_rate: Annotated[PositiveSchedule, doc("Step size of Adam; a schedule.")]
    epsilon: Annotated[Positive, doc("Added to sqrt(v) without bias correction.")]
    clip: Annotated[Positive | None, doc("Maximum norm of the gradient; null: no clipping.")]
    weight_decay: Annotated[
        FractionBelowOne, doc("Fraction by which every update shrinks all weights.")
    ]

    def build(self, parameters: Iterable[Parameter]) -> "EpsilonHatAdam | GatedAdamW":
        """Build the optimiser; a subclass may build another."""
        return EpsilonHatAdam(parameters, self)

    def clip_gradients(self, parameters: Iterable[Parameter]) -> Tensor:
        """Scale all gradients to a norm of at most `clip`; return the norm () before."""
        return clip_gradients(parameters, self.clip)

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class AdamWConfig(OptimizerConfig):
    """AdamW as torch has it, and torch's clipping, as PyDreamer uses them."""

    epsilon: Annotated[Positive, doc("Added to sqrt(v) after bias correction.")]
    weight_decay: Annotated[
        FractionBelowOne,
        doc("Times the learning rate: fraction by which updates shrink weights with a gradient."),
    ]

    def build(self, parameters: Iterable[Parameter]) -> "GatedAdamW":
        """See `OptimizerConfig`."""
        return GatedAdamW(parameters, self)

    def clip_gradients(self, parameters: Iterable[Parameter]) -> Tensor:
        """See `OptimizerConfig`."""
        return clip_gradients(parameters, self.clip, epsilon=TORCH_CLIP_EPSILON)


class MemoryOrder(torch.optim.Optimizer):
    """Gives torch's fused kernel what it needs: all tensors of a parameter in one memory order.

    It copies other gradients, and on CPUs it mixes up weights if gradients and weights differ.
    """

    def _init_group(self, group, params, grads, exp_avgs, exp_avg_sqs, *others):
        """Fill the lists with tensors in memory order."""
        parent: Any = super()
        has_complex = parent._init_group(group, params, grads, exp_avgs, exp_avg_sqs, *others)
        for i, parameter in enumerate(params):
            if _has_channels_last(parameter):
                for tensors in (params, grads, exp_avgs, exp_avg_sqs):
                    tensors[i] = tensors[i].permute(0, 2, 3, 1)
        grads[:] = [grad.contiguous() for grad in grads]
        return has_complex

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state, also one with another memory order."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.empty_like(parameter).copy_(state[name])


class GatedAdamW(MemoryOrder, torch.optim.AdamW):
    """torch's AdamW, whose step the device may forbid.

    w <- (1 - lr * decay) * w, then w <- w - lr * m_hat / (sqrt(v_hat) + epsilon), for parameters
    with a gradient.
    """

    found_inf: Tensor | None  # read by torch: the kernel changes nothing where it is 1

    def __init__(self, parameters: Iterable[Parameter], config: AdamWConfig):
        super().__init__(
            parameters,
            lr=parse_schedule(config.learning_rate)(0),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.config = config

    def step(self, closure: Callable[[], Any] | None = None, *, allowed: Tensor | None = None):
        """Decay and update all parameters that have a gradient.

        Args:
            closure: evaluates the loss first, if given.
            allowed: () float; 0 leaves weights and state exactly as they are. None counts as 1.
        """
        self.found_inf = None if allowed is None else 1 - allowed
        return super().step(closure)


class EpsilonHatAdam(MemoryOrder, torch.optim.Adam):
    """TensorFlow's form of Adam, after a weight decay that the learning rate does not scale.

    w <- (1 - decay) * w                                 for ALL parameters, biases and norms too
    w <- w - lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon)

    torch adds its epsilon after the bias correction, so `epsilon` here corresponds to
    `epsilon / sqrt(1 - b2^t)` there: 31.6 times as much in the first update. Parameters without a
    gradient are decayed but not updated.

    Source: Kingma and Ba (2015), end of section 2; `Optimizer` of the authors' code.
    """

    def __init__(self, parameters: Iterable[Parameter], config: OptimizerConfig):
        rate = parse_schedule(config.learning_rate)(0)
        super().__init__(parameters, lr=rate, eps=config.epsilon, fused=True)
        self.config = config

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, allowed: Tensor | None = None):
        """Decay, then update, all parameters.

        Args:
            closure: evaluates the loss first, if given.
            allowed: () float; 0 leaves weights and state exactly as they are. None counts as 1.

        The bias corrections are part of the learning rate, a tensor. The kernel gets a step count
        so large that its own corrections are 1; its epsilon is then that of the formula above.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group, allowed)
        return loss

    def _step_group(self, group: dict[str, Any], allowed: Tensor | None) -> None:
        if allowed is None:
            allowed = torch.ones((), device=group["params"][0].device)
        parameters, gradients, first, second, counts = [], [], [], [], []
        self._init_group(group, parameters, gradients, first, second, [], counts)
        torch._foreach_mul_(group["params"], 1 - self.config.weight_decay * allowed)
        if not parameters:
            return
        # A list: a single tensor would be read as a number, which waits for the device.
        torch._foreach_add_(counts, [allowed] * len(counts))
        # A parameter may get its first gradient late; the authors' code has one count for all.
        count = torch.stack(counts).amax()
        betas = group["betas"]
        # 1 - b^t, precise at small t
        corrections = [-torch.expm1(count * math.log(beta)) for beta in betas]
        torch._fused_adam_(
            parameters,
            gradients,
            first,
            second,
            [],
            [torch.full_like(count, LARGE_STEP)] * len(parameters),
            lr=group["lr"] * corrections[1].sqrt() / corrections[0],
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=0.0,
            eps=self.config.epsilon,
            amsgrad=False,
            maximize=False,
            found_inf=1 - allowed,  # the kernel changes nothing where this is 1
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state, also one of an older version."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group["eps"] = self.config.epsilon  # older versions saved a corrected one
            group.pop("updates", None)  # older versions counted here


def _has_channels_last(kernel: Tensor) -> bool:
    return kernel.ndim == 4 and not kernel.is_contiguous()


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters; nothing waits for the device.

    The rate becomes a tensor that keeps its place in memory. So a CUDA graph that has captured a
    step uses the new rate.
    """
    for group in optimizer.param_groups:
        device = group["params"][0].device
        if not isinstance(group["lr"], Tensor) or group["lr"].device != device:
            group["lr"] = torch.empty((), device=device)
        group["lr"].fill_(rate)


LARGE_STEP = 1e9  # 1 - b^t is 1 in any precision
TORCH_CLIP_EPSILON = 1e-6  # that of torch.nn.utils.clip_grad_norm_


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[Parameter], limit: float | None, *, epsilon: float = 0.0
) -> Tensor:
    """Scale all gradients to a global norm of at most `limit`.

    Small gradients are multiplied by 1: reading the norm would wait for the device.

    Args:
        parameters: those without a gradient are skipped.
        limit: None never clips.
        epsilon: added to the norm, as torch's function does; the authors' code does not.

    Returns:
        The norm () before clipping.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit is not None:
        torch._foreach_mul_(gradients, limit / (norm + epsilon).clamp_min(limit))
    return norm
