"""Components: what learns beside the world model, the actor and the critic.

Examples are a probe of the features, an ensemble and an exploration policy. The agent builds those
that its configuration names, and trains them after its own networks. They see what an update has
computed. They know neither the agent nor the Trainer.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn import Parameter

from dreamer.models.world_model import WorldModel
from dreamer.optim import OptimizerConfig
from dreamer.types import ActionSpace, Batch, RSSMState, Trajectory

BUILT_IN = ("world_model", "actor", "critic")
# What else the first part of a metric's name may be.
AREAS = (
    *("imagine", "grad_norm", "observations", "collect", "eval", "replay", "perf", "video"),
    "updates",
)


class AgentShape(NamedTuple):
    """What a component may need to know of the agent when it is built."""

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
        """That of an agent with this world model."""
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
    """What an update has computed when the components have their turn; all tensors detached."""

    batch: Batch  # (T, B, ...), raw
    posterior: RSSMState  # (T, B, ...)
    prior_stats: Tensor  # (T, B, S, P)
    trajectory: Trajectory  # (H+1, N, ...), imagined from the posteriors
    policy_steps: int  # the clock of schedules; a CUDA graph keeps that of its capture
    world_model: WorldModel  # just updated; gradients pass through it, but do not change it


class ComponentOutput(NamedTuple):
    """What the loss of a component gives."""

    loss: Tensor  # ()
    metrics: Mapping[str, Tensor] = {}  # each (), by names without the component's


class Step(Protocol):
    """Runs the backward pass of a loss () and one step of the optimiser that minimises it.

    Where a component has several optimisers, `network` says which one.
    """

    def __call__(self, loss: Tensor, network: str = "") -> None:
        """See above."""
        ...


class Component(nn.Module):
    """Something that learns beside the agent's own networks, which it leaves as they are.

    A subclass defines `loss`. One with several optimisers defines `learn` instead. Neither may
    wait for the device (`.item()`, `if tensor`), or CUDA graphs cannot capture the update.
    """

    def loss(self, context: UpdateContext) -> ComponentOutput:
        """What this component minimises."""
        raise NotImplementedError

    def learn(self, context: UpdateContext, step: Step) -> Mapping[str, Tensor]:
        """One update; returns metrics like those of `ComponentOutput`, `loss` and norms apart."""
        output = self.loss(context)
        step(output.loss)
        return output.metrics

    def end_update(self, update: int) -> None:
        """Do what depends on the number of the update (0, 1, ...): move a slow copy, for instance.

        It is no part of a captured update.
        """


class ComponentConfig(Protocol):
    """Every choice of a component. Any class with these two will do."""

    @property
    def optimizer(self) -> OptimizerConfig | Mapping[str, OptimizerConfig]:
        """That of all weights; or several, by the names of the networks that they train."""
        ...

    def build(self, shape: AgentShape) -> Component:
        """Make the networks."""
        ...


class Trainable(NamedTuple):
    """What one optimiser trains."""

    name: str  # in metrics and errors
    network: nn.Module
    optimizer: OptimizerConfig

    @property
    def parameters(self) -> list[Parameter]:
        """Those that learn."""
        return [p for p in self.network.parameters() if p.requires_grad]


def check_components(configs: Mapping[str, ComponentConfig]) -> None:
    """Refuse names and configurations that cannot be.

    Raises:
        ValueError: naming what is wrong.
    """
    for name, config in configs.items():
        if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                "Expect a component's name to be letters, digits and underscores, and no word that "
                f"torch has taken, actually: {name}"
            )
        if name in (*BUILT_IN, *AREAS):
            raise ValueError(
                f"A component's name must differ from {(*BUILT_IN, *AREAS)}, got {name}"
            )
        if not (callable(getattr(config, "build", None)) and hasattr(config, "optimizer")):
            raise ValueError(
                f"Expect `components.{name}` to be a configuration with `optimizer` and `build` "
                f"(_target_= names its class), actually: {config}"
            )


def build_components(
    configs: Mapping[str, ComponentConfig], shape: AgentShape
) -> dict[str, Component]:
    """Build what the configurations describe.

    Raises:
        TypeError: what was built is no component, or it has no loss.
    """
    components = {}
    for name, config in configs.items():
        component = config.build(shape)
        if not isinstance(component, Component):
            raise TypeError(
                f"Expect `components.{name}` to build a dreamer.components.Component, "
                f"actually: {type(component).__name__}"
            )
        kind = type(component)
        if kind.loss is Component.loss and kind.learn is Component.learn:
            raise TypeError(f"Expect {kind.__name__} (`components.{name}`) to define `loss`")
        components[name] = component
    return components


def trained_by(
    name: str, component: nn.Module, optimizer: OptimizerConfig | Mapping[str, OptimizerConfig]
) -> list[Trainable]:
    """All that a component trains: itself, or the networks of it that have optimisers.

    Raises:
        ValueError: there is no such network, or it has no weights that learn.
    """
    if isinstance(optimizer, OptimizerConfig):
        trained = [Trainable(name, component, optimizer)]
    else:
        networks = dict(component.named_children())
        if not optimizer:
            raise ValueError(f"Expect `components.{name}.optimizer` to have an optimiser")
        if unknown := optimizer.keys() - networks.keys():
            raise ValueError(
                f"Expect the keys of `components.{name}.optimizer` among {sorted(networks)}, "
                f"actually: {sorted(unknown)}"
            )
        trained = [Trainable(f"{name}_{k}", networks[k], x) for k, x in optimizer.items()]
        covered = {id(p) for each in trained for p in each.parameters}
        idle = [
            k for k, p in component.named_parameters() if p.requires_grad and id(p) not in covered
        ]
        if idle:
            raise ValueError(
                f"`components.{name}.optimizer` must cover all weights that learn, got none for "
                f"{idle[0]}; freeze it (requires_grad_(False)) or add an optimiser"
            )
    for each in trained:
        if not each.parameters:
            raise ValueError(
                f"Expect `components.{name}` to have weights that learn, in {each.name}"
            )
    return trained
