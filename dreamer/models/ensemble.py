"""An ensemble of predictors whose disagreement says how little is known about a state.

Plan2Explore trains it and seeks its disagreement. It knows features and targets, no latent states.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from dreamer.models.heads import Head, HeadConfig
from dreamer.schema.types import AtLeastTwo, doc


@dataclass(frozen=True)
class EnsembleConfig(HeadConfig):
    """Predictors that differ in their initial weights only."""

    members: Annotated[AtLeastTwo, doc("K, number of predictors.", source="the authors' code")]

    def __post_init__(self):
        super().__post_init__()
        if self.distribution != "mse":
            raise ValueError(f"The ensemble's `distribution` must be mse, got {self.distribution}")


class Ensemble(nn.Module):
    """K heads that predict the same target vector (..., X)."""

    def __init__(self, input_size: int, target_size: int, config: EnsembleConfig):
        super().__init__()
        self.heads = nn.ModuleList(
            Head(input_size, (target_size,), config) for _ in range(config.members)
        )

    def log_prob(self, x: Tensor, target: Tensor) -> Tensor:
        """Score targets: (..., input_size) and (..., X) -> (...) in nats, summed over members."""
        return torch.stack([head(x).log_prob(target) for head in self.heads]).sum(0)

    def disagreement(self, x: Tensor) -> Tensor:
        """Compute how much the predictions differ: (..., input_size) -> (...).

        It is their standard deviation over members, averaged over the target vector. Gradients flow
        into `x`.

        Source: Sekar et al. 2020, Eq. 3. Differs from the paper: standard deviation, not variance,
        as in the authors' code.
        """
        means = torch.stack([head(x).mean for head in self.heads])  # (K, ..., X)
        return means.std(0, correction=0).mean(-1)
