"""Components: trained parts of an agent besides world model, actor and critic.

Examples are a probe of the features, an ensemble and an exploration policy. The agent builds the
components of its configuration and trains them after its own networks, on the results of the same
update. They know neither the agent nor the Trainer.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn
from torch.nn import Parameter

from dreamer.models.world_model import WorldModel, WorldModelOutput
from dreamer.optim import OptimizerConfig
from dreamer.types import ActionSpace, Batch, RSSMState, Trajectory

BUILT_IN = ("world_model", "actor", "critic")
# Other first parts of the names of metrics.
AREAS = (
    *("imagine", "grad_norm", "observations", "collect", "eval", "eval_explore", "replay"),
    *("store", "mirror", "holdout"),
    *("perf", "video", "updates", "learning_rate"),
    *("grad_scale", "grad_overflow"),
)


class AgentShape(NamedTuple):
    """The sizes of an agent, for building a component."""

    obs_shapes: Mapping[str, tuple[int, ...]]  # by key, one observation: (C, 64, 64) or (O,)
    action_space: ActionSpace
    embed_size: int  # M, of the encoder's output
    deter_size: int  # D
    stoch_size: int  # S * K
    horizon: int  # H
    discount: float  # gamma

    @property
    def feature_size(self) -> int:
        """F."""
        return self.stoch_size + self.deter_size

    @classmethod
    def of(
        cls,
        world_model: WorldModel,
        *,
        obs_shapes: Mapping[str, tuple[int, ...]],
        action_space: ActionSpace,
        horizon: int,
    ) -> "AgentShape":
        """Return the sizes of an agent with this world model."""
        config = world_model.config
        return cls(
            obs_shapes=obs_shapes,
            action_space=action_space,
            horizon=horizon,
            embed_size=world_model.encoder.output_size,
            deter_size=config.rssm.deter,
            stoch_size=world_model.feature_size - config.rssm.deter,
            discount=config.discount,
        )


class UpdateContext(NamedTuple):
    """Results of an update, for the components; all tensors are detached.

    With several samples (`iwae_samples`), B counts all of them.
    """

    batch: Batch  # (T, B, ...), raw
    embed: Tensor  # (T, B, M) of the observations
    posterior: RSSMState  # (T, B, ...)
    prior_stats: Tensor  # (T, B, S, P)
    kl: Tensor  # (T, B) of posterior and prior, in nats
    obs_log_probs: Mapping[str, Tensor]  # by observation, each (T, B) in nats
    trajectory: Trajectory  # (H+1, N, ...), imagined from the posteriors
    policy_steps: int  # time of schedules; a CUDA graph keeps that of its capture
    world_model: WorldModel  # just updated; gradients pass through it, not into it

    @classmethod
    def of(
        cls,
        output: WorldModelOutput,
        trajectory: Trajectory,
        policy_steps: int,
        world_model: WorldModel,
    ) -> "UpdateContext":
        """Collect and detach the results of an update."""
        return cls(
            output.batch,
            embed=output.embed.detach(),
            posterior=output.posterior.detach(),
            prior_stats=output.prior_stats.detach(),
            kl=output.kl.detach(),
            obs_log_probs={key: x.detach() for key, x in output.obs_log_probs.items()},
            trajectory=trajectory.detach(),
            policy_steps=policy_steps,
            world_model=world_model,
        )


class ComponentOutput(NamedTuple):
    """Result of `Component.loss`."""

    loss: Tensor  # ()
    metrics: Mapping[str, Tensor] = {}  # each (), by name


class Step(Protocol):
    """Runs the backward pass of a loss () and one step of its optimiser.

    If a component has several optimisers, `network` names the one to use.
    """

    def __call__(self, loss: Tensor, network: str = "") -> None:
        """See above."""
        ...


@runtime_checkable
class DrawsPictures(Protocol):
    """A component that shows what it predicts."""

    def pictures(self, features: Tensor, batch: Batch) -> Mapping[str, np.ndarray]:
        """Draw the predictions beside the truth, for videos.

        Args:
            features: (T, B, F) of the posteriors, without a graph.
            batch: (T, B, ...), raw.

        Returns:
            By name, images (T, height, width, 3) uint8, the B sequences side by side.
        """
        ...


@runtime_checkable
class Disagrees(Protocol):
    """A component that tells how uncertain imagined states are, such as an ensemble."""

    def disagreement(self, trajectory: Trajectory) -> Tensor:
        """Compute the uncertainty of each imagined state: (H+1, N), at least 0.

        Gradients flow through the trajectory.
        """
        ...


class Component(nn.Module):
    """A trained part of the agent that leaves the agent's own networks unchanged.

    A subclass defines `loss`, or `learn` if it has several optimisers. Neither may wait for the
    device (`.item()`, `if tensor`): CUDA graphs could not capture the update.
    """

    def loss(self, context: UpdateContext) -> ComponentOutput:
        """Compute the loss that this component minimises."""
        raise NotImplementedError

    def learn(self, context: UpdateContext, step: Step) -> Mapping[str, Tensor]:
        """Make one update; returns metrics like `ComponentOutput`, without losses and norms."""
        output = self.loss(context)
        step(output.loss)
        return output.metrics

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks that may have optimisers of their own, by name."""
        return dict(self.named_children())

    def end_update(self, update: int) -> None:
        """Do what depends on the number of the update (0, 1, ...), such as moving a slow copy.

        CUDA graphs do not capture it.
        """


