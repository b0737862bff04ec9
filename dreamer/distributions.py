"""Probability distributions with explicit noise, parameterised by network outputs.

Models and policies use them. Every `sample` takes its noise as an argument, so that an update can
draw all noise at once and samples can be reproduced. Statistics are float32, whatever the precision
of the networks.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer.losses import HALF_LOG_2PI


class Distribution(Protocol):
    """Interface of a distribution over (..., *event)."""

    @property
    def mean(self) -> Tensor:
        """(..., *event)."""
        ...

    @property
    def mode(self) -> Tensor:
        """(..., *event)."""
        ...

    @property
    def entropy(self) -> Tensor:
        """(...) in nats."""
        ...

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *event) -> (...) in nats."""
        ...

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """(..., *event), reparameterised or straight-through."""
        ...


def gumbel_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw standard Gumbel noise like `x`, float32: argmax(logits + noise) is a sample."""
    # From uniform numbers: CPUs draw exponential ones at a quarter of the speed.
    noise = torch.empty_like(x, dtype=torch.float32).uniform_(generator=generator)
    return noise.log_().neg_().log_().neg_()


def logistic_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw standard logistic noise like `x`, float32: logit + noise > 0 is a sample of a bit."""
    uniform = torch.empty_like(x, dtype=torch.float32).uniform_(generator=generator)
    return uniform.logit_()


def sum_event(x: Tensor, dims: int) -> Tensor:
    """Sum over the last `dims` axes: (..., *event) -> (...)."""
    return x.flatten(x.ndim - dims).sum(-1) if dims else x


class OneHot:
    """One of K classes as a one-hot vector, event (K,).

    Samples have straight-through gradients: those of the probabilities (Algorithm 1 of the paper).
    """

    def __init__(self, logits: Tensor):
        self.logits = logits.float()  # (..., K)

    @property
    def probs(self) -> Tensor:
        """(..., K)."""
        return self.logits.softmax(-1)

    @property
    def mean(self) -> Tensor:
        """(..., K), the probabilities."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """(..., K) the most likely class; no gradient."""
        return one_hot_argmax(self.logits)

    @property
    def entropy(self) -> Tensor:
        """(...) in nats."""
        log_probs = self.logits.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., K) -> (...) in nats; no gradient flows into `value`."""
        return (value.detach() * self.logits.log_softmax(-1)).sum(-1)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """(..., K), from Gumbel noise of that shape."""
        noise = gumbel_like(self.logits) if noise is None else noise
        if not (self.logits.requires_grad and torch.is_grad_enabled()):
            return one_hot_argmax(self.logits + noise)
        sample = _StraightThrough.apply(self.logits, noise)
        assert isinstance(sample, Tensor)
        return sample


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, noise: Tensor) -> Tensor:
        ctx.save_for_backward(logits.softmax(-1))
        return one_hot_argmax(logits + noise)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (probs,) = ctx.saved_tensors
        softmax_backward = torch.ops.aten._softmax_backward_data
        return softmax_backward(grad_outputs[0], probs, -1, probs.dtype), None


