"""The kinds of stochastic state, behind one interface without parameters.

The RSSM works with any; an ablation swaps the object. Statistics are (..., S, P), samples
(..., S, K); Gaussian latents have K = 1 and P = 2, binary latents K = P = 1.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer.distributions import Bernoulli, Normal, OneHot, gumbel_like, logistic_like
from dreamer.schema.types import AtLeastTwo, NonNegative, PositiveCount, doc
from dreamer.schema.validation import check


class Latent(Protocol):
    """Interface of a stochastic state, for the RSSM and the losses."""

    @property
    def variables(self) -> int:
        """S."""
        ...

    @property
    def classes(self) -> int:
        """K."""
        ...

    @property
    def statistics(self) -> int:
        """P."""
        ...

    def to_stats(self, outputs: Tensor) -> Tensor:
        """Reshape a layer's outputs (..., S * P) to statistics (..., S, P)."""
        ...

    def draw_noise(self, stats: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noise (..., S, K) for statistics of shape (..., S, P)."""
        ...

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """(..., S, P), (..., S, K) -> (..., S, K); gradients flow into the statistics."""
        ...

    def mode(self, stats: Tensor) -> Tensor:
        """(..., S, P) -> (..., S, K)."""
        ...

    def kl_divergence(self, left: Tensor, right: Tensor) -> Tensor:
        """KL(left || right) of two statistics (..., S, P), summed over S: (...) in nats."""
        ...

    def entropy(self, stats: Tensor) -> Tensor:
        """(..., S, P) -> (...) in nats, summed over S."""
        ...

    def log_prob(self, stats: Tensor, stoch: Tensor) -> Tensor:
        """(..., S, P), (..., S, K) -> (...) in nats, summed over S."""
        ...


@dataclass(frozen=True)
class CategoricalLatent:
    """S one-hot variables of K classes, with straight-through gradients.

    Source: section 2.1 and Algorithm 1.
    """

    variables: Annotated[PositiveCount, doc("S, variables of the stochastic state.")]
    classes: Annotated[AtLeastTwo, doc("K, classes of each variable.")]

    def __post_init__(self):
        check(self)

    @property
    def statistics(self) -> int:
        """P = K: the logits."""
        return self.classes

    def to_stats(self, outputs: Tensor) -> Tensor:
        """(..., S * K) -> (..., S, K) float32."""
        return outputs.float().unflatten(-1, (self.variables, self.classes))

    def draw_noise(self, stats: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Gumbel noise (..., S, K)."""
        return gumbel_like(stats, generator)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """One-hot samples (..., S, K) from Gumbel noise of that shape; straight-through."""
        return OneHot(stats).sample(noise)

    def mode(self, stats: Tensor) -> Tensor:
        """The most likely classes, one-hot (..., S, K); no gradient."""
        return OneHot(stats).mode

    def kl_divergence(self, left: Tensor, right: Tensor) -> Tensor:
        """Two (..., S, K) -> (...) in nats."""
        left_log, right_log = left.log_softmax(-1), right.log_softmax(-1)
        return (left_log.exp() * (left_log - right_log)).sum((-2, -1))

    def entropy(self, stats: Tensor) -> Tensor:
        """(..., S, K) -> (...) in nats."""
        return OneHot(stats).entropy.sum(-1)

    def log_prob(self, stats: Tensor, stoch: Tensor) -> Tensor:
        """Two (..., S, K) -> (...) in nats."""
        return OneHot(stats).log_prob(stoch).sum(-1)


@dataclass(frozen=True)
class GaussianLatent:
    """S independent normals with reparameterised gradients, as in DreamerV1.

    The statistics are the mean and the raw standard deviation.

    Source: the ablation "No Discrete Latents" of Table 2.
    """

    variables: Annotated[PositiveCount, doc("S, variables of the stochastic state.")]
    std_activation: Annotated[
        Literal["softplus", "sigmoid", "sigmoid2", "double_sigmoid"],
        doc(
            "Maps a raw output to a standard deviation; double_sigmoid is PyDreamer's.",
            source="the authors' code",
        ),
    ]
    min_std: Annotated[NonNegative, doc("Added to every standard deviation.")]

    def __post_init__(self):
        check(self)

    @property
    def classes(self) -> int:
        """K = 1: each variable is one number."""
        return 1

    @property
    def statistics(self) -> int:
        """P = 2: the mean and the raw standard deviation."""
        return 2

    def to_stats(self, outputs: Tensor) -> Tensor:
        """(..., 2 * S), all means first -> (..., S, 2) float32."""
        return outputs.float().unflatten(-1, (2, self.variables)).transpose(-1, -2)

    def mean_std(self, stats: Tensor) -> tuple[Tensor, Tensor]:
        """(..., S, 2) -> mean (..., S) and standard deviation (..., S)."""
        mean, raw = stats.unbind(-1)
        match self.std_activation:
            case "softplus":
                std = F.softplus(raw)
            case "sigmoid":
                std = raw.sigmoid()
            case "sigmoid2":
                std = 2 * torch.sigmoid(raw / 2)
            case "double_sigmoid":
                std = 2 * raw.sigmoid()
        return mean, std + self.min_std

    def draw_noise(self, stats: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal noise (..., S, 1)."""
        return torch.empty_like(stats[..., :1]).normal_(generator=generator)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """(..., S, 2), (..., S, 1) -> (..., S, 1)."""
        mean, std = self.mean_std(stats)
        return mean.unsqueeze(-1) + std.unsqueeze(-1) * noise

    def mode(self, stats: Tensor) -> Tensor:
        """The means (..., S, 1)."""
        return stats[..., :1]

    def kl_divergence(self, left: Tensor, right: Tensor) -> Tensor:
        """Two (..., S, 2) -> (...) in nats."""
        (left_mean, left_std), (right_mean, right_std) = self.mean_std(left), self.mean_std(right)
        ratio = (left_std / right_std).square()
        shift = ((left_mean - right_mean) / right_std).square()
        return (0.5 * (ratio + shift - 1 - ratio.log())).sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        """(..., S, 2) -> (...) in nats."""
        return Normal(*self.mean_std(stats), event_dims=1).entropy

    def log_prob(self, stats: Tensor, stoch: Tensor) -> Tensor:
        """(..., S, 2), (..., S, 1) -> (...) in nats."""
        return Normal(*self.mean_std(stats), event_dims=1).log_prob(stoch.squeeze(-1))


@dataclass(frozen=True)
class BinaryLatent:
    """S independent bits with straight-through gradients.

    The statistic is the logit of a one.

    Source: appendix C, "Binary latents": a larger number of bits instead of categoricals was worse.
    """

    variables: Annotated[PositiveCount, doc("S, variables of the stochastic state.")]

    def __post_init__(self):
        check(self)

    @property
    def classes(self) -> int:
        """K = 1: each variable is one bit."""
        return 1

    @property
    def statistics(self) -> int:
        """P = 1: the logit."""
        return 1

    def to_stats(self, outputs: Tensor) -> Tensor:
        """(..., S) -> (..., S, 1) float32."""
        return outputs.float().unsqueeze(-1)

    def draw_noise(self, stats: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logistic noise (..., S, 1)."""
        return logistic_like(stats, generator)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """Bits (..., S, 1) from logistic noise of that shape; straight-through."""
        bits = (stats + noise > 0).float()
        probs = stats.sigmoid()
        return bits + (probs - probs.detach())  # exactly 0 is added

    def mode(self, stats: Tensor) -> Tensor:
        """The more likely bits (..., S, 1); no gradient."""
        return (stats > 0).float()

    def kl_divergence(self, left: Tensor, right: Tensor) -> Tensor:
        """Two (..., S, 1) -> (...) in nats."""
        one = left.sigmoid() * (F.logsigmoid(left) - F.logsigmoid(right))
        zero = (-left).sigmoid() * (F.logsigmoid(-left) - F.logsigmoid(-right))
        return (one + zero).sum((-2, -1))

    def entropy(self, stats: Tensor) -> Tensor:
        """(..., S, 1) -> (...) in nats."""
        return Bernoulli(stats, event_dims=2).entropy

    def log_prob(self, stats: Tensor, stoch: Tensor) -> Tensor:
        """Two (..., S, 1) -> (...) in nats; no gradient flows into the bits."""
        return Bernoulli(stats, event_dims=2).log_prob(stoch.detach())
