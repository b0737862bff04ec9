"""Distributions over classes that stand for something: numbers, or the cells of an image.

Heads and decoders of the world model use them; `distributions.py` defines their interface.
"""

import torch
from torch import Tensor

from dreamer.distributions import OneHot, gumbel_like


class Discrete:
    """One of K numbers, the support in ascending order; event ().

    A number that is not on the support counts as the nearest one that is, the lower of two.
    """

    def __init__(self, logits: Tensor, support: Tensor):
        self.logits = logits.float()  # (..., K)
        self.support = support  # (K,)

    def index(self, value: Tensor) -> Tensor:
        """(...) -> (...) index of the nearest number of the support."""
        return (value[..., None] - self.support).square().argmin(-1)  # the first of equal ones

    @property
    def mean(self) -> Tensor:
        """(...)."""
        return (self.logits.softmax(-1) * self.support).sum(-1)

    @property
    def mode(self) -> Tensor:
        """(...) the most likely number; no gradient."""
        return self.support[self.logits.argmax(-1)]

    @property
    def entropy(self) -> Tensor:
        """(...) in nats."""
        return OneHot(self.logits).entropy

    def log_prob(self, value: Tensor) -> Tensor:
        """(...) -> (...) in nats; no gradient flows into `value`."""
        log_probs = self.logits.log_softmax(-1)
        return log_probs.gather(-1, self.index(value)[..., None]).squeeze(-1)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """(...), from Gumbel noise (..., K); no gradient."""
        noise = gumbel_like(self.logits) if noise is None else noise
        return self.support[(self.logits + noise).argmax(-1)]


class ClassImage:
    """Independent classes in the cells of an image, event (h, w).

    With `min_prob` p, a cell is (1 - p) times the softmax, plus p / K for each of the K classes.
    """

    def __init__(self, logits: Tensor, min_prob: float = 0.0):
        self.logits = logits.float()  # (..., K, h, w)
        self.min_prob = min_prob

    @property
    def log_probs(self) -> Tensor:
        """(..., K, h, w), the logarithms of the probabilities."""
        if self.min_prob == 0:
            return self.logits.log_softmax(-3)
        return self.mean.log()

    @property
    def mean(self) -> Tensor:
        """(..., K, h, w), the probabilities."""
        share = self.min_prob
        return (1 - share) * self.logits.softmax(-3) + share / self.logits.shape[-3]

    @property
    def mode(self) -> Tensor:
        """(..., h, w) uint8, the most likely classes; no gradient."""
        return self.logits.argmax(-3).to(torch.uint8)

    @property
    def entropy(self) -> Tensor:
        """(...) in nats, the sum over cells."""
        log_probs = self.log_probs
        return -(log_probs.exp() * log_probs).flatten(-3).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Class indices (..., h, w) -> (...) in nats."""
        log_probs = self.log_probs.gather(-3, value.long().unsqueeze(-3))  # (..., 1, h, w)
        return log_probs.flatten(-3).sum(-1)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """(..., h, w) uint8, from Gumbel noise (..., K, h, w); no gradient."""
        noise = gumbel_like(self.logits) if noise is None else noise
        return (self.log_probs + noise).argmax(-3).to(torch.uint8)
