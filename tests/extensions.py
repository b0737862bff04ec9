"""Parts as users write them, outside the package: a policy, a sampler, latents, environments."""

from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from dreamer.envs.dummy import make_dummy
from dreamer.exploration import Explorer, ExplorerConfig
from dreamer.models.heads import Head, HeadConfig
from dreamer.models.latents import CategoricalLatent
from dreamer.policy import PolicyContext
from dreamer.replay.sampling import Experience


class Mixed:
    """The actor's actions, or random ones; notes what it is given."""

    made: list["Mixed"] = []

    def __init__(self, context: PolicyContext, *, random_share: float):
        self.context, self.random_share = context, random_share
        self.rng = np.random.default_rng(context.seed)
        self.steps, self.random_steps, self.refreshed = 0, 0, []
        Mixed.made.append(self)

    def __call__(self, step, state):
        self.steps += 1
        actions, state = self.context.actor(step, state)
        if self.rng.random() < self.random_share:
            self.random_steps += 1
            actions, _ = self.context.random(step, None)
        return actions, state._replace(action=torch.from_numpy(actions).to(state.action))

    def refresh(self, policy_steps: int) -> None:
        self.refreshed.append(policy_steps)


def stubborn(context: PolicyContext):
    """A policy that is a function, and gives no array."""
    return lambda step, state: ([[1.0, 0.0]], state)


def no_policy(context: PolicyContext) -> int:
    """No policy at all."""
    return 3


class Recent:
    """Sequences from the newest part of what is held."""

    def __init__(self, experience: Experience, window_policy_steps: int):
        self.experience, self.window = experience, window_policy_steps

    def can_sample(self, length: int) -> bool:
        return len(self._starts(length)) > 0

    def propose(self, generator: np.random.Generator, count: int, length: int) -> np.ndarray:
        starts = generator.choice(self._starts(length), count)
        envs = generator.integers(self.experience.files.env_count, size=count)
        return np.stack([envs, starts], 1)[self.experience.is_valid(envs, starts, length)]

    def _starts(self, length: int) -> np.ndarray:
        files = self.experience.files
        return np.arange(max(files.oldest, files.steps - self.window), files.steps - length + 1)


@dataclass(frozen=True)
class UniformMix(CategoricalLatent):
    """Classes that are never quite impossible."""

    share: float

    def to_stats(self, outputs: Tensor) -> Tensor:
        probs = super().to_stats(outputs).softmax(-1)
        return ((1 - self.share) * probs + self.share / self.classes).log()


@dataclass(frozen=True, kw_only=True)
class CuriosityConfig(ExplorerConfig):
    """Seeks what a network cannot yet predict about the outputs of another, random one."""

    predictor: HeadConfig
    outputs: int

    def build(self, shape):
        return Curiosity(self, shape)


class Curiosity(Explorer):
    def __init__(self, config: CuriosityConfig, shape):
        super().__init__(config, shape)
        self.predictor = Head(shape.feature_size, (config.outputs,), config.predictor)
        self.random = nn.Linear(shape.feature_size, config.outputs).requires_grad_(False)

    def networks(self):
        return {"predictor": self.predictor} | super().networks()

    def learn_predictions(self, context, step):
        error = self.error(context.posterior.features)  # (T, B)
        step(error.mean(), "predictor")
        return {"error": error.mean()}

    def intrinsic_reward(self, trajectory):
        return self.error(trajectory.features)

    def error(self, features: Tensor) -> Tensor:
        """(..., F) -> (...)."""
        return (self.predictor(features).mean - self.random(features)).square().mean(-1)


def make_memory(task: str, *, seed: int, count: int, **options):
    """A group of environments."""
    return make_dummy(task, seed=seed, count=count, **options)


class Lamp(gymnasium.Env):
    """Press the button that is lit."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length: int = 6):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._light(), {}

    def step(self, action):
        self.time += 1
        reward = float(action == self.lit)
        return self._light(), reward, False, self.time == self.length, {}

    def _light(self):
        self.lit = int(self.np_random.integers(2))
        return np.eye(2, dtype=np.float32)[self.lit]


def make_lamp(**options):
    """One environment, where a group is asked for."""
    return Lamp()


def make_one_of(task: str, **kwargs):
    """One environment of a suite."""
    if task != "lamp":
        raise ValueError(f"Unknown task {task}, expected: lamp")
    return Lamp(**kwargs)
