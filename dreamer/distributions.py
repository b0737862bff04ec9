"""Network outputs as probability distributions, with explicit noise.

Models and policies use them. Every `sample` takes the noise that decides it, so that all draws of
an update can be made in one call, and a saved draw gives a saved sample. Statistics are float32,
whatever the precision of the networks.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SampleGradient = Literal["exact", "reference"]

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
_CLIP = 1e-6  # how far from its bounds a truncated normal's sample stays


class Distribution(Protocol):
    """What the agent asks of a distribution over (..., *event)."""

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
    """Standard Gumbel noise of the shape of `x`, float32: argmax(logits + noise) is a sample."""
    # Uniform numbers first: the CPU draws exponential ones, one by one, at a quarter of the speed.
    noise = torch.empty_like(x, dtype=torch.float32).uniform_(generator=generator)
    return noise.log_().neg_().log_().neg_()


def _sum_event(x: Tensor, dims: int) -> Tensor:
    return x.flatten(x.ndim - dims).sum(-1) if dims else x


class OneHot:
    """One of K classes as a one-hot vector, event (K,).

    A sample's gradient is that of the probabilities: straight-through, Algorithm 1 of the paper.
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
        """(..., K) the likeliest class, without a gradient."""
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
        """(..., K), decided by Gumbel noise of that shape."""
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
    """Several independent choices as one-hot vectors, one after the other, event (A,).

    `choices` says how many classes each has; A is their sum.
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
        """(..., A) the likeliest class of each choice, without a gradient."""
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
        """(..., A), decided by Gumbel noise of that shape; straight-through as `OneHot`."""
        noises = [None] * len(self._blocks) if noise is None else self._split(noise)
        pairs = zip(self._blocks, noises, strict=True)
        return _join([block.sample(x) for block, x in pairs])


def _join(blocks: list[Tensor]) -> Tensor:
    """Undo `OneHots._split`."""
    return torch.cat([block.flatten(-2) for block in blocks], -1)


def one_hot_argmax(scores: Tensor) -> Tensor:
    """(..., K) with a 1 where the score is largest and 0 elsewhere; no gradient."""
    index = scores.max(-1, keepdim=True).indices  # which CPUs find faster than `argmax`
    return torch.zeros_like(scores).scatter_(-1, index, 1.0)


class Normal:
    """Independent normals; the last `event_dims` axes are one event."""

    def __init__(self, mean: Tensor, std: Tensor | float = 1.0, event_dims: int = 0):
        self.mean = mean.float()
        # Filled on the device: a number copied there would have to wait for it.
        self.std = std.float() if isinstance(std, Tensor) else self.mean.new_full((), std)
        self.event_dims = event_dims

    @property
    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    @property
    def entropy(self) -> Tensor:
        """(...) in nats."""
        entropy = (0.5 + _HALF_LOG_TAU + self.std.log()).expand_as(self.mean)
        return _sum_event(entropy, self.event_dims)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *event) -> (...) in nats."""
        z = (value - self.mean) / self.std
        log_prob = -0.5 * z.square() - self.std.log() - _HALF_LOG_TAU
        return _sum_event(log_prob, self.event_dims)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Mean + std * noise, noise standard normal of the mean's shape."""
        noise = torch.randn_like(self.mean) if noise is None else noise
        return self.mean + self.std * noise


def unit_normal_log_prob(mean: Tensor, value: Tensor) -> Tensor:
    """Log-density under normals of standard deviation 1, (N, *event) twice -> (N,) in nats.

    That of `Normal(mean, 1.0)` with fewer passes over what may be millions of pixels. Gradients
    flow into the mean only.
    """
    log_probs = _UnitNormal.apply(mean, value)
    assert isinstance(log_probs, Tensor)
    return log_probs


class _UnitNormal(torch.autograd.Function):
    """torch's own squared error has a gradient whose memory is always channels first."""

    @staticmethod
    def forward(ctx, mean: Tensor, value: Tensor) -> Tensor:
        errors = value - mean
        ctx.save_for_backward(errors)
        event = tuple(range(1, value.ndim))
        return -0.5 * errors.square().sum(event) - value[0].numel() * _HALF_LOG_TAU

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs  # (N,)
        (errors,) = ctx.saved_tensors
        return errors * grad.view(-1, *[1] * (errors.ndim - 1)), None