class ComponentConfig(Protocol):
    """Interface of a component's configuration."""

    @property
    def optimizer(self) -> OptimizerConfig | Mapping[str, OptimizerConfig]:
        """One for all weights, or several by the names of the networks that they train."""
        ...

    def build(self, shape: AgentShape) -> Component:
        """Build the component."""
        ...


class Trainable(NamedTuple):
    """A network with an optimiser."""

    name: str  # in metrics and errors
    network: nn.Module
    optimizer: OptimizerConfig

    @property
    def parameters(self) -> list[Parameter]:
        """Those that are trained."""
        return [p for p in self.network.parameters() if p.requires_grad]


def check_components(configs: Mapping[str, ComponentConfig]) -> None:
    """Check names and configurations.

    Raises:
        ValueError: a name or configuration is not allowed.
    """
    for name, config in configs.items():
        if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                "A component's name must consist of letters, digits and underscores, and not be a "
                f"name that torch reserves, got {name}"
            )
        if name in (*BUILT_IN, *AREAS):
            raise ValueError(
                f"A component's name must differ from {(*BUILT_IN, *AREAS)}, got {name}"
            )
        if not (callable(getattr(config, "build", None)) and hasattr(config, "optimizer")):
            raise ValueError(
                f"`components.{name}` must be a configuration with `optimizer` and `build` "
                f"(_target_= names its class), got {config}"
            )


def build_components(
    configs: Mapping[str, ComponentConfig], shape: AgentShape
) -> dict[str, Component]:
    """Build the components.

    Raises:
        TypeError: a result is not a component, or has no loss.
    """
    components = {}
    for name, config in configs.items():
        component = config.build(shape)
        if not isinstance(component, Component):
            raise TypeError(
                f"`components.{name}` must build a dreamer.components.Component, "
                f"got {type(component).__name__}"
            )
        kind = type(component)
        if kind.loss is Component.loss and kind.learn is Component.learn:
            raise TypeError(
                f"`components.{name}` must define `loss`, got {kind.__name__} without it"
            )
        components[name] = component
    return components


def trained_by(
    name: str, component: Component, optimizer: OptimizerConfig | Mapping[str, OptimizerConfig]
) -> list[Trainable]:
    """Return what a component trains: itself, or its networks with optimisers.

    Raises:
        ValueError: a network does not exist, or weights have no optimiser.
    """
    if isinstance(optimizer, OptimizerConfig):
        trained = [Trainable(name, component, optimizer)]
    else:
        networks = component.networks()
        if not optimizer:
            raise ValueError(f"`components.{name}.optimizer` must not be empty, got {optimizer}")
        if unknown := optimizer.keys() - networks.keys():
            raise ValueError(
                f"The keys of `components.{name}.optimizer` must be among {sorted(networks)}, "
                f"got {sorted(unknown)}"
            )
        trained = [Trainable(f"{name}_{k}", networks[k], x) for k, x in optimizer.items()]
        covered = {id(p) for each in trained for p in each.parameters}
        idle = [
            k for k, p in component.named_parameters() if p.requires_grad and id(p) not in covered
        ]
        if idle:
            raise ValueError(
                f"`components.{name}.optimizer` must cover all trainable weights, got none for "
                f"{idle[0]}; freeze it (requires_grad_(False)) or add an optimiser"
            )
    for each in trained:
        if not each.parameters:
            raise ValueError(
                f"`components.{name}` must have trainable weights, got none in {each.name}"
            )
    return trained
