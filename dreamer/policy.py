"""Acting: policies that turn what an environment shows into actions.

The collector and the evaluation call them. They know the networks but nothing of learning.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer.distributions import explore
from dreamer.models.actor_critic import ActorCritic
from dreamer.models.world_model import WorldModel
from dreamer.types import ActionSpace, RSSMState, TimeStep


class RandomPolicy:
    """Uniform actions; without memory."""

    def __init__(self, action_space: ActionSpace, seed: int):
        self.action_space = action_space
        self.rng = np.random.default_rng(seed)

    def __call__(self, step: TimeStep, state: None) -> tuple[np.ndarray, None]:
        """Actions (E, A): one-hot, or in [-1, 1]."""
        count, size = len(step.is_first), self.action_space.size
        if self.action_space.discrete:
            choices = self.rng.integers(size, size=count)
            return np.eye(size, dtype=np.float32)[choices], None
        return self.rng.uniform(-1, 1, (count, size)).astype(np.float32), None


class MemoryState(NamedTuple):
    """What a Dreamer policy remembers between steps."""

    latent: RSSMState  # (E, ...)
    action: Tensor  # (E, A), the last one


class DreamerPolicy:
    """Filters observations into latent states and lets the actor choose.

    Sampled actions while training, their mode in evaluation; the latent state is sampled in both,
    as in the authors' code.
    """

    def __init__(
        self,
        world_model: WorldModel,
        actor_critic: ActorCritic,
        *,
        sample_actions: bool,
        exploration_noise: float = 0.0,
    ):
        """`exploration_noise` is added to sampled actions; see `distributions.explore`."""
        self.world_model = world_model
        self.actor_critic = actor_critic
        self.sample_actions = sample_actions
        self.exploration_noise = exploration_noise

    @property
    def _device(self) -> torch.device:
        return next(self.world_model.parameters()).device

    @torch.no_grad()
    def __call__(self, step: TimeStep, state: MemoryState | None) -> tuple[np.ndarray, MemoryState]:
        """One step of E environments -> actions (E, A) and the new memory; None starts afresh."""
        obs = {k: torch.from_numpy(x).to(self._device) for k, x in step.obs.items()}
        is_first = torch.from_numpy(step.is_first).to(self._device)
        state = self.act(obs, is_first, state)
        return state.action.cpu().numpy(), state

    def act(
        self,
        obs: dict[str, Tensor],
        is_first: Tensor,
        state: MemoryState | None = None,
        *,
        latent_noise: Tensor | None = None,
        action_noise: Tensor | None = None,
    ) -> MemoryState:
        """The same on tensors.

        Args:
            obs: raw observations (E, *shape).
            is_first: (E,) bool; there the memory starts afresh.
            state: memory of the last step, None for zeros.
            latent_noise: (E, S, K) that decides the posterior's sample; None draws it.
            action_noise: (E, A) that decides the sampled action; None draws it.
        """
        count = len(is_first)
        if state is None:
            action = torch.zeros((count, self.actor_critic.action_size), device=is_first.device)
            state = MemoryState(self.world_model.rssm.initial(count), action)
        embed = self.world_model.embed(obs)
        latent = self.world_model.rssm.obs_step(*state, embed, is_first, latent_noise)
        policy = self.actor_critic.policy(latent.features)
        if not self.sample_actions:
            return MemoryState(latent, policy.mode)
        action = policy.sample(action_noise)
        if self.exploration_noise > 0:
            discrete = self.actor_critic.discrete
            action = explore(action, self.exploration_noise, discrete).sample()
            action = action if discrete else action.clamp(-1, 1)
        return MemoryState(latent, action)
