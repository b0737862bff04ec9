"""Exploration: an intrinsic reward, and an actor-critic that maximises it in imagination.

An explorer is a component of the agent, named `explore`. It learns from the same batches and in the
same world model as the agent, and changes neither. `dreamer.run` lets it collect. It knows no
environments and no replay.

Letters: X numbers of the vector that an ensemble predicts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from dreamer.agent import DreamerAgent
from dreamer.components import AgentShape, Component, Step, UpdateContext
from dreamer.models.actor_critic import (
    ActorCritic,
    ActorCriticConfig,
    RewardNormConfig,
    StreamNorm,
)
from dreamer.models.ensemble import Ensemble, EnsembleConfig
from dreamer.models.heads import Head, HeadConfig
from dreamer.optim import OptimizerConfig
from dreamer.schema.types import Count, NonNegative, doc
from dreamer.schema.validation import check
from dreamer.types import Trajectory

ACTOR = "actor"  # name of the policy that learns from the task's reward
EXPLORER = "explore"  # name of the component that is the explorer

EnsembleTarget = Literal["stoch", "deter", "embedding", "features"]
ActionInput = Literal["none", "previous", "next"]
ModelLossTarget = Literal["kl", "observations"]

UntilFrames = Annotated[
    Count | None,
    doc(
        "The explorer collects until this frame, then the actor; null: always the explorer.",
        unit="frames",
    ),
]


@dataclass(frozen=True)
class RandomExploration:
    """Uniformly random actions; nothing is learned for them."""

    until_frames: UntilFrames

    def __post_init__(self):
        check(self)


@dataclass(frozen=True, kw_only=True)
class ExplorerConfig:
    """What all explorers have: two rewards, an actor-critic and optimisers."""

    until_frames: UntilFrames
    intrinsic_scale: Annotated[NonNegative, doc("Weight of the intrinsic reward.")]
    extrinsic_scale: Annotated[NonNegative, doc("Weight of the task's predicted reward.")]
    intrinsic_norm: Annotated[RewardNormConfig, doc("Scaling of the intrinsic reward.")]
    extrinsic_norm: Annotated[RewardNormConfig, doc("Scaling of the task's predicted reward.")]
    actor_critic: Annotated[ActorCriticConfig, doc("The explorer's own actor and critic.")]
    optimizer: Annotated[
        Mapping[str, OptimizerConfig], doc("Optimisers of the explorer's networks, by name.")
    ]

    def __post_init__(self):
        check(self)
        if self.intrinsic_scale == self.extrinsic_scale == 0:
            raise ValueError(
                "`intrinsic_scale` or `extrinsic_scale` must be positive, got 0 for both"
            )


class Explorer(Component):
    """An actor-critic that learns from an intrinsic reward in imagined trajectories of its own.

    A subclass defines `learn_predictions`, `intrinsic_reward` and `networks`.
    """

    def __init__(self, config: ExplorerConfig, shape: AgentShape):
        super().__init__()
        self.config = config
        self.horizon = shape.horizon
        self.actor_critic = config.actor_critic.build(shape.feature_size, shape.action_space)
        self.intrinsic_norm = StreamNorm(config.intrinsic_norm)
        self.extrinsic_norm = StreamNorm(config.extrinsic_norm)

    def networks(self) -> dict[str, nn.Module]:
        """Return what has an optimiser of its own; a subclass adds its predictors."""
        return {"actor": self.actor_critic.actor, "critic": self.actor_critic.critic}

    def learn_predictions(self, context: UpdateContext, step: Step) -> Mapping[str, Tensor]:
        """Train whatever the intrinsic reward is computed from; returns metrics, each ()."""
        raise NotImplementedError

    def intrinsic_reward(self, trajectory: Trajectory) -> Tensor:
        """Compute the intrinsic reward of imagined states: (H+1, N).

        Gradients flow through the trajectory.
        """
        raise NotImplementedError

    def reward(self, intrinsic: Tensor, extrinsic: Tensor) -> Tensor:
        """Normalise and add up the intrinsic and the task's reward, (H+1, N) each."""
        config = self.config
        reward = config.intrinsic_scale * self.intrinsic_norm(intrinsic)
        if config.extrinsic_scale > 0:
            reward = reward + config.extrinsic_scale * self.extrinsic_norm(extrinsic)
        return reward

    def learn(self, context: UpdateContext, step: Step) -> Mapping[str, Tensor]:
        """Train the predictors on the replayed batch, then actor and critic in imagination."""
        metrics = dict(self.learn_predictions(context, step))
        # As for the agent's own actor: Reinforce needs no gradients through the trajectory.
        with torch.set_grad_enabled(self.actor_critic.through_dynamics):
            trajectory = self._imagine(context)
            intrinsic, extrinsic = self.intrinsic_reward(trajectory), trajectory.reward
            trajectory = trajectory._replace(reward=self.reward(intrinsic, extrinsic))

        actor = self.actor_critic.actor_loss(trajectory, context.policy_steps)
        step(actor.loss, "actor")
        critic = self.actor_critic.critic_loss(trajectory.detach(), actor.target.detach())
        step(critic.loss, "critic")

        return metrics | {
            "intrinsic_reward": intrinsic.mean(),
            "intrinsic_reward_std": intrinsic.std(correction=0),
            "extrinsic_reward": extrinsic.mean(),
            "reward": trajectory.reward.mean(),
            "return": actor.metrics["imagine/return"],
            "actor_entropy": actor.metrics["actor/entropy"],
            "critic_value": critic.metrics["critic/value"],
            "critic_target": actor.metrics["critic/target"],
        }

    def end_update(self, update: int) -> None:
        """Move the slow critic if it is due."""
        self.actor_critic.update_target_critic(update)

    def _imagine(self, context: UpdateContext) -> Trajectory:
        """Imagine with the explorer's actor from all posteriors of the batch: (H+1, N, ...)."""
        starts = context.posterior.flatten_time()
        noise = self.actor_critic.draw_noise((self.horizon, len(starts.deter)), starts.deter.device)
        return context.world_model.imagine(
            starts,
            context.batch.is_terminal.flatten(),
            self.actor_critic.act,
            self.horizon,
            action_noise=noise,
        )


