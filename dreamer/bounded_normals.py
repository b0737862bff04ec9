"""Normal distributions bounded to [-1, 1], for continuous actions.

The actor uses them; `distributions.py` defines their interface.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer.distributions import Normal, sum_event
from dreamer.losses import HALF_LOG_2PI

SampleGradient = Literal["exact", "reference"]

_CLIP = 1e-6  # distance of a truncated normal's samples from its bounds


class TruncatedNormal:
    """Independent normals truncated to [-1, 1]; the last `event_dims` axes are one event.

    `gradient` is the gradient of samples: "exact" differentiates the inverse distribution function
    with fixed bounds; "reference" is the formula of the TensorFlow operation that the authors used,
    d/dloc = 1 and d/dscale = (x - loc) / scale, which ignores the bounds.
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
        # Move both tails to the left of zero, where the distribution function is precise.
        flip = low > 0
        low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
        log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        return log_high + torch.log1p(-(log_low - log_high).exp())

    @property
    def mean(self) -> Tensor:
        """(..., *event), in closed form."""
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
        entropy = 0.5 + HALF_LOG_2PI + self.scale.log() + log_mass + 0.5 * tails
        return sum_event(entropy, self.event_dims)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *event) in [-1, 1] -> (...) in nats."""
        z = (value - self.loc) / self.scale
        log_prob = -0.5 * z.square() - HALF_LOG_2PI - self.scale.log() - self._log_mass
        return sum_event(log_prob, self.event_dims)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """The quantile at uniform noise, clipped to just inside the bounds."""
        noise = torch.rand_like(self.loc) if noise is None else noise
        sample = _TruncatedNormalSample.apply(self.loc, self.scale, noise, self.gradient)
        assert isinstance(sample, Tensor)
        return sample + (sample.clamp(-1 + _CLIP, 1 - _CLIP) - sample).detach()


def _density(z: Tensor) -> Tensor:
    return (-0.5 * z.square() - HALF_LOG_2PI).exp()


class _TruncatedNormalSample(torch.autograd.Function):
    """The inverse distribution function in float64, with either gradient."""

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
        # In logarithms: an exponential would overflow with noise of exactly 0 or 1.
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
        """`noise` (100, ...) determines the samples for mean, mode and entropy."""
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
        return sum_event(self.normal.log_prob(raw) - correction, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """The mean of the samples."""
        return self._draws()[0].tanh().mean(0)

    @property
    def mode(self) -> Tensor:
        """The most likely sample; the index is chosen for entry 0 and used for the whole batch.

        As in the authors' code. For one environment it is the mode.
        """
        raw, log_prob = self._draws()
        best = log_prob.flatten(1)[:, 0].argmax()
        return raw[best].tanh()

    @property
    def entropy(self) -> Tensor:
        """(...) in nats, minus the mean log-density of the samples."""
        return -self._draws()[1].mean(0)

    def log_prob(self, value: Tensor) -> Tensor:
        """(..., *event) in (-1, 1) -> (...) in nats."""
        limit = 0.99999997  # the last float32 before 1, as in the authors' code
        return self._log_prob_of_raw(value.clamp(-limit, limit).atanh())

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Tanh of a reparameterised normal sample."""
        return self.normal.sample(noise).tanh()


class TanhNormalBaseEntropy(TanhNormal):
    """A normal squashed by tanh, with the entropy of the normal before tanh, in closed form.

    It is no entropy of the actions: it grows with the standard deviation without a bound.

    Source: PyDreamer, https://github.com/jurgisp/pydreamer
    """

    @property
    def entropy(self) -> Tensor:
        """(...) in nats."""
        return sum_event(self.normal.entropy, self.event_dims)
