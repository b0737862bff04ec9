"""Learning: one LightningModule that steps the optimisers by hand.

The Trainer feeds it batches from the replay. It knows the networks and their losses, but no
environment, no schedule of a run and no logger: it returns its metrics.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from dreamer.components import (
    AgentShape,
    Component,
    ComponentConfig,
    Trainable,
    UpdateContext,
    build_components,
    check_components,
    trained_by,
)
from dreamer.finite_check import FiniteCheck
from dreamer.models.actor_critic import ActorCriticConfig
from dreamer.models.world_model import WorldModelConfig
from dreamer.optim import EpsilonHatAdam, OptimizerConfig, clip_gradients
from dreamer.schema.types import AtLeastTwo, doc
from dreamer.schema.validation import check
from dreamer.types import ActionSpace, Batch, RSSMState


@dataclass(frozen=True)
class AgentConfig:
    """The agent's networks and how they learn."""

    world_model: Annotated[WorldModelConfig, doc("The world model.")]
    actor_critic: Annotated[ActorCriticConfig, doc("The actor and the critic.")]
    world_model_optimizer: Annotated[OptimizerConfig, doc("How the world model learns.")]
    actor_optimizer: Annotated[OptimizerConfig, doc("How the actor learns.")]
    critic_optimizer: Annotated[OptimizerConfig, doc("How the critic learns.")]
    horizon: Annotated[
        AtLeastTwo,
        doc("H, imagined steps from every replayed state.", unit="policy steps", source="Table D1"),
    ]
    components: Annotated[
        Mapping[str, ComponentConfig],
        doc("What else learns, by name: see dreamer/components.py."),
    ] = field(default_factory=dict)

    def build(
        self, obs_shapes: dict[str, tuple[int, ...]], action_space: ActionSpace
    ) -> "DreamerAgent":
        """The agent of this configuration; a subclass builds its own."""
        return DreamerAgent(self, obs_shapes, action_space)

    def __post_init__(self):
        check_components(self.components)
        check(self)


class UpdateNoise(NamedTuple):
    """All that is random in one update; None is drawn where it is needed."""

    posterior: Tensor | None = None  # (T, B, S, K)
    action: Tensor | None = None  # (H, N, A)
    state: Tensor | None = None  # (H, N, S, K)