def explorer_of(agent: DreamerAgent) -> Explorer | None:
    """Return the explorer of an agent; None if it has none."""
    explorer = dict(agent.components.items()).get(EXPLORER)
    return explorer if isinstance(explorer, Explorer) else None


def actors_of(agent: DreamerAgent) -> dict[str, ActorCritic]:
    """Return what an agent can act with, by name: `actor`, and `explore` if it has an explorer."""
    explorer = explorer_of(agent)
    actors = {ACTOR: agent.actor_critic}
    return actors if explorer is None else actors | {EXPLORER: explorer.actor_critic}


@dataclass(frozen=True, kw_only=True)
class DisagreementConfig:
    """An ensemble of predictors, and what they predict from what."""

    target: Annotated[EnsembleTarget, doc("What the ensemble predicts.")]
    offset: Annotated[
        Count, doc("Steps from the input of the ensemble to its target.", unit="policy steps")
    ]
    action_input: Annotated[
        ActionInput,
        doc(
            "Action that the ensemble gets besides the features: none, previous (the one that led "
            "to them, as the authors' code) or next (the one chosen there, as the paper)."
        ),
    ]
    ensemble: Annotated[EnsembleConfig, doc("The predictors.")]

    def check_offset(self) -> None:
        """Check that the ensemble does not get an action after its target."""
        if self.action_input == "next" and self.offset == 0:
            raise ValueError("`offset` must be at least 1 with action_input=next, got 0")


class Disagreement:
    """An ensemble that learns what follows a state, and how much its members differ about it.

    # features  [z0]   [z1]   [z2]    z3       offset = 1
    # previous  [ 0]   [a1]   [a2]    a3       a_t led to z_t
    # next      [a1]   [a2]   [a3]
    # targets    z0    [z1]   [z2]   [z3]

    The disagreement at z_t is that about what follows it. With the next action, it is that about
    z_t itself, before it was reached: else an action would not be credited with its own outcome.
    """

    ensemble: Ensemble

    def add_ensemble(self, config: DisagreementConfig, shape: AgentShape) -> None:
        """Build the ensemble; a module calls it in its constructor."""
        self.target, self.offset = config.target, config.offset
        self.action_input = config.action_input
        target_size = {
            "stoch": shape.stoch_size,
            "deter": shape.deter_size,
            "embedding": shape.embed_size,
            "features": shape.feature_size,
        }[config.target]
        action_size = 0 if config.action_input == "none" else shape.action_space.size
        input_size = shape.feature_size + action_size
        self.ensemble = Ensemble(input_size, target_size, config.ensemble)

    def ensemble_loss(self, context: UpdateContext) -> Tensor:
        """Compute the negative log-likelihood () of the targets, summed over members.

        A pair whose steps belong to two episodes does not count. The authors' sequences have none.
        """
        is_first = context.batch.is_first  # (T, B)
        pairs = len(is_first) - self.offset
        assert pairs > 0, (len(is_first), self.offset)
        actions = context.batch.prev_action
        if self.action_input == "next":
            actions = actions[1:]
        x = self._inputs(context.posterior.features[:pairs], actions[:pairs])
        log_prob = self.ensemble.log_prob(x, self._targets(context)[self.offset :])  # (pairs, B)
        episode = is_first.cumsum(0)
        is_pair = (episode[:pairs] == episode[self.offset :]).float()
        return -(is_pair * log_prob).sum() / is_pair.sum().clamp_min(1)

    def disagreement(self, trajectory: Trajectory) -> Tensor:
        """Compute the disagreement at each imagined state: (H+1, N).

        With the next action, the start counts like the first step; no action led to it. Gradients
        flow through the trajectory.
        """
        features, actions = trajectory.features, trajectory.prev_action
        if self.action_input == "next":
            disagreement = self.ensemble.disagreement(self._inputs(features[:-1], actions[1:]))
            return torch.cat([disagreement[:1], disagreement])
        return self.ensemble.disagreement(self._inputs(features, actions))

    def _inputs(self, features: Tensor, actions: Tensor) -> Tensor:
        """(..., F) and (..., A) -> (..., input_size)."""
        return features if self.action_input == "none" else torch.cat([features, actions], -1)

    def _targets(self, context: UpdateContext) -> Tensor:
        """Return what the ensemble predicts, (T, B, X)."""
        posterior = context.posterior
        match self.target:
            case "stoch":
                return posterior.stoch.flatten(-2)
            case "deter":
                return posterior.deter
            case "embedding":
                return context.embed
            case _:
                return posterior.features


