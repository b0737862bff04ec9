"""Heads of the world model: their configuration, and the transform of rewards.

`WorldModel` builds and trains them; a subclass of the configuration may build other heads. They
know no latent states.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from dreamer.models.heads import Head, HeadConfig
from dreamer.schema.types import NonNegative, PositiveCount, doc

RewardTransform = Literal["tanh", "sign", "log1p", "identity"]


def transform_reward(reward: Tensor, transform: RewardTransform) -> Tensor:
    """Transform raw rewards to targets of the reward head, any shape.

    `log1p` is for rewards above -1: it is minus infinity there and nan below, and the update then
    stops with a `NonFiniteError`.
    """
    match transform:
        case "tanh":
            return reward.tanh()
        case "sign":
            return reward.sign()
        case "log1p":
            return reward.log1p()
        case "identity":
            return reward


@dataclass(frozen=True)
class ModelHeadConfig(HeadConfig):
    """A head of the world model; `WorldModel.targets` computes its targets."""

    gradients: Annotated[bool, doc("Let the head train the latent state.")]
    scale: Annotated[NonNegative, doc("Weight of its loss.")]
    shape: Annotated[Sequence[PositiveCount], doc("Shape of one target.")] = ()

    def build(self, feature_size: int, transform: Callable[[Tensor], Tensor]) -> Head:
        """Build the head; `transform` maps raw values to targets. A subclass may build another."""
        return Head(feature_size, self.shape, self)

    def groups(self, head: Head, target: Tensor) -> Mapping[str, Tensor]:
        """Return masks (T, B), by name, of steps whose loss is also logged apart; none here.

        Args:
            head: built from this configuration.
            target: (T, B, *shape).
        """
        return {}