class NonFiniteError(RuntimeError):
    """A loss or its gradient is not finite; its weights, and those trained after it, stay."""


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
        self.world_model = config.world_model.build(obs_shapes, action_space.size)
        self.actor_critic = config.actor_critic.build(self.world_model.feature_size, action_space)
        shape = AgentShape.of(
            self.world_model,
            obs_shapes=obs_shapes,
            action_space=action_space,
            horizon=config.horizon,
        )
        with torch.random.fork_rng(devices=()):  # a run with a probe has the draws of one without
            self.components = nn.ModuleDict(build_components(config.components, shape))
        names = [trained.name for trained in self.trainables]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"Expect the names of all that is trained to differ, actually: {', '.join(twice)}"
            )
        self.finite_check = FiniteCheck(names)
        self.frames = 0  # THE clock: emulator frames seen, prefill included
        self.policy_steps = 0  # decisions made, prefill included
        self.updates = 0  # batches learned from

    @property
    def trainables(self) -> list[Trainable]:
        """All that is trained, in the order of the updates."""
        config = self.config
        added = (
            trained_by(name, component, config.components[name].optimizer)
            for name, component in self._components()
        )
        return [
            Trainable("world_model", self.world_model, config.world_model_optimizer),
            Trainable("actor", self.actor_critic.actor, config.actor_optimizer),
            Trainable("critic", self.actor_critic.critic, config.critic_optimizer),
            *itertools.chain.from_iterable(added),
        ]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser for each loss, in the order of `trainables`."""
        return [EpsilonHatAdam(x.parameters, x.optimizer) for x in self.trainables]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Learn from one batch (T, B, ...); returns detached metrics, each ()."""
        metrics = self.learn(batch)
        self._end_update()
        return metrics

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all optimisers, without what changes with the number of the update.

        Nothing in it waits for the device. Where CUDA graphs are asked for, a
        `kernels.recorded_update.RecordedUpdate` of it takes its place.
        """
        return self._learn(batch, None, UpdateNoise())[1]

    def update(
        self,
        batch: Batch,
        start: RSSMState | None = None,
        noise: UpdateNoise | None = None,
    ) -> tuple[RSSMState, dict[str, Tensor]]:
        """Learn from one batch, with a given start and given draws.

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

    def on_train_start(self) -> None:
        """Forget how training ended before."""
        self.finite_check.reset()

    def on_train_end(self) -> None:
        """Raise what the device has not told in time."""
        self._raise_if_not_finite(self.updates - 1, wait=True)

    def _learn(
        self, batch: Batch, start: RSSMState | None, noise: UpdateNoise
    ) -> tuple[RSSMState, dict[str, Tensor]]:
        for optimizer in self._optimizers():  # before the forward pass: memory is needed there
            optimizer.zero_grad()

        model = self.world_model.loss(batch, start, noise.posterior)
        metrics = model.metrics | self._step("world_model", model.loss)

        # The states are those of the loss, the dynamics those of the model just updated.
        posterior = model.posterior.detach()
        starts, horizon = posterior.flatten_time(), self.config.horizon
        action_noise = noise.action
        if action_noise is None:  # for all steps at once: these numbers are few
            shape = horizon, len(starts.deter)
            action_noise = self.actor_critic.draw_noise(shape, starts.deter.device)
        # Gradients pass THROUGH the model, never INTO it.
        with self._training(self.actor_critic.actor):
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
            metrics |= actor.metrics | self._step("actor", actor.loss)

        critic = self.actor_critic.critic_loss(trajectory.detach(), actor.target.detach())
        metrics |= critic.metrics | self._step("critic", critic.loss)

        context = UpdateContext(
            batch,
            posterior,
            model.prior_stats.detach(),
            trajectory.detach(),
            self.policy_steps,
            self.world_model,
        )
        for name, component in self._components():
            with self._training(component):
                metrics |= self._learn_component(name, component, context)
        return posterior.at(-1), metrics

    def _learn_component(
        self, name: str, component: Component, context: UpdateContext
    ) -> dict[str, Tensor]:
        metrics: dict[str, Tensor] = {}

        def step(loss: Tensor, network: str = "") -> None:
            trained = f"{name}_{network}" if network else name
            if trained not in self.finite_check.names:
                raise ValueError(
                    f"Expect an optimiser for the loss {trained}, actually there is none"
                )
            if loss.shape != () or not loss.requires_grad:
                raise ValueError(
                    f"Expect the {trained} loss to be a number that depends on weights, "
                    f"actually: {tuple(loss.shape)}, requires_grad={loss.requires_grad}"
                )
            metrics[f"{trained}/loss"] = loss.detach()
            metrics.update(self._step(trained, loss))

        values = component.learn(context, step)
        others = {f"{name}/{key}": value.detach() for key, value in values.items()}
        if taken := metrics.keys() & others.keys():
            raise ValueError(
                f"The metrics of `components.{name}` must not be named {sorted(taken)}"
            )
        return metrics | others

    def _step(self, name: str, loss: Tensor) -> dict[str, Tensor]:
        """Backward pass, clipping, check and step of one loss: the one place where weights move.

        Gradients reach no other weights than those that this loss trains.
        """
        index = self.finite_check.names.index(name)
        optimizer = self._optimizers()[index].optimizer
        assert isinstance(optimizer, EpsilonHatAdam)
        parameters = [p for p in optimizer.param_groups[0]["params"] if p.requires_grad]
        self.manual_backward(loss, inputs=parameters)
        norm = clip_gradients(parameters, optimizer.config.clip)
        optimizer.step(allowed=self.finite_check.check(name, norm + loss.detach()))
        return {f"grad_norm/{name}": norm}

    def _end_update(self) -> None:
        """Do on the host what belongs to an update."""
        self.finite_check.send()
        self._raise_if_not_finite(self.updates)
        for optimizer in self._optimizers():  # the Trainer counts steps, and was not told of any
            optimizer._on_before_step()
            optimizer._on_after_step()
        self.actor_critic.update_target_critic(self.updates)
        for _, component in self._components():
            component.end_update(self.updates)
        self.updates += 1

    def _raise_if_not_finite(self, update: int, *, wait: bool = False) -> None:
        name = self.finite_check.read(wait=wait)
        if name is None:
            return
        late = " or shortly before" if self.device.type == "cuda" else ""
        raise NonFiniteError(
            f"The {name} loss or its gradient is not finite in update {update}{late}, frame "
            f"{self.frames}. Its weights are unchanged; try a smaller learning rate, "
            f"precision=32-true, or look at the rewards."
        )

    @contextmanager
    def _training(self, network: nn.Module) -> Iterator[None]:
        """Freeze all weights but those of one network."""
        own = set(network.parameters())
        groups = (optimizer.optimizer.param_groups[0] for optimizer in self._optimizers())
        trained = (p for group in groups for p in group["params"] if p.requires_grad)
        frozen = [p for p in trained if p not in own]
        try:
            for parameter in frozen:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_()

    def _components(self) -> Iterable[tuple[str, Component]]:
        return self.components.items()  # pyright: ignore[reportReturnType]

    def _optimizers(self) -> list[LightningOptimizer]:
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        return optimizers  # pyright: ignore[reportReturnType]

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
