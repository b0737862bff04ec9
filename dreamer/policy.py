"""Acting: policies that map steps of environments to actions.

The collector and the evaluation call them. They know the networks, but not how these learn.

`collect_policy` chooses the policy that collects after the prefill. Its `_target_` is a class or a
function, called with a `PolicyContext` and the other keys of the node; it returns a
`dreamer.collector.Policy`.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from dreamer.distributions import explore, gumbel_like
from dreamer.models.actor_critic import ActorCritic
from dreamer.models.world_model import WorldModel
from dreamer.types import ActionSpace, RSSMState, TimeStep, visible

STEPS_PER_DRAW = 128  # drawing actions for many steps at once saves 10 microseconds a step


class RandomPolicy:
    """Uniform actions."""

    def __init__(self, action_space: ActionSpace, seed: int):
        self.action_space = action_space
        self.rng = np.random.default_rng(seed)
        choices = action_space.choices or (action_space.size,)
        self._one_hots = [np.eye(options, dtype=np.float32) for options in choices]
        self._drawn: Iterator[np.ndarray] = iter(())

    def __call__(self, step: TimeStep, state: None) -> tuple[np.ndarray, None]:
        """Return actions (E, A): one-hot (for every choice), or in [-1, 1]."""
        action = next(self._drawn, None)
        if action is None or len(action) != len(step.is_first):
            self._drawn = iter(self._draw(STEPS_PER_DRAW, len(step.is_first)))
            action = next(self._drawn)
        return action, None

    def _draw(self, *shape: int) -> np.ndarray:
        """Draw actions (*shape, A)."""
        if self.action_space.discrete:
            return np.concatenate(
                [rows[self.rng.integers(len(rows), size=shape)] for rows in self._one_hots], -1
            )
        return self.rng.uniform(-1, 1, (*shape, self.action_space.size)).astype(np.float32)


class MemoryState(NamedTuple):
    """The memory of a Dreamer policy between steps."""

    latent: RSSMState  # (E, ...)
    action: Tensor  # (E, A), the last one


class PolicyNoise(NamedTuple):
    """The noise of one step; None is drawn when needed."""

    latent: Tensor | None = None  # (E, S, K), of the posterior's sample
    action: Tensor | None = None  # (E, A), of the sampled action
    exploration: Tensor | None = None  # (E, A), of the exploration


class DreamerPolicy:
    """Infers latent states from observations and acts with the actor.

    Actions are sampled in training and modes in evaluation; the latent state is sampled in both, as
    in the authors' code.
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
        self.generator: torch.Generator | None = None  # None: torch's global generator

    @property
    def _device(self) -> torch.device:
        return next(self.world_model.parameters()).device

    @torch.no_grad()
    def __call__(self, step: TimeStep, state: MemoryState | None) -> tuple[np.ndarray, MemoryState]:
        """Return actions (E, A) for a step, and the new memory; None starts anew."""
        device = self._device
        obs = {k: torch.from_numpy(x).to(device) for k, x in visible(step.obs).items()}
        is_first = torch.from_numpy(step.is_first).to(device)
        reward = is_terminal = None
        if self.world_model.encoder.reads_reward:
            reward = torch.from_numpy(step.reward).to(device)
            is_terminal = torch.from_numpy(step.is_terminal).to(device)
        state = self.act(obs, is_first, state, reward=reward, is_terminal=is_terminal)
        return state.action.cpu().numpy(), state

    def act(
        self,
        obs: dict[str, Tensor],
        is_first: Tensor,
        state: MemoryState | None = None,
        noise: PolicyNoise | None = None,
        *,
        reward: Tensor | None = None,
        is_terminal: Tensor | None = None,
    ) -> MemoryState:
        """Act on tensors.

        Args:
            obs: raw observations (E, *shape).
            is_first: (E,) bool; there the memory is reset.
            state: memory of the last step, None for zeros.
            noise: of the step; None draws it.
            reward: (E,) raw, of arriving at the observations; only needed with `reward_input`.
            is_terminal: (E,) bool; only needed with `reward_input`.
        """
        state = self._initial(len(is_first)) if state is None else state
        obs = self.world_model.encoder.inputs(obs, reward, is_terminal)
        return self._act(obs, is_first, state, noise or PolicyNoise())

    def _act(
        self, obs: dict[str, Tensor], is_first: Tensor, state: MemoryState, noise: PolicyNoise
    ) -> MemoryState:
        """Act as `act` does, with a memory and the encoder's inputs."""
        if not self.world_model.rssm.resets_actions:
            state = state._replace(action=state.action * (~is_first).unsqueeze(-1))
        latent_noise, action_noise, exploration_noise = self._fill_noise(state, noise)
        embed = self.world_model.encoder(obs)
        latent = self.world_model.rssm.obs_step(*state, embed, is_first, latent_noise)
        policy = self.actor_critic.policy(latent.features)
        if not self.sample_actions:
            return MemoryState(latent, policy.mode)
        action = policy.sample(action_noise)
        if exploration_noise is not None:
            action = self._explore(action, exploration_noise)
        return MemoryState(latent, action)

    def _fill_noise(
        self, state: MemoryState, noise: PolicyNoise
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Draw the noise that a step needs and that is not given."""
        latent, action, exploration = noise
        if latent is None:
            latent = self.world_model.rssm.latent.draw_noise(state.latent.stats, self.generator)
        if self.sample_actions and action is None:
            shape, device = state.action.shape[:1], state.action.device
            action = self.actor_critic.draw_noise(shape, device, self.generator)
        if self.sample_actions and self.exploration_noise > 0 and exploration is None:
            if self.actor_critic.discrete:
                exploration = gumbel_like(state.action, self.generator)
            else:
                exploration = torch.empty_like(state.action).normal_(generator=self.generator)
        return latent, action, exploration

    def _initial(self, count: int) -> MemoryState:
        """Return the memory before the first step of E environments."""
        action = torch.zeros((count, self.actor_critic.action_size), device=self._device)
        return MemoryState(self.world_model.rssm.initial(count), action)

    def _explore(self, action: Tensor, noise: Tensor) -> Tensor:
        """Add exploration noise: two (E, A) -> (E, A)."""
        if self.actor_critic.discrete:
            choices = self.actor_critic.choices
            return explore(action, self.exploration_noise, True, choices).sample(noise)
        return explore(action, self.exploration_noise, False).sample(noise).clamp(-1, 1)


class SnapshotPolicy(DreamerPolicy):
    """Acts with the weights of the last `refresh`, while another thread trains the agent.

    One thread refreshes and another acts, in turns. It has its own random generator, so that
    neither thread changes the draws of the other.
    """

    def __init__(
        self,
        world_model: WorldModel,
        actor_critic: ActorCritic,
        *,
        exploration_noise: float,
        seed: int,
        **options: Any,
    ):
        """Copy the networks that acting needs; the others are shared and not used.

        `options` go to the next base class of a subclass.
        """
        model, heads = world_model, actor_critic
        unused = (model.decoder, model.heads, model.auxiliary)
        unused += (heads.critic, heads.target_critic, heads.reward_norm)
        memo = {id(module): module for module in unused}
        super().__init__(
            copy.deepcopy(model, memo),
            copy.deepcopy(heads, memo),
            sample_actions=True,
            exploration_noise=exploration_noise,
            **options,
        )
        self._trained: list[Tensor] = [*_acting_parameters(model, heads)]
        self._copies: list[Tensor] = [*_acting_parameters(self.world_model, self.actor_critic)]
        self._seed = seed
        self._stream: torch.cuda.Stream | None = None

    @torch.no_grad()
    def refresh(self, policy_steps: int) -> None:
        """Copy the agent's weights, and seed the generator for this number of policy steps."""
        device = self._trained[0].device
        if self.generator is None or self.generator.device != device:
            self.world_model.to(device)
            self.actor_critic.to(device)
            self.generator = torch.Generator(device)
            self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        torch._foreach_copy_(self._copies, self._trained)
        # Seeded anew, so that a resumed run repeats its draws without a saved state.
        stream = np.random.SeedSequence([self._seed, policy_steps])
        self.generator.manual_seed(int(stream.generate_state(1, np.uint64)[0] >> 1))
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def __call__(self, step: TimeStep, state: MemoryState | None) -> tuple[np.ndarray, MemoryState]:
        """See `DreamerPolicy`; on a GPU in its own stream."""
        if self._stream is None:
            return super().__call__(step, state)
        with torch.cuda.stream(self._stream):
            return super().__call__(step, state)


class ExplorerThenActor:
    """Lets an explorer act until a number of policy steps, and the actor from then on."""

    def __init__(
        self,
        explorer: DreamerPolicy | RandomPolicy,
        actor: DreamerPolicy,
        until_policy_steps: int | None,
    ):
        """With `until_policy_steps` of None, the actor never acts."""
        self._explorer, self._actor = explorer, actor
        self._until = until_policy_steps
        self._policy = explorer

    def choose(self, policy_steps: int) -> None:
        """Decide who acts next, given the policy steps of the run."""
        is_over = self._until is not None and policy_steps >= self._until
        self._policy = self._actor if is_over else self._explorer

    def __call__(self, step: TimeStep, state: Any) -> tuple[np.ndarray, Any]:
        """See `Policy`. The memory survives the change from an explorer that infers latent states.

        After random actions, the actor begins without a memory.
        """
        return self._policy(step, state)


class PolicyContext(NamedTuple):
    """What a collecting policy is built from.

    With `collect=overlap` the policy acts in another thread while the agent learns. `actor` and
    `explorer` are safe there. A policy that uses `components` must copy their weights in a method
    `refresh(policy_steps)`, which is called before each collection.
    """

    actor: DreamerPolicy  # samples the agent's actions, `exploration_noise` included
    random: RandomPolicy  # uniform actions, as in the prefill
    explorer: DreamerPolicy | RandomPolicy | None  # that of `explore`; None with explore=none
    explore_policy_steps: int | None  # when the explorer ends, in policy steps; None: never
    obs_shapes: Mapping[str, tuple[int, ...]]  # by key, one observation: (C, 64, 64) or (O,)
    action_space: ActionSpace
    components: Mapping[str, nn.Module]  # of the agent, by name; every update changes them
    seed: int  # derived from the run's; differs after a resume


def choose_actor(context: PolicyContext) -> DreamerPolicy | ExplorerThenActor:
    """Return the policy of `collect_policy=actor`: the explorer first if there is one."""
    if context.explorer is None:
        return context.actor
    return ExplorerThenActor(context.explorer, context.actor, context.explore_policy_steps)


def choose_random(context: PolicyContext) -> RandomPolicy:
    """Return the policy of `collect_policy=random`."""
    return context.random


def _acting_parameters(model: WorldModel, heads: ActorCritic) -> Iterator[Parameter]:
    for module in (model.encoder, model.rssm, heads.actor):
        yield from module.parameters()