class OneHots:
    """Several independent choices as concatenated one-hot vectors, event (A,).

    `choices` holds the number of classes of each; A is their sum.
    """

    def __init__(self, logits: Tensor, choices: Sequence[int]):
        self.choices = choices
        self._blocks = [OneHot(block) for block in self._split(logits)]

    def _split(self, x: Tensor) -> list[Tensor]:
        """(..., A) -> (..., G, K) for every run of G neighbouring choices among K classes each."""
        runs = [(len(list(group)), size) for size, group in itertools.groupby(self.choices)]
        blocks = x.split([count * size for count, size in runs], -1)
        return [block.unflatten(-1, run) for block, run in zip(blocks, runs, strict=True)]

    @property
    def mean(self) -> Tensor:
        """(..., A), the probabilities."""
        return _join([block.mean for block in self._blocks])

    @property
    def mode(self) -> Tensor:
        """(..., A) the most likely class of each choice; no gradient."""
        return _join([block.mode for block in self._blocks])

    @property
    def entropy(self) -> Tensor:
        """(...) in nats, the sum over choices."""
        return torch.cat([block.entropy for block in self._blocks], -1).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., A) -> (...) in nats; no gradient flows into `value`."""
        pairs = zip(self._blocks, self._split(value), strict=True)
        return torch.cat([block.log_prob(x) for block, x in pairs], -1).sum(-1)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """(..., A), from Gumbel noise of that shape; straight-through like `OneHot`."""
        noises = [None] * len(self._blocks) if noise is None else self._split(noise)
        pairs = zip(self._blocks, noises, strict=True)
        return _join([block.sample(x) for block, x in pairs])


def _join(blocks: list[Tensor]) -> Tensor:
    """Undo `OneHots._split`."""
    return torch.cat([block.flatten(-2) for block in blocks], -1)


def one_hot_argmax(scores: Tensor) -> Tensor:
    """(..., K) with a 1 where the score is largest and 0 elsewhere; no gradient."""
    index = scores.max(-1, keepdim=True).indices  # faster than `argmax` on CPUs
    return torch.zeros_like(scores).scatter_(-1, index, 1.0)


class Normal:
    """Independent normals; the last `event_dims` axes are one event."""

    def __init__(self, mean: Tensor, std: Tensor | float = 1.0, event_dims: int = 0):
        self.mean = mean.float()
        # Created on the device: copying a number to it would wait for it.
        self.std = std.float() if isinstance(std, Tensor) else self.mean.new_full((), std)
        self.event_dims = event_dims

    @property
    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    @property
    def entropy(self) -> Tensor:
        """(...) in nats."""
        entropy = (0.5 + HALF_LOG_2PI + self.std.log()).expand_as(self.mean)
        return sum_event(entropy, self.event_dims)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *event) -> (...) in nats."""
        z = (value - self.mean) / self.std
        log_prob = -0.5 * z.square() - self.std.log() - HALF_LOG_2PI
        return sum_event(log_prob, self.event_dims)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """(..., *event): mean + std * noise, with standard normal noise of that shape."""
        noise = torch.randn_like(self.mean) if noise is None else noise
        return self.mean + self.std * noise


class SquaredError(Normal):
    """A unit normal whose log-density leaves out the constant: minus half the squared error."""

    def __init__(self, mean: Tensor, event_dims: int = 0):
        super().__init__(mean, 1.0, event_dims)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *event) -> (...), minus half the sum of squared errors."""
        return sum_event(-0.5 * (value - self.mean).square(), self.event_dims)


class Bernoulli:
    """Independent binary variables; the last `event_dims` axes are one event."""

    def __init__(self, logits: Tensor, event_dims: int = 0):
        self.logits = logits.float()
        self.event_dims = event_dims

    @property
    def mean(self) -> Tensor:
        """The probability of a 1."""
        return self.logits.sigmoid()

    @property
    def mode(self) -> Tensor:
        """1 where its probability exceeds one half."""
        return (self.logits > 0).float()

    @property
    def entropy(self) -> Tensor:
        """(...) in nats."""
        entropy = F.softplus(self.logits) - self.logits * self.mean
        return sum_event(entropy, self.event_dims)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *event) in [0, 1] -> (...) in nats; soft labels give the cross entropy."""
        log_prob = value * self.logits - F.softplus(self.logits)
        return sum_event(log_prob, self.event_dims)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """1 where uniform noise is below the probability; no gradient."""
        noise = torch.rand_like(self.logits) if noise is None else noise
        return (noise < self.mean).float()


def explore(
    action: Tensor, amount: float, discrete: bool, choices: Sequence[int] = ()
) -> Distribution:
    """Add exploration noise to chosen actions (..., A).

    With probability `amount`, a discrete action (each of several `choices`) is replaced by a random
    one. Continuous actions get normal noise of standard deviation `amount`; the caller clips
    them to [-1, 1].

    Source: `action_noise` of the authors' code.
    """
    if choices:
        logits = [_mix_in_uniform(x, amount) for x in action.split(list(choices), -1)]
        return OneHots(torch.cat(logits, -1), choices)
    if discrete:
        return OneHot(_mix_in_uniform(action, amount))
    return Normal(action, amount, event_dims=1)


def _mix_in_uniform(action: Tensor, amount: float) -> Tensor:
    """One-hot (..., K) -> logits (..., K)."""
    return (amount / action.shape[-1] + (1 - amount) * action).log()
