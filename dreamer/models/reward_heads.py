"""Further heads of the world model, as in PyDreamer: rewards on a support, and sure ends.

`model.world_model.heads.<name>._target_` chooses them. They know no latent states.

Source: PyDreamer, https://github.com/jurgisp/pydreamer
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from dreamer.class_distributions import Discrete
from dreamer.models.heads import DistributionLayer, Head
from dreamer.models.model_heads import ModelHeadConfig
from dreamer.schema.types import doc
from dreamer.schema.validation import check


class SupportLayer(DistributionLayer):
    """A dense layer whose outputs are logits of the numbers of a support: a target is one number.

    The support is a constant; it is no part of checkpoints.
    """

    support: Tensor  # (K,)

    def __init__(self, input_size: int, support: Sequence[float]):
        super().__init__(input_size, (len(support),), "categorical")
        self.register_buffer("support", torch.tensor(support), persistent=False)

    def distribution(self, out: Tensor, raw: Tensor | None) -> Discrete:
        """Logits (..., K) -> a distribution with batch (...)."""
        return Discrete(out, self.support)


@dataclass(frozen=True)
class CategoricalRewardConfig(ModelHeadConfig):
    """A reward head that classifies: the label is the value of the support next to the reward."""

    distribution: Annotated[Literal["categorical"], doc("Distribution of the predictions.")]
    support: Annotated[
        Sequence[float],
        doc(
            "Values of the classes, ascending, as raw rewards: `reward_transform` applies to them."
        ),
    ] = (-1.0, 0.0, 1.0)

    def __post_init__(self):
        check(self)
        values = list(self.support)
        if len(values) < 2 or any(a >= b for a, b in zip(values, values[1:], strict=False)):
            raise ValueError(f"`support` must be two or more ascending values, got {values}")
        if self.shape:
            raise ValueError(f"`shape` must be () for a categorical reward, got {self.shape}")

    def build(self, feature_size: int, transform: Callable[[Tensor], Tensor]) -> Head:
        """Build the head; see `ModelHeadConfig`."""
        support = transform(torch.tensor(self.support, dtype=torch.float32))
        if not support.isfinite().all():
            raise ValueError(
                "`support` must be finite after the `reward_transform`, got "
                f"{list(self.support)}, which becomes {support.tolist()}"
            )
        return Head(
            feature_size, (), self, lambda input_size: SupportLayer(input_size, support.tolist())
        )

    def groups(self, head: Head, target: Tensor) -> Mapping[str, Tensor]:
        """Group the steps by class."""
        layer = head.out
        assert isinstance(layer, SupportLayer)
        label = Discrete(layer.support, layer.support).index(target)
        return {str(k): label == k for k in range(len(layer.support))}


@dataclass(frozen=True)
class SignedRewardConfig(ModelHeadConfig):
    """A reward head whose loss is also logged for negative and for positive rewards."""

    def groups(self, head: Head, target: Tensor) -> Mapping[str, Tensor]:
        """Group the steps by the sign of the reward; those without a reward belong to none."""
        return {"-1": target < 0, "1": target > 0}


@dataclass(frozen=True)
class TerminalHeadConfig(ModelHeadConfig):
    """A head named `terminal`: the probability that the episode has ended, apart from gamma."""

    def groups(self, head: Head, target: Tensor) -> Mapping[str, Tensor]:
        """Select the ends."""
        return {"1": target > 0}
