"""Actor and critic, trained on imagined trajectories only.

The agent minimises their two losses; the policy samples actions. They see features of latent
states, never the world model.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from dreamer.distributions import Distribution
from dreamer.losses import HALF_LOG_2PI, actor_loss, critic_loss
from dreamer.models.actor import Actor, ActorConfig
from dreamer.models.heads import Head, HeadConfig
from dreamer.models.returns import LambdaReturns, Returns
from dreamer.schedules import parse_schedule
from dreamer.schema.types import Fraction, NonNegative, Positive, PositiveCount, doc
from dreamer.schema.validation import check
from dreamer.types import ActionSpace, Trajectory


@dataclass(frozen=True)
class RewardNormConfig:
    """Division of imagined rewards by their running magnitude; off with momentum 1."""

    momentum: Annotated[Fraction, doc("Weight of the old magnitude in an update; 1: it stays 1.")]
    scale: Annotated[Positive, doc("Magnitude after the division.")]
    epsilon: Annotated[NonNegative, doc("Added to the magnitude.")]

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class ActorCriticConfig:
    """Configuration of the actor and the critic."""

    actor: Annotated[ActorConfig, doc("The actor.")]
    critic: Annotated[HeadConfig, doc("The critic.")]
    reward_norm: Annotated[RewardNormConfig, doc("Scaling of imagined rewards.")]
    lambda_: Annotated[Fraction, doc("Lambda of the lambda-return.", source="Table D1")]
    slow_critic: Annotated[
        bool, doc("Take targets from a slow copy of the critic, not from the critic itself.")
    ]
    slow_critic_updates: Annotated[
        PositiveCount, doc("Interval between moves of the slow copy.", unit="updates")
    ]
    slow_critic_fraction: Annotated[
        Fraction, doc("How far the slow copy moves towards the critic; 1 copies it.")
    ]
    entropy_in_target: Annotated[
        bool,
        doc(
            "Add the entropy bonus of later states to the targets, so that the actor seeks states "
            "with a high entropy.",
            source="appendix C",
        ),
    ]
    returns: Annotated[Returns, doc("Targets of actor and critic, and the steps that count.")] = (
        LambdaReturns()
    )

    def build(self, feature_size: int, action_space: ActionSpace) -> "ActorCritic":
        """Build the actor and the critic; a subclass may build others."""
        return ActorCritic(self, feature_size, action_space)

    def __post_init__(self):
        check(self)


class ActorOutput(NamedTuple):
    """Result of `ActorCritic.actor_loss`."""

    loss: Tensor  # ()
    target: Tensor  # (H, N), differentiable
    metrics: dict[str, Tensor]  # detached, each ()


class CriticOutput(NamedTuple):
    """Result of `ActorCritic.critic_loss`."""

    loss: Tensor  # ()
    metrics: dict[str, Tensor]  # detached, each ()


class StreamNorm(nn.Module):
    """Divide a stream of numbers by its running mean magnitude, updated before use.

    Source: `StreamNorm` of the authors' code.
    """

    magnitude: Tensor

    def __init__(self, config: RewardNormConfig, shape: tuple[int, ...] = ()):
        super().__init__()
        self.config = config
        self.register_buffer("magnitude", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        """(..., *shape) -> the same shape, normalised. Gradients flow into `x`."""
        config = self.config
        if config.momentum < 1:
            magnitude = x.detach().abs().reshape(-1, *self.magnitude.shape).mean(0)
            self.magnitude.lerp_(magnitude, 1 - config.momentum)
        return x / (self.magnitude + config.epsilon) * config.scale


class ActorCritic(nn.Module):
    """Actor, critic and the critic's slow copy."""

    def __init__(self, config: ActorCriticConfig, feature_size: int, action_space: ActionSpace):
        super().__init__()
        self.config = config
        actor = config.actor
        self.action_size, self.discrete = action_space.size, action_space.discrete
        self.choices = action_space.choices
        gradient = actor.gradient
        if gradient == "auto":
            gradient = "reinforce" if self.discrete else "dynamics"
        self.gradient = gradient
        self.through_dynamics = gradient != "reinforce"
        self.gradient_mix = parse_schedule(actor.gradient_mix)
        self.entropy_scale = parse_schedule(actor.entropy_scale)

        self.actor = Actor(feature_size, action_space, actor)
        self.critic = Head(feature_size, (), config.critic)
        # Until its first update, its weights are random ones of its own, as in the authors' code.
        self.target_critic = self.critic
        if config.slow_critic:
            self.target_critic = Head(feature_size, (), config.critic).requires_grad_(False)
        self.reward_norm = StreamNorm(config.reward_norm)
        constants = {"mse": HALF_LOG_2PI, "squared_error": 0.0}
        if config.critic.distribution not in constants:
            raise ValueError(
                "The critic's `distribution` must be mse or squared_error, got "
                f"{config.critic.distribution}"
            )
        self.critic_constant = constants[config.critic.distribution]

    def policy(self, features: Tensor) -> Distribution:
        """(..., F) -> a distribution with batch (...) and event (A,)."""
        return self.actor(features)

    def act(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        """(N, F) and noise (N, A) or None -> a sampled action (N, A), differentiable."""
        return self.policy(features).sample(noise)

    def draw_noise(
        self,
        shape: tuple[int, ...],
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw noise (*shape, A) for `act`."""
        return self.actor.draw_noise(shape, device, generator)

    def actor_loss(self, trajectory: Trajectory, policy_steps: int) -> ActorOutput:
        """Compute the actor's loss on an imagined trajectory.

        Args:
            trajectory: (H+1, N, ...); only dynamics gradients flow through it.
            policy_steps: time of the schedules.

        Returns:
            The loss, and the targets that the critic regresses onto.
        """
        features = trajectory.features  # (H+1, N, F)
        reward = self.reward_norm(trajectory.reward)
        entropy_scale = self.entropy_scale(policy_steps)
        with torch.set_grad_enabled(self.through_dynamics and torch.is_grad_enabled()):
            value = self.target_critic(features).mean  # (H+1, N)
            gain = reward
            if self.config.entropy_in_target:
                gain = gain + entropy_scale * self.policy(features).entropy
            targets = self.config.returns.targets(
                gain, value, trajectory.discount, self.config.lambda_
            )

        steps = targets.steps  # L
        policy = self.policy(features[:steps].detach())  # of z_0 ... z_{L-1}
        action = trajectory.prev_action[1 : steps + 1]
        mix = {"reinforce": 0.0, "dynamics": 1.0}.get(
            self.gradient, self.gradient_mix(policy_steps)
        )
        log_prob = None
        if mix < 1:
            # With `both`, gradients flow through a continuous action, as in the authors' code.
            action = action.detach() if self.gradient == "reinforce" else action
            log_prob = policy.log_prob(action)
        entropy = policy.entropy
        loss = actor_loss(
            log_prob,
            entropy,
            targets.action_target,
            targets.baseline,
            targets.weight,
            dynamics_mix=mix,
            entropy_scale=entropy_scale,
        )
        with torch.no_grad():
            metrics = {
                "actor/loss": loss,
                "actor/entropy": entropy.mean(),
                "actor/entropy_scale": loss.new_full((), entropy_scale),
                "imagine/reward": trajectory.reward.mean(),
                "imagine/reward_std": trajectory.reward.std(correction=0),
                "imagine/normed_reward": reward.mean(),
                "imagine/normed_reward_std": reward.std(correction=0),
                "imagine/discount": trajectory.discount.mean(),
                "imagine/return": targets.target[0].mean(),
                "critic/target": targets.target.mean(),
                "critic/target_critic_value": value.mean(),
            }
            if self.gradient == "both":
                metrics["actor/gradient_mix"] = loss.new_full((), mix)
            if log_prob is not None:
                metrics["actor/reinforce"] = (log_prob * targets.advantage).mean()
            if mix > 0:
                metrics["actor/dynamics"] = targets.action_target.mean()
        return ActorOutput(loss, targets.target, {k: x.detach() for k, x in metrics.items()})

    def critic_loss(self, trajectory: Trajectory, target: Tensor) -> CriticOutput:
        """Compute the critic's loss on an imagined trajectory (H+1, N, ...) with targets (H, N).

        Only the critic gets gradients.
        """
        returns = self.config.returns
        value = self.critic(trajectory.features[:-1].detach()).mean
        weight = returns.weight(trajectory.discount)
        loss = critic_loss(value, target, weight, constant=self.critic_constant)
        with torch.no_grad():
            metrics = {"critic/loss": loss, "critic/value": value.mean()}
            metrics |= returns.metrics(trajectory.reward, value)
        return CriticOutput(loss, {k: x.detach() for k, x in metrics.items()})

    @torch.no_grad()
    def update_target_critic(self, update: int) -> None:
        """Move the slow critic if it is due at update number `update` (0, 1, ...).

        Update 0 copies the critic. The agent calls it after the update; PyDreamer before it.

        Source: `update_slow_target` of the authors' code.
        """
        config = self.config
        if not config.slow_critic or update % config.slow_critic_updates:
            return
        mix = 1.0 if update == 0 else config.slow_critic_fraction
        pairs = zip(self.target_critic.parameters(), self.critic.parameters(), strict=True)
        for slow, online in pairs:
            slow.lerp_(online, mix)
