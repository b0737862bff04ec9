"""Learning: one LightningModule that steps three optimisers by hand.

The Trainer feeds it batches from the replay. It knows the networks and their losses, but no
environment, no schedule of a run and no logger: it returns its metrics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor

from dreamer.graph import Alarm, RecordedUpdate, Tape
from dreamer.models.actor_critic import ActorCritic, ActorCriticConfig
from dreamer.models.world_model import WorldModel, WorldModelConfig
from dreamer.optimizer import EpsilonHatAdam, OptimizerConfig, clip_gradients
from dreamer.schedule import is_constant
from dreamer.types import ActionSpace, Batch, RSSMState

LOSSES = ("world_model", "actor", "critic")


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
        *,
        make_tape: Callable[[], Tape] | None = None,
    ):
        """Build the networks.

        Args:
            config: every choice.
            obs_shapes: by key, one observation: (C, 64, 64) or (O,).
            action_space: what the environment accepts.
            make_tape: on which `training_step` records its updates; None: they are not recorded.

        Raises:
            ValueError: a recording is asked for, but a schedule changes with the update.
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
        self.recorded: RecordedUpdate | None = None
        if make_tape is not None:
            self.recorded = RecordedUpdate(self._learn_from_batch, make_tape, LOSSES)
            actor = config.actor_critic.actor
            for name in ("entropy_scale", "gradient_mix"):
                # A recording would go on with the value of the update that was recorded.
                if not is_constant(getattr(actor, name)):
                    raise ValueError(
                        f"Expect `{name}` to be a number with cuda_graphs=true, "
                        f"actually: {getattr(actor, name)}"
                    )

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
        if self.recorded is None:
            return self.update(batch)[1]
        self._raise_alarm()
        optimizers = self._optimizers()
        metrics = self.recorded(batch, [optimizer.optimizer for optimizer in optimizers])
        for optimizer in optimizers:  # the Trainer counts steps, and this one was not told of any
            optimizer._on_before_step()
            optimizer._on_after_step()
        self._end_update()
        return metrics

    def on_train_end(self) -> None:
        """Raise what the device has not told in time."""
        self._raise_alarm(wait=True)

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
        result = self._learn(batch, start, noise or UpdateNoise())
        self._end_update()
        return result

    def _learn(
        self,
        batch: Batch,
        start: RSSMState | None,
        noise: UpdateNoise,
        alarm: Alarm | None = None,
    ) -> tuple[RSSMState, dict[str, Tensor]]:
        """`update` but for what changes with its number; with an alarm nothing waits."""
        model_opt, actor_opt, critic_opt = optimizers = self._optimizers()
        for optimizer in optimizers:  # before the forward pass: their memory is needed there
            optimizer.zero_grad()

        model = self.world_model.loss(batch, start, noise.posterior)
        metrics = model.metrics | self._step(model_opt, model.loss, "world_model", alarm)

        # The states are those of the loss, the dynamics those of the model just updated.
        posterior = model.posterior.detach()
        starts, horizon = posterior.flatten_time(), self.config.horizon
        action_noise = noise.action
        if action_noise is None:  # for all steps at once: these numbers are few
            shape = horizon, len(starts.deter)
            action_noise = self.actor_critic.draw_noise(shape, starts.deter.device)
        with self.toggled_optimizer(actor_opt):  # gradients pass THROUGH the model, never INTO it
            # Reinforce needs no graph of the dream: the roll-out is cheap without one.
            with torch.set_grad_enabled(self.actor_critic.through_dynamics):
                trajectory = self.world_model.imagine(
                    starts,
                    batch.is_terminal.flatten(),
                    self.actor_critic.act,
                    horizon,
                    action_noise=action_noise,
                    state_noise=noise.state,
                )
            actor = self.actor_critic.actor_loss(trajectory, self.policy_steps)
            metrics |= actor.metrics | self._step(actor_opt, actor.loss, "actor", alarm)

        critic = self.actor_critic.critic_loss(trajectory.detach(), actor.target.detach())
        metrics |= critic.metrics | self._step(critic_opt, critic.loss, "critic", alarm)
        return posterior.at(-1), metrics

    def _learn_from_batch(self, batch: Batch, alarm: Alarm) -> dict[str, Tensor]:
        """What is recorded of an update."""
        return self._learn(batch, None, UpdateNoise(), alarm)[1]

    def _end_update(self) -> None:
        self.actor_critic.update_target_critic(self.updates)
        self.updates += 1

    def _raise_alarm(self, *, wait: bool = False) -> None:
        name = self.recorded.failure(wait=wait) if self.recorded else None
        if name is not None:
            raise NonFiniteError(
                f"The {name} loss or its gradient is not finite in update {self.updates - 1} or "
                f"shortly before, frame {self.frames}. No weight has moved since; try a smaller "
                f"learning rate, precision=32-true, or look at the rewards."
            )

    def _optimizers(self) -> list[LightningOptimizer]:
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        return optimizers  # pyright: ignore[reportReturnType]

    def _step(
        self, optimizer: LightningOptimizer, loss: Tensor, name: str, alarm: Alarm | None
    ) -> dict[str, Tensor]:
        """Backward pass, clipping and step of one loss, in one place."""
        self.manual_backward(loss)
        inner = optimizer.optimizer
        assert isinstance(inner, EpsilonHatAdam)
        parameters, clip = inner.param_groups[0]["params"], inner.config.clip
        norm = clip_gradients(parameters, clip, on_device=alarm is not None)
        if alarm is not None:
            inner.step_on_device(alarm.allow(name, norm.isfinite()))
            return {f"grad_norm/{name}": norm}
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
