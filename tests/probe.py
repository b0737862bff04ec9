"""A component as users write them, outside the package: it reads a vector from the features."""

from dataclasses import dataclass

import torch
from torch import nn

from dreamer.components import AgentShape, Component, ComponentOutput, UpdateContext
from dreamer.optim import OptimizerConfig


class Probe(Component):
    """How well one linear layer predicts an observation from what the agent knows."""

    def __init__(self, feature_size: int, key: str, size: int):
        super().__init__()
        self.key = key
        self.layer = nn.Linear(feature_size, size)

    def loss(self, context: UpdateContext) -> ComponentOutput:
        target = context.batch.obs[self.key].float().flatten(2)  # (T, B, O)
        error = self.layer(context.posterior.features) - target[..., : self.layer.out_features]
        loss = error.square().mean()
        return ComponentOutput(loss, {"worst": error.abs().max()})


@dataclass(frozen=True)
class ProbeConfig:
    optimizer: OptimizerConfig
    key: str
    size: int

    def build(self, shape: AgentShape) -> Probe:
        return Probe(shape.feature_size, self.key, self.size)


class Explorer(Component):
    """Two networks with an optimiser each; one learns in dreams of its own."""

    def __init__(self, shape: AgentShape):
        super().__init__()
        self.reward = nn.Linear(shape.feature_size, 1)
        self.actor = nn.Linear(shape.feature_size, shape.action_space.size)
        self.ended: list[int] = []

    def learn(self, context, step):
        features = context.posterior.features
        step(self.reward(features).square().mean(), "reward")
        trajectory = context.world_model.imagine(
            context.posterior.flatten_time(),
            context.batch.is_terminal.flatten(),
            lambda features, noise: torch.tanh(self.actor(features)),
            3,
        )
        # The reward's network has weights in this loss, too.
        step(-self.reward(trajectory.features).mean(), "actor")
        return {"imagined": trajectory.features.mean()}

    def end_update(self, update: int) -> None:
        self.ended.append(update)


@dataclass(frozen=True)
class ExplorerConfig:
    optimizer: dict[str, OptimizerConfig]

    def build(self, shape: AgentShape) -> Explorer:
        return Explorer(shape)
