"""Learning: a LightningModule with manual optimisation.

The Trainer feeds it batches from the replay. It knows the networks and their losses, but no
environments, run schedules or loggers: it returns its metrics.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import Parameter

from dreamer.carried_state import CarriedState, NoCarriedState
from dreamer.components import (
    AgentShape,
    Component,
    ComponentConfig,
    Disagrees,
    Trainable,
    UpdateContext,
    build_components,
    check_components,
    trained_by,
)
from dreamer.finite_check import FiniteCheck
from dreamer.loss_scaling import LossScaling
from dreamer.models.actor_critic import ActorCriticConfig
from dreamer.models.world_model import WorldModelConfig
from dreamer.optim import EpsilonHatAdam, GatedAdamW, OptimizerConfig, set_learning_rate
from dreamer.schedules import Schedule, is_constant, parse_schedule
from dreamer.schema.types import AtLeastTwo, NonNegative, doc
from dreamer.schema.validation import check
from dreamer.types import ActionSpace, Batch, RSSMState, Trajectory


@dataclass(frozen=True)
class AgentConfig:
    """The agent's networks and how they learn."""

    world_model: Annotated[WorldModelConfig, doc("The world model.")]
    actor_critic: Annotated[ActorCriticConfig, doc("The actor and the critic.")]
    world_model_optimizer: Annotated[OptimizerConfig, doc("Optimiser of the world model.")]
    actor_optimizer: Annotated[OptimizerConfig, doc("Optimiser of the actor.")]
    critic_optimizer: Annotated[OptimizerConfig, doc("Optimiser of the critic.")]
    horizon: Annotated[
        AtLeastTwo,
        doc("H, imagined steps from every replayed state.", unit="policy steps", source="Table D1"),
    ]
    components: Annotated[
        Mapping[str, ComponentConfig],
        doc("Other trained parts, by name: see dreamer/components.py."),
    ] = field(default_factory=dict)
    carry_state: Annotated[
        bool, doc("Start each batch from the states after the last one; see `replay.carry_state`.")
    ] = False
    pessimism: Annotated[
        NonNegative, doc("Weight of the ensemble's disagreement; see `data.pessimism`.")
    ] = 0.0

    def build(
        self, obs_shapes: dict[str, tuple[int, ...]], action_space: ActionSpace
    ) -> "DreamerAgent":
        """Build the agent; a subclass may build another."""
        return DreamerAgent(self, obs_shapes, action_space)

    def __post_init__(self):
        check_components(self.components)
        check(self)
        gamma = getattr(self.actor_critic.returns, "discount", self.world_model.discount)
        if gamma != self.world_model.discount:
            raise ValueError(
                "`returns.discount` must be that of the world model, "
                f"{self.world_model.discount}, got {gamma}"
            )


class UpdateNoise(NamedTuple):
    """The noise of one update; None is drawn when needed."""

    posterior: Tensor | None = None  # (T, B, S, K)
    action: Tensor | None = None  # (H, N, A)
    state: Tensor | None = None  # (H, N, S, K)


class NonFiniteError(RuntimeError):
    """A loss or its gradient is not finite; its weights, and those trained later, are unchanged."""