@dataclass(frozen=True, kw_only=True)
class EnsembleOnlyConfig(DisagreementConfig):
    """An ensemble without an explorer: it learns what is uncertain, and nobody seeks it."""

    optimizer: Annotated[
        Mapping[str, OptimizerConfig], doc("Optimiser of the ensemble, by that name.")
    ]

    def __post_init__(self):
        check(self)
        self.check_offset()

    def build(self, shape: AgentShape) -> "EnsembleOnly":
        """Build the ensemble."""
        return EnsembleOnly(self, shape)


class EnsembleOnly(Disagreement, Component):
    """Learns what the agent knows little about, for `data.pessimism`; the actor collects."""

    def __init__(self, config: EnsembleOnlyConfig, shape: AgentShape):
        super().__init__()
        self.add_ensemble(config, shape)

    def learn(self, context: UpdateContext, step: Step) -> Mapping[str, Tensor]:
        """Train the ensemble to predict the target `offset` steps ahead."""
        step(self.ensemble_loss(context), "ensemble")
        return {}


@dataclass(frozen=True, kw_only=True)
class Plan2ExploreConfig(DisagreementConfig, ExplorerConfig):
    """Exploration by the disagreement of an ensemble.

    Source: Sekar et al. 2020, "Planning to Explore via Self-Supervised World Models",
    https://arxiv.org/abs/2005.05960
    """

    log: Annotated[bool, doc("Use the logarithm of the disagreement as the reward.")]

    def __post_init__(self):
        super().__post_init__()
        self.check_offset()

    def build(self, shape: AgentShape) -> "Plan2Explore":
        """Build the explorer."""
        return Plan2Explore(self, shape)


class Plan2Explore(Disagreement, Explorer):
    """Seeks states whose successors an ensemble of predictors disagrees about.

    Differs from the paper by default: the ensemble gets the previous action, as in the authors'
    code.
    """

    def __init__(self, config: Plan2ExploreConfig, shape: AgentShape):
        super().__init__(config, shape)
        self.log = config.log
        self.add_ensemble(config, shape)

    def networks(self) -> dict[str, nn.Module]:
        """See `Explorer`."""
        return {"ensemble": self.ensemble} | super().networks()

    def learn_predictions(self, context: UpdateContext, step: Step) -> Mapping[str, Tensor]:
        """Train the ensemble to predict the target `offset` steps ahead."""
        step(self.ensemble_loss(context), "ensemble")
        return {}

    def intrinsic_reward(self, trajectory: Trajectory) -> Tensor:
        """Compute the disagreement, or its logarithm: (H+1, N)."""
        disagreement = self.disagreement(trajectory)
        return disagreement.log() if self.log else disagreement


@dataclass(frozen=True, kw_only=True)
class ModelLossConfig(ExplorerConfig):
    """Exploration by the loss of the world model."""

    target: Annotated[
        ModelLossTarget,
        doc("Loss that is sought: the KL, or the negative log-likelihood of all observations."),
    ]
    predictor: Annotated[HeadConfig, doc("Predicts the loss of the world model from features.")]

    def build(self, shape: AgentShape) -> "ModelLoss":
        """Build the explorer."""
        return ModelLoss(self, shape)


class ModelLoss(Explorer):
    """Seeks states in which the world model has a high loss.

    Source: `ModelLoss` of the authors' code.
    """

    def __init__(self, config: ModelLossConfig, shape: AgentShape):
        super().__init__(config, shape)
        self.target = config.target
        self.predictor = Head(shape.feature_size, (), config.predictor)

    def networks(self) -> dict[str, nn.Module]:
        """See `Explorer`."""
        return {"predictor": self.predictor} | super().networks()

    def learn_predictions(self, context: UpdateContext, step: Step) -> Mapping[str, Tensor]:
        """Train the predictor on the world model's loss in every replayed state."""
        step(self.predictor_loss(context), "predictor")
        return {}

    def predictor_loss(self, context: UpdateContext) -> Tensor:
        """Compute the negative log-likelihood () of the world model's loss."""
        target = context.kl  # (T, B)
        if self.target == "observations":
            target = -torch.stack([*context.obs_log_probs.values()]).sum(0)
        return -self.predictor(context.posterior.features).log_prob(target).mean()

    def intrinsic_reward(self, trajectory: Trajectory) -> Tensor:
        """Predict the loss of the world model in imagined states: (H+1, N)."""
        return self.predictor(trajectory.features).mean
