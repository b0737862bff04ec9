"""Learning: one LightningModule that steps three optimisers by hand.

The Trainer feeds it batches from the replay. It knows the networks and their losses, but no
environment, no schedule of a run and no logger: it returns its metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor

from dreamer.models.actor_critic import ActorCritic, ActorCriticConfig
from dreamer.models.world_model import WorldModel, WorldModelConfig
from dreamer.optimizer import EpsilonHatAdam, OptimizerConfig, clip_gradients
from dreamer.types import ActionSpace, Batch, RSSMState


@dataclass(frozen=True)
class AgentConfig:
    """The agent's networks and how they learn."""

    world_model: WorldModelConfig
    actor_critic: ActorCriticConfig
    world_model_optimizer: OptimizerConfig
    actor_optimizer: OptimizerConfig
    critic_optimizer: OptimizerConfig
    horizon: int  # H, imagined steps from every replayed state

    def __post_init__(self):
        if self.horizon < 2:
            raise ValueError(f"Expect `horizon` to be at least 2, actually: {self.horizon}")


class UpdateNoise(NamedTuple):
    """All that is random in one update; None is drawn where it is needed."""

    posterior: Tensor | None = None  # (T, B, S, K)
    action: Tensor | None = None  # (H, N, A)
    state: Tensor | None = None  # (H, N, S, K)


class NonFiniteError(RuntimeError):
    """A loss or its gradient is no longer a number; the weights are those from before."""


class DreamerAgent(pl.LightningModule):
    """DreamerV2: a world model, and an actor and a critic that learn in its dreams."""

    def __init__(
        self,
        config: AgentConfig,
        obs_shapes: dict[str, tuple[int, ...]],
        action_space: ActionSpace,
    ):
        """Build the networks.

        Args:
            config: every choice.
            obs_shapes: by key, one observation: (C, 64, 64) or (O,).
            action_space: what the environment accepts.
        """
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.obs_shapes = obs_shapes
        self.action_space = action_space
        self.world_model = WorldModel(config.world_model, obs_shapes, action_space.size)
        self.actor_critic = ActorCritic(
            config.actor_critic, self.world_model.feature_size, action_space
        )
        self.frames = 0  # THE clock: emulator frames seen, prefill included
        self.policy_steps = 0  # decisions made, prefill included
        self.updates = 0  # batches learned from

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser for each loss: world model, actor, critic, in this order."""
        config = self.config
        return [
            EpsilonHatAdam(self.world_model.parameters(), config.world_model_optimizer),
            EpsilonHatAdam(self.actor_critic.actor.parameters(), config.actor_optimizer),
            EpsilonHatAdam(self.actor_critic.critic.parameters(), config.critic_optimizer),
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Learn from one batch (T, B, ...); returns detached metrics, each ()."""
        _, metrics = self.update(batch)
        return metrics

    def update(
        self,
        batch: Batch,
        start: RSSMState | None = None,
        noise: UpdateNoise | None = None,
    ) -> tuple[RSSMState, dict[str, Tensor]]:
        """One step of all three optimisers.

        Args:
            batch: (T, B, ...), raw.
            start: (B, ...) state before the batch, None for zeros.
            noise: all draws of the update; None makes them.

        Returns:
            The last posterior (B, ...), and detached metrics, each ().

        Raises:
            NonFiniteError: a loss or gradient is not finite; its weights stay as they were.
        """
        noise = noise or UpdateNoise()
        model_opt, actor_opt, critic_opt = optimizers = self._optimizers()
        for optimizer in optimizers:  # before the forward pass: their memory is needed there
            optimizer.zero_grad()

        model = self.world_model.loss(batch, start, noise.posterior)
        metrics = model.metrics | self._step(model_opt, model.loss, "world_model")

        # The states are those of the loss, the dynamics those of the model just updated.
        posterior = model.posterior.detach()
        with self.toggled_optimizer(actor_opt):  # gradients pass THROUGH the model, never INTO it
            # Reinforce needs no graph of the dream: the roll-out is cheap without one.
            with torch.set_grad_enabled(self.actor_critic.through_dynamics):
                trajectory = self.world_model.imagine(
                    posterior.flatten_time(),
                    batch.is_terminal.flatten(),
                    self.actor_critic.act,
                    self.config.horizon,
                    action_noise=noise.action,
                    state_noise=noise.state,
                    one_hots=True,
                )
            actor = self.actor_critic.actor_loss(trajectory, self.policy_steps)
            metrics |= actor.metrics | self._step(actor_opt, actor.loss, "actor")

        critic = self.actor_critic.critic_loss(trajectory.detach(), actor.target.detach())
        metrics |= critic.metrics | self._step(critic_opt, critic.loss, "critic")
        self.actor_critic.update_target_critic(self.updates)
        self.updates += 1
        return posterior.at(-1), metrics

    def _optimizers(self) -> list[LightningOptimizer]:
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        return optimizers  # pyright: ignore[reportReturnType]

    def _step(self, optimizer: LightningOptimizer, loss: Tensor, name: str) -> dict[str, Tensor]:
        """Backward pass, clipping and step of one loss, in one place."""
        self.manual_backward(loss)
        inner = optimizer.optimizer
        assert isinstance(inner, EpsilonHatAdam)
        norm = clip_gradients(inner.param_groups[0]["params"], inner.config.clip)
        if not norm.isfinite():
            optimizer.zero_grad()
            raise NonFiniteError(
                f"The {name} loss is {loss.item()} and its gradient's norm {norm.item()} in "
                f"update {self.updates}, frame {self.frames}. Its weights are unchanged; try a "
                f"smaller learning rate, precision=32-true, or look at the rewards."
            )
        optimizer.step()
        return {f"grad_norm/{name}": norm}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the counters to a checkpoint."""
        checkpoint["counters"] = {
            "frames": self.frames,
            "policy_steps": self.policy_steps,
            "updates": self.updates,
        }

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the counters from a checkpoint."""
        for name, value in checkpoint["counters"].items():
            setattr(self, name, value)