class DreamerAgent(pl.LightningModule):
    """DreamerV2: a world model, and an actor and a critic that learn from imagined trajectories."""

    moves_target_first = False  # whether the slow critic moves before an update, not after it
    samples_in_evaluation = False  # whether evaluations during a run sample actions

    def __init__(
        self,
        config: AgentConfig,
        obs_shapes: dict[str, tuple[int, ...]],
        action_space: ActionSpace,
    ):
        """Build the networks.

        Args:
            config: networks and optimisers.
            obs_shapes: by key, one observation: (C, 64, 64) or (O,); hidden ones, too.
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
        with torch.random.fork_rng(devices=()):  # a component does not change other draws
            self.components = nn.ModuleDict(build_components(config.components, shape))
        if config.pessimism and not self._ensembles():
            raise ValueError(
                "`data.pessimism` must be 0 without an ensemble, got "
                f"{config.pessimism:g}. Set explore=ensemble."
            )
        names = [trained.name for trained in self.trainables]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"The names of trained networks must differ, got {', '.join(twice)} twice"
            )
        self.finite_check = FiniteCheck(names)
        self.carried = CarriedState() if config.carry_state else NoCarriedState()
        self._rates: dict[str, Schedule] = {}  # of the optimisers whose rate is not constant
        self.frames = 0  # emulator frames, prefill included: the time of the run
        self.policy_steps = 0  # decisions, prefill included
        self.steps_per_update = 0  # how far schedules move with an update without collection
        self.updates = 0  # trained batches

    @property
    def trainables(self) -> list[Trainable]:
        """All networks with an optimiser, in the order of their steps."""
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

    @property
    def time(self) -> int:
        """The time of schedules: policy steps, or what an online run makes in as many updates."""
        return self.policy_steps + self.updates * self.steps_per_update

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Make one optimiser per loss, in the order of `trainables`."""
        rates = {x.name: x.optimizer.learning_rate for x in self.trainables}
        self._rates = {k: parse_schedule(x) for k, x in rates.items() if not is_constant(x)}
        return [x.optimizer.build(x.parameters) for x in self.trainables]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Learn from one batch (T, B, ...); returns detached metrics, each ()."""
        self._begin_update()
        metrics = self.learn(batch)
        self._end_update()
        return metrics

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        """Step all optimisers, apart from what depends on the number of the update.

        Nothing in it waits for the device. With CUDA graphs,
        `kernels.captured_update.CapturedUpdate` replaces it.
        """
        start = self.carried.start(batch.reward.device)
        state, metrics = self._learn(batch, start, UpdateNoise())
        self.carried.keep(state)
        return metrics

    def update(
        self,
        batch: Batch,
        start: RSSMState | None = None,
        noise: UpdateNoise | None = None,
    ) -> tuple[RSSMState, dict[str, Tensor]]:
        """Learn from one batch, with a given start and noise.

        Args:
            batch: (T, B, ...), raw.
            start: (B, ...) state before the batch, None for zeros.
            noise: of the whole update; None draws it.

        Returns:
            The last posterior (B, ...), and detached metrics, each ().

        Raises:
            NonFiniteError: a loss or gradient is not finite; its weights are unchanged.
        """
        self._begin_update()
        result = self._learn(batch, start, noise or UpdateNoise())
        self._end_update()
        return result

    def setup(self, stage: str) -> None:
        """Scale the losses if the Trainer computes in float16."""
        kind = LossScaling if self.trainer.precision == "16-mixed" else FiniteCheck
        if type(self.finite_check) is not kind:
            self.finite_check = kind(self.finite_check.names)

    def on_train_start(self) -> None:
        """Reset the finite check of an earlier training."""
        self.finite_check.reset()

    def on_train_end(self) -> None:
        """Raise the error of a check that the host has not read yet."""
        self._raise_if_not_finite(self.updates - 1, wait=True)

    def _learn(
        self, batch: Batch, start: RSSMState | None, noise: UpdateNoise
    ) -> tuple[RSSMState, dict[str, Tensor]]:
        for optimizer in self._optimizers():  # before the forward pass, which needs the memory
            optimizer.zero_grad()

        model = self.world_model.loss(batch, start, noise.posterior)
        metrics = model.metrics | self._step("world_model", model.loss)

        # Imagine from the posteriors of the loss with the world model just updated.
        posterior = model.posterior.detach()
        starts, horizon = posterior.flatten_time(), self.config.horizon
        action_noise = noise.action
        if action_noise is None:  # for all steps at once
            shape = horizon, len(starts.deter)
            action_noise = self.actor_critic.draw_noise(shape, starts.deter.device)
        # Gradients pass THROUGH the world model, never INTO it.
        with self._training(self.actor_critic.actor):
            # Reinforce needs no gradients through the trajectory.
            with torch.set_grad_enabled(self.actor_critic.through_dynamics):
                trajectory = self.world_model.imagine(
                    starts,
                    model.batch.is_terminal.flatten(),
                    self.actor_critic.act,
                    horizon,
                    action_noise=action_noise,
                    state_noise=noise.state,
                )
                if self.config.pessimism:
                    trajectory, doubt = self._lower_reward(trajectory)
                    metrics |= doubt
            actor = self.actor_critic.actor_loss(trajectory, self.time)
            metrics |= actor.metrics | self._step("actor", actor.loss)

        critic = self.actor_critic.critic_loss(trajectory.detach(), actor.target.detach())
        metrics |= critic.metrics | self._step("critic", critic.loss)

        context = UpdateContext.of(model, trajectory, self.time, self.world_model)
        for name, component in self._components():
            with self._training(component):
                metrics |= self._learn_component(name, component, context)
        return posterior.at(-1), metrics

    def _lower_reward(self, trajectory: Trajectory) -> tuple[Trajectory, dict[str, Tensor]]:
        """Subtract the scaled disagreement from the imagined reward, where data say little.

        Returns the trajectory (H+1, N, ...) and metrics, each (). Gradients flow through the
        imagined states, as from the reward; the ensemble gets none.

        Source: Lu et al. 2022, "Challenges and Opportunities in Offline Reinforcement Learning from
        Visual Observations", https://arxiv.org/abs/2206.04779. Differs from the paper: members
        predict a state's features from others; there, each is a prior of the world model.
        """
        doubt = torch.stack([x.disagreement(trajectory) for x in self._ensembles()]).sum(0)
        lowered = trajectory._replace(reward=trajectory.reward - self.config.pessimism * doubt)
        return lowered, {"imagine/disagreement": doubt.detach().mean()}

    def _learn_component(
        self, name: str, component: Component, context: UpdateContext
    ) -> dict[str, Tensor]:
        metrics: dict[str, Tensor] = {}

        def step(loss: Tensor, network: str = "") -> None:
            trained = f"{name}_{network}" if network else name
            if trained not in self.finite_check.names:
                raise ValueError(f"The loss {trained} must have an optimiser, got none")
            if loss.shape != () or not loss.requires_grad:
                raise ValueError(
                    f"The {trained} loss must be a scalar that depends on weights, got "
                    f"shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}"
                )
            metrics[f"{trained}/loss"] = loss.detach()
            metrics.update(self._step(trained, loss))

        values = component.learn(context, step)
        others = {f"{name}/{key}": value.detach() for key, value in values.items()}
        if taken := metrics.keys() & others.keys():
            raise ValueError(
                f"Metrics of `components.{name}` must not have reserved names, got {sorted(taken)}"
            )
        return metrics | others

    def _step(self, name: str, loss: Tensor) -> dict[str, Tensor]:
        """Minimise one loss: backward pass, clipping, finite check, optimiser step.

        Gradients reach only the weights of this loss. Returns metrics, each ().
        """
        self._backward(name, loss)
        return self._make_steps({name: loss.detach()})

    def _backward(self, name: str, loss: Tensor) -> None:
        """Add the gradient of a loss to those of its weights."""
        self.manual_backward(self.finite_check.scale(name, loss), inputs=self._trained(name))

    def _make_steps(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Clip and check the gradients of losses (), then make their steps; returns metrics ().

        This is the only place where weights change. If one loss or gradient is not finite, none do.
        """
        metrics, allowed = {}, []
        for name, loss in losses.items():
            parameters = self._trained(name)
            self.finite_check.unscale(name, [p.grad for p in parameters if p.grad is not None])
            norm = self._optimizer(name).config.clip_gradients(parameters)
            one_allowed, checked = self.finite_check.allow(name, loss, norm)
            allowed.append(one_allowed)
            metrics |= checked
        all_allowed = math.prod(allowed[1:], start=allowed[0])
        for name in losses:
            optimizer = self._optimizer(name)
            optimizer.step(allowed=all_allowed)
            if name in self._rates:
                metrics[f"learning_rate/{name}"] = optimizer.param_groups[0]["lr"].clone()
        return metrics

    def _optimizer(self, name: str) -> EpsilonHatAdam | GatedAdamW:
        optimizer = self._optimizers()[self.finite_check.names.index(name)].optimizer
        assert isinstance(optimizer, EpsilonHatAdam | GatedAdamW)
        return optimizer

    def _trained(self, name: str) -> list[Parameter]:
        """Return the weights that a loss trains now."""
        return [p for p in self._optimizer(name).param_groups[0]["params"] if p.requires_grad]

    def _begin_update(self) -> None:
        """Do what depends on the number of the update or on the time, before the losses.

        CUDA graphs do not capture it.
        """
        self.world_model.begin_update(self.updates)
        self.world_model.set_time(self.time)
        for name, schedule in self._rates.items():
            set_learning_rate(self._optimizer(name), schedule(self.time))
        if self.moves_target_first:
            self.actor_critic.update_target_critic(self.updates)

    def _end_update(self) -> None:
        """Do the parts of an update that run on the host."""
        self.finite_check.send()
        self._raise_if_not_finite(self.updates)
        for optimizer in self._optimizers():  # so that the Trainer counts the steps
            optimizer._on_before_step()
            optimizer._on_after_step()
        if not self.moves_target_first:
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
            f"{self.frames}. Its weights are unchanged; try a smaller learning rate or "
            "precision=32-true, or check the rewards."
        )

    @contextmanager
    def _training(self, network: nn.Module) -> Iterator[None]:
        """Freeze all weights but those of one network."""
        kept = set(network.parameters())
        groups = (optimizer.optimizer.param_groups[0] for optimizer in self._optimizers())
        trained = (p for group in groups for p in group["params"] if p.requires_grad)
        frozen = [p for p in trained if p not in kept]
        try:
            for parameter in frozen:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_()

    def _components(self) -> Iterable[tuple[str, Component]]:
        return self.components.items()  # pyright: ignore[reportReturnType]

    def _ensembles(self) -> list[Disagrees]:
        return [part for _, part in self._components() if isinstance(part, Disagrees)]

    def _optimizers(self) -> list[LightningOptimizer]:
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        return optimizers  # pyright: ignore[reportReturnType]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the counters, the carried state and the scales of losses to a checkpoint."""
        checkpoint["counters"] = {
            "frames": self.frames,
            "policy_steps": self.policy_steps,
            "updates": self.updates,
        }
        if carried := self.carried.state_dict():
            checkpoint["carried_state"] = carried
        if scales := self.finite_check.saved():
            checkpoint["loss_scaling"] = scales

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added."""
        for name, value in checkpoint["counters"].items():
            setattr(self, name, value)
        self.carried.load_state_dict(checkpoint.get("carried_state", {}))
        self.finite_check.restore(checkpoint.get("loss_scaling", {}))
