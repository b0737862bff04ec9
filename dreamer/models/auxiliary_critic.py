"""An auxiliary critic: it values the replayed sequences, and so shapes the latent state.

See `auxiliary.py`. It knows no actor: the values are those of the policies that collected.
"""

from dataclasses import dataclass
from typing import Annotated

import torch

from dreamer.losses import critic_loss
from dreamer.models.auxiliary import Auxiliary, AuxiliaryContext, AuxiliaryOutput, AuxiliaryShape
from dreamer.models.heads import Head, HeadConfig
from dreamer.models.returns import GAEReturns
from dreamer.schema.types import Fraction, NonNegative, PositiveCount, PositiveFraction, doc
from dreamer.schema.validation import check


@dataclass(frozen=True)
class AuxiliaryCriticConfig:
    """A critic of replayed sequences, with its own gamma, lambda and slow copy.

    Source: `aux_critic` of PyDreamer, https://github.com/jurgisp/pydreamer
    """

    weight: Annotated[NonNegative, doc("Weight of its loss in that of the world model.")]
    discount: Annotated[PositiveFraction, doc("Its own gamma.")]
    lambda_: Annotated[Fraction, doc("Lambda of its returns.")]
    slow_critic_updates: Annotated[
        PositiveCount,
        doc("Interval between copies to the slow critic, before use.", unit="updates"),
    ]
    critic: Annotated[HeadConfig, doc("The critic.")]

    def build(self, shape: AuxiliaryShape) -> "AuxiliaryCritic":
        """Build it."""
        return AuxiliaryCritic(self, shape)

    def __post_init__(self):
        check(self)
        if self.critic.distribution != "squared_error":
            raise ValueError(
                "The auxiliary critic's `distribution` must be squared_error, got "
                f"{self.critic.distribution}"
            )


class AuxiliaryCritic(Auxiliary):
    """Regresses the values of replayed states onto generalised advantages plus values.

    It stops at ends of episodes, and not at their starts: a time limit in the middle of a sequence
    is bridged, as in PyDreamer.
    """

    def __init__(self, config: AuxiliaryCriticConfig, shape: AuxiliaryShape):
        super().__init__()
        self.config = config
        self.returns = GAEReturns(config.discount)
        self.critic = Head(shape.feature_size, (), config.critic)
        self.target_critic = Head(shape.feature_size, (), config.critic).requires_grad_(False)

    def loss(self, context: AuxiliaryContext) -> AuxiliaryOutput:
        """See `Auxiliary`; the first T - 1 steps count."""
        config, features = self.config, context.features
        discount = config.discount * (~context.batch.is_terminal).float()
        with torch.no_grad():
            slow = self.target_critic(features).mean  # (T, B)
            targets = self.returns.targets(context.reward, slow, discount, config.lambda_)
        value = self.critic(features).mean[:-1]  # (T-1, B)
        loss = critic_loss(value, targets.target, targets.weight, constant=0.0)
        return AuxiliaryOutput(loss, {"value": value.mean(), "target": targets.target.mean()})

    @torch.no_grad()
    def begin_update(self, update: int) -> None:
        """Copy the critic if it is due: at update 0, and then every `slow_critic_updates`."""
        if update % self.config.slow_critic_updates == 0:
            self.target_critic.load_state_dict(self.critic.state_dict())