class Bernoulli:
    """Independent coins; the last `event_dims` axes are one event."""

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
        return _sum_event(entropy, self.event_dims)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *event) in [0, 1] -> (...) in nats; soft labels give the cross entropy."""
        log_prob = value * self.logits - F.softplus(self.logits)
        return _sum_event(log_prob, self.event_dims)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """1 where uniform noise lies under the probability; no gradient."""
        noise = torch.rand_like(self.logits) if noise is None else noise
        return (noise < self.mean).float()


class TruncatedNormal:
    """Independent normals cut to [-1, 1]; the last `event_dims` axes are one event.

    `gradient` chooses what flows through a sample: "exact" is the derivative of the inverse
    distribution function, in which the bounds stay while location and scale move; "reference" is
    the formula of the TensorFlow operation that the authors used, d/dloc = 1 and
    d/dscale = (x - loc) / scale, which ignores the bounds.
    """

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        event_dims: int = 0,
        gradient: SampleGradient = "exact",
    ):
        self.loc = loc.float()
        self.scale = scale.float()
        self.event_dims = event_dims
        self.gradient = gradient

    @property
    def _bounds(self) -> tuple[Tensor, Tensor]:
        return (-1 - self.loc) / self.scale, (1 - self.loc) / self.scale

    @property
    def _log_mass(self) -> Tensor:
        """Logarithm of the normal's probability between the bounds."""
        low, high = self._bounds
        # Both tails to the left of zero, where the distribution function keeps its digits.
        flip = low > 0
        low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
        log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        return log_high + torch.log1p(-(log_low - log_high).exp())

    @property
    def mean(self) -> Tensor:
        """In closed form."""
        low, high = self._bounds
        ratio = (_density(high) - _density(low)) / self._log_mass.exp()
        return self.loc - self.scale * ratio

    @property
    def mode(self) -> Tensor:
        """The location."""
        return self.loc

    @property
    def entropy(self) -> Tensor:
        """(...) in nats, in closed form."""
        low, high = self._bounds
        log_mass = self._log_mass
        tails = (low * _density(low) - high * _density(high)) / log_mass.exp()
        entropy = 0.5 + _HALF_LOG_TAU + self.scale.log() + log_mass + 0.5 * tails
        return _sum_event(entropy, self.event_dims)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *event) in [-1, 1] -> (...) in nats."""
        z = (value - self.loc) / self.scale
        log_prob = -0.5 * z.square() - _HALF_LOG_TAU - self.scale.log() - self._log_mass
        return _sum_event(log_prob, self.event_dims)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """The quantile of uniform noise, clipped a little inside the bounds."""
        noise = torch.rand_like(self.loc) if noise is None else noise
        sample = _TruncatedNormalSample.apply(self.loc, self.scale, noise, self.gradient)
        assert isinstance(sample, Tensor)
        return sample + (sample.clamp(-1 + _CLIP, 1 - _CLIP) - sample).detach()


def _density(z: Tensor) -> Tensor:
    return (-0.5 * z.square() - _HALF_LOG_TAU).exp()


class _TruncatedNormalSample(torch.autograd.Function):
    """Inverse of the distribution function, with either gradient; the inverse in float64."""

    @staticmethod
    def forward(ctx, loc: Tensor, scale: Tensor, noise: Tensor, gradient: SampleGradient):
        double = torch.float32 if loc.device.type == "mps" else torch.float64
        loc64, scale64 = loc.to(double), scale.to(double)
        low = torch.special.ndtr((-1 - loc64) / scale64)
        high = torch.special.ndtr((1 - loc64) / scale64)
        quantile = low + noise.to(double) * (high - low)
        z = torch.special.ndtri(quantile)
        sample = (loc64 + scale64 * z).clamp(-1, 1).to(loc.dtype)
        ctx.save_for_backward(loc, scale, noise, sample)
        ctx.gradient = gradient
        return sample

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        loc, scale, noise, sample = ctx.saved_tensors
        s = (sample - loc) / scale
        if ctx.gradient == "reference":
            return grad, grad * s, None, None
        low, high = (-1 - loc) / scale, (1 - loc) / scale
        # In logarithms: noise of exactly 0 or 1 would meet an exponential that overflows.
        from_high = (noise.log() + 0.5 * (s.square() - high.square())).exp()
        from_low = (torch.log1p(-noise) + 0.5 * (s.square() - low.square())).exp()
        grad_scale = s - high * from_high - low * from_low
        return grad * (1 - from_low - from_high), grad * grad_scale, None, None


class TanhNormal:
    """Independent normals squashed by tanh; the last `event_dims` axes are one event.

    Mean, mode and entropy have no closed form: they come from samples, as in the authors' code.
    """

    samples = 100

    def __init__(
        self, loc: Tensor, scale: Tensor, event_dims: int = 0, noise: Tensor | None = None
    ):
        """`noise` (100, ...) decides the samples behind mean, mode and entropy."""
        self.normal = Normal(loc, scale)
        self.event_dims = event_dims
        self.noise = noise

    def _draws(self) -> tuple[Tensor, Tensor]:
        """Samples (100, ...) before the tanh, and their log-densities (100, ...)."""
        noise = self.noise
        if noise is None:
            noise = torch.randn(
                (self.samples, *self.normal.mean.shape), device=self.normal.mean.device
            )
        raw = self.normal.sample(noise)
        return raw, self._log_prob_of_raw(raw)

    def _log_prob_of_raw(self, raw: Tensor) -> Tensor:
        correction = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
        return _sum_event(self.normal.log_prob(raw) - correction, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """The samples' mean."""
        return self._draws()[0].tanh().mean(0)

    @property
    def mode(self) -> Tensor:
        """The likeliest sample, of ONE index for the whole batch: the best for entry 0.

        So the authors' code has it; with one environment at a time it is the mode.
        """
        raw, log_prob = self._draws()
        best = log_prob.flatten(1)[:, 0].argmax()
        return raw[best].tanh()

    @property
    def entropy(self) -> Tensor:
        """(...) in nats, minus the samples' mean log-density."""
        return -self._draws()[1].mean(0)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *event) in (-1, 1) -> (...) in nats."""
        limit = 0.99999997  # in float32 the last number before 1; so the authors' code has it
        return self._log_prob_of_raw(value.clamp(-limit, limit).atanh())

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Tanh of a reparameterised normal sample."""
        return self.normal.sample(noise).tanh()


def explore(
    action: Tensor, amount: float, discrete: bool, choices: Sequence[int] = ()
) -> Distribution:
    """Add exploration noise to chosen actions (..., A).

    Discrete actions are replaced by a uniform one with probability `amount`, where there are
    several `choices` each on its own; continuous ones get normal noise of that standard deviation
    (the caller clips to [-1, 1]).

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
