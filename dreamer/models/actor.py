"""The actor: a distribution over actions, given features of the latent state.

`actor_critic.py` trains it. Unlike other heads, it can end in bounded normals, for continuous
actions, and in several one-hot choices at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamer.bounded_normals import (
    SampleGradient,
    TanhNormal,
    TanhNormalBaseEntropy,
    TruncatedNormal,
)
from dreamer.distributions import Distribution, Normal, OneHots, gumbel_like
from dreamer.models.heads import DistributionLayer
from dreamer.models.layers import MLP, ActivationKey, NormKey, init_glorot
from dreamer.schedules import ScheduleText
from dreamer.schema.types import Count, NonNegative, PositiveCount, doc
from dreamer.schema.validation import check
from dreamer.types import ActionSpace

ActorDistribution = Literal[
    "auto",
    "onehot",
    "trunc_normal",
    "tanh_normal",
    "normal",
    "normal_tanh",  # of PyDreamer
    "tanh_normal_base_entropy",  # of PyDreamer
]
ActorGradient = Literal["auto", "reinforce", "dynamics", "both"]


@dataclass(frozen=True)
class ActorConfig:
    """The actor's network and its gradient."""

    layers: Annotated[Count, doc("Layers before the last one.")]
    units: Annotated[PositiveCount, doc("Units of each layer.")]
    activation: ActivationKey
    norm: NormKey
    distribution: Annotated[
        ActorDistribution,
        doc("Distribution of actions; auto: onehot if discrete, else trunc_normal."),
    ]
    min_std: Annotated[NonNegative, doc("Minimum standard deviation of all normals but `normal`.")]
    init_std: Annotated[
        float, doc("Added to the raw standard deviation of all normals but `normal`.")
    ]
    sample_gradient: Annotated[
        SampleGradient,
        doc("Gradient of trunc_normal; reference: the authors' biased formula."),
    ]
    gradient: Annotated[
        ActorGradient,
        doc("Gradient of the actor; auto: reinforce if discrete, else dynamics."),
    ]
    gradient_mix: Annotated[
        ScheduleText,
        doc("Share of the dynamics gradient if `gradient` is both; a schedule."),
    ]
    entropy_scale: Annotated[ScheduleText, doc("Weight of the entropy bonus; a schedule.")]

    def __post_init__(self):
        check(self)


class ActionLayer(DistributionLayer):
    """A dense layer whose outputs are the statistics of a distribution over actions (..., A)."""

    def __init__(
        self,
        input_size: int,
        shape: Sequence[int],
        name: str,
        *,
        min_std: float = 0.1,
        init_std: float = 0.0,
        sample_gradient: SampleGradient = "exact",
        choices: Sequence[int] = (),
    ):
        """Besides the names of `DistributionLayer`, those of `ActorDistribution` are supported.

        Args:
            input_size: of the layer.
            shape: (A,).
            name: of the distribution.
            min_std: of the bounded normals.
            init_std: of the bounded normals, added to the raw standard deviation.
            sample_gradient: of trunc_normal, see `TruncatedNormal`.
            choices: of onehot, the sizes of several one-hot vectors; empty for a single one.
        """
        super().__init__(input_size, shape, name)
        self.min_std, self.init_std = min_std, init_std
        self.sample_gradient: SampleGradient = sample_gradient
        self.choices = tuple(choices)

    def distribution(self, out: Tensor, raw: Tensor | None) -> Distribution:
        """Build it from outputs (..., A); `raw` are standard deviations, for normals only."""
        match self.name, raw:
            case "onehot", _ if self.choices:
                return OneHots(out, self.choices)
            case "trunc_normal", Tensor():
                scale = 2 * torch.sigmoid((raw + self.init_std) / 2) + self.min_std
                return TruncatedNormal(out.tanh(), scale, 1, self.sample_gradient)
            case "tanh_normal", Tensor():
                scale = F.softplus(raw + self.init_std) + self.min_std
                return TanhNormal(5 * torch.tanh(out / 5), scale, 1)
            case "tanh_normal_base_entropy", Tensor():
                scale = F.softplus(raw + self.init_std) + self.min_std
                return TanhNormalBaseEntropy(5 * torch.tanh(out / 5), scale, 1)
            case "normal_tanh", Tensor():  # samples may leave [-1, 1]
                scale = torch.sigmoid(raw + self.init_std) + self.min_std
                return Normal(out.tanh(), scale, 1)
            case _:
                return super().distribution(out, raw)


class Actor(nn.Module):
    """Dense layers and a distribution over actions: (..., F) -> (..., A)."""

    def __init__(self, feature_size: int, action_space: ActionSpace, config: ActorConfig):
        super().__init__()
        name = config.distribution
        if name == "auto":
            name = "onehot" if action_space.discrete else "trunc_normal"
        if action_space.discrete != (name == "onehot"):
            rule = "onehot for discrete" if action_space.discrete else "a normal for continuous"
            raise ValueError(f"The actor's `distribution` must be {rule} actions, got {name}")
        self.action_size = action_space.size
        self.trunk = MLP(
            feature_size,
            [config.units] * config.layers,
            activation=config.activation,
            norm=config.norm,
        )
        self.out = ActionLayer(
            self.trunk.output_size,
            (action_space.size,),
            name,
            min_std=config.min_std,
            init_std=config.init_std,
            sample_gradient=config.sample_gradient,
            choices=action_space.choices,
        )
        self.apply(init_glorot)

    def forward(self, features: Tensor) -> Distribution:
        """(..., F) -> a distribution with batch (...) and event (A,)."""
        return self.out(self.trunk(features))

    def draw_noise(
        self,
        shape: tuple[int, ...],
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw noise (*shape, A) for samples of the distribution."""
        empty = torch.empty((*shape, self.action_size), device=device)
        match self.out.name:
            case "onehot":
                return gumbel_like(empty, generator)
            case "trunc_normal":
                return empty.uniform_(generator=generator)
            case _:
                return empty.normal_(generator=generator)
