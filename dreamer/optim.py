"""The optimiser of the authors' code: Adam in its epsilon-hat form, with decoupled decay.

The agent makes one for everything that is trained. The file knows parameters, not modules. Nothing
in a step waits for the device, so that a CUDA graph can capture it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from dreamer.schema.types import FractionBelowOne, Positive, doc
from dreamer.schema.validation import check


@dataclass(frozen=True)
class OptimizerConfig:
    """How one loss is minimised."""

    learning_rate: Annotated[Positive, doc("Step size of Adam.")]
    epsilon: Annotated[Positive, doc("Added to sqrt(v) without bias correction.")]
    clip: Annotated[Positive | None, doc("Largest norm of the gradient; null: never clipped.")]
    weight_decay: Annotated[
        FractionBelowOne, doc("Share of every weight that each update removes.")
    ]

    def __post_init__(self):
        check(self)


class EpsilonHatAdam(torch.optim.Adam):
    """Adam as TensorFlow writes it, after a decay that the learning rate does not scale.

    w <- (1 - decay) * w                                 for ALL parameters, biases and norms too
    w <- w - lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + epsilon)

    torch adds its epsilon after the bias correction, so `epsilon / sqrt(1 - b2^t)` there is
    `epsilon` here: 31.6 times as much in the first update. Parameters without a gradient are
    decayed but not updated.

    Source: Kingma and Ba (2015), end of section 2; `Optimizer` of the authors' code.
    """

    def __init__(self, parameters: Iterable[Parameter], config: OptimizerConfig):
        super().__init__(parameters, lr=config.learning_rate, eps=config.epsilon, fused=True)
        self.config = config

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, allowed: Tensor | None = None):
        """Decay, then update, all parameters.

        Args:
            closure: evaluates the loss first, if given.
            allowed: () float; where it is 0, weights and state stay as they are, bit by bit. None
                is 1.

        The bias corrections are in the rate, a tensor; the kernel's own vanish at a step count that
        is beyond them. Its epsilon, a number of the host, is then the one of the class's formula.
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
        # A list: one tensor would be taken for a number, which waits for the device.
        torch._foreach_add_(counts, [allowed] * len(counts))
        # A parameter may get its first gradient late; the authors' code has one count for all.
        count = torch.stack(counts).amax()
        betas = group["betas"]
        # 1 - b^t without the loss of digits at small t
        corrections = [-torch.expm1(count * math.log(beta)) for beta in betas]
        torch._fused_adam_(
            parameters,
            gradients,
            first,
            second,
            [],
            [torch.full_like(count, BEYOND_CORRECTION)] * len(parameters),
            lr=group["lr"] * corrections[1].sqrt() / corrections[0],
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=0.0,
            eps=self.config.epsilon,
            amsgrad=False,
            maximize=False,
            found_inf=1 - allowed,  # the kernel's word for "leave all as it is"
        )

    def _init_group(self, group, params, grads, exp_avgs, exp_avg_sqs, *others):
        """Fill the lists with tensors in the order of their memory.

        That is how torch's kernel walks through them; other gradients it copies, and on CPUs it
        takes them for those of other weights if they do not lie in memory as the weights do.
        """
        has_complex = super()._init_group(group, params, grads, exp_avgs, exp_avg_sqs, *others)
        for i, parameter in enumerate(params):
            if _has_channels_last(parameter):
                for tensors in (params, grads, exp_avgs, exp_avg_sqs):
                    tensors[i] = tensors[i].permute(0, 2, 3, 1)
        grads[:] = [grad.contiguous() for grad in grads]
        return has_complex

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state back, also one of an older program."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            for name in ("exp_avg", "exp_avg_sq"):  # a kernel walks through their memory, too
                state[name] = torch.empty_like(parameter).copy_(state[name])
        for group in self.param_groups:
            group["eps"] = self.config.epsilon  # was that of the last step, corrected
            group.pop("updates", None)  # the counts are in the state


def _has_channels_last(kernel: Tensor) -> bool:
    return kernel.ndim == 4 and not kernel.is_contiguous()


BEYOND_CORRECTION = 1e9  # steps after which 1 - b^t is 1 in any precision


@torch.no_grad()
def clip_gradients(parameters: Iterable[Parameter], limit: float | None) -> Tensor:
    """Scale all gradients so that their global norm is at most `limit`.

    The norm is not looked at, which a device would have to be waited for: gradients that are small
    enough are multiplied by 1.

    Args:
        parameters: those that may have a gradient.
        limit: None never clips.

    Returns:
        The norm () before clipping.

    torch's own function divides by norm + 1e-6; the authors' code does not.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit is not None:
        torch._foreach_mul_(gradients, limit / norm.clamp_min(limit))
    return norm
