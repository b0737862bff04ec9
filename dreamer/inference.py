"""A trained agent, for programs: NumPy in and out, in the terms of its environment.

`dreamer.load` makes one. It knows the networks and the terms, but neither a run folder nor an
environment.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.envs.codecs import SpaceCodec
from dreamer.policy import DreamerPolicy, MemoryState
from dreamer.types import RSSMState

# observations   o0   o1   o2   o3             a context of T = 4
# actions          a0   a1   a2 | a3   a4       a_t was chosen at o_t; from a3 on they are dreamt
# dream                         |    d0   d1    what is expected on arriving there


class Dream(NamedTuple):
    """H steps that the world model expects after a context; for B sequences, (H, B, ...)."""

    observations: dict[str, np.ndarray]  # as the model sees them: (H, C, 64, 64) uint8, (H, O)
    actions: Any  # (H, ...) in the user's terms; the one that led to each step
    rewards: np.ndarray  # (H,) means, as the model learns them: see `reward_transform`
    discounts: np.ndarray  # (H,) gamma times the probability that the episode goes on
    features: np.ndarray  # (H, F)


class _Context(NamedTuple):
    """A sequence, or B of them, in our words."""

    obs: dict[str, Tensor]  # (T, B, *shape)
    actions: Tensor  # (T - 1 + dreamt, B, A) at most; chosen at the step of the same index
    is_first: Tensor  # (T, B)
    batched: bool  # or one sequence, B = 1


class TrainedAgent:
    """Acts, dreams and encodes; `networks` are torch's, `terms` what it observes and does."""

    def __init__(self, networks: DreamerAgent, codec: SpaceCodec, *, sample_actions: bool):
        """`sample_actions`: act as in training; else with the mode of the actor."""
        self.networks = networks.eval()
        self.codec = codec
        self.frames, self.updates = networks.frames, networks.updates
        self.step_policy = DreamerPolicy(  # for a group of environments: TimeStep -> (E, A)
            networks.world_model, networks.actor_critic, sample_actions=sample_actions
        )

    def policy(
        self, observation: Any, state: MemoryState | None = None, *, is_first: Any = None
    ) -> tuple[Any, MemoryState]:
        """Choose what to do next, in one environment or in B at once.

        The latent state is sampled, from torch's global generator.

        Args:
            observation: of one step, or of B with a leading axis.
            state: what this method returned at the step before; None begins an episode.
            is_first: (B,) bool, where a new episode begins; None: where there is no state.

        Returns:
            The action in the environment's terms, of one step or (B, ...) like the observation:
            a number for a choice, an array for a Box, and so on. And the state.

        Raises:
            ValueError: the observation is none of this environment, or the state of another count.
        """
        obs, leading = self.codec.encode_observations(observation)
        if len(leading) > 1:
            raise ValueError(f"Expect one observation or (B, ...), actually: {leading} of them")
        count = leading[0] if leading else 1
        if state is not None and len(state.action) != count:
            raise ValueError(
                f"Expect a `state` of {count} environments, as there are observations, actually "
                f"of {len(state.action)}. None begins an episode everywhere."
            )
        first = np.zeros(count, bool) if is_first is None else np.atleast_1d(is_first).astype(bool)
        if first.shape != (count,):
            raise ValueError(f"Expect `is_first` of shape ({count},), actually: {first.shape}")
        tensors = {k: self._tensor(x if leading else x[None]) for k, x in obs.items()}
        with torch.no_grad():
            state = self.step_policy.act(tensors, self._tensor(first), state)
        actions = state.action.cpu().numpy()
        return self.codec.decode_actions(actions if leading else actions[0]), state

    def encode(self, observations: Any, actions: Any, *, is_first: Any = None) -> np.ndarray:
        """Infer what the agent knows at every step of a sequence, or of B sequences.

        Args:
            observations: (T, ...) or (T, B, ...).
            actions: those chosen at the observations, (T - 1, ...); one at the last is ignored.
            is_first: (T,) or (T, B) bool, where episodes begin; None: at the first step only.

        Returns:
            (T, F) or (T, B, F) float32: the stochastic state, sampled, and the deterministic one.

        Raises:
            ValueError: observations or actions are none of this environment, or their numbers
                do not go together.
        """
        context = self._read(observations, actions, is_first, dreamt=0)
        with torch.no_grad():
            features = self._observe(context).features
        return self._numpy(features, context.batched)

    def imagine(
        self, observations: Any, actions: Any, horizon: int, *, is_first: Any = None
    ) -> Dream:
        """Dream on from what was observed.

        Args:
            observations: the context, (T, ...) or (T, B, ...).
            actions: those chosen at the observations, (T - 1, ...), and after them those to dream
                with, up to H; where they end, the actor chooses.
            horizon: H, steps to dream.
            is_first: see `encode`.

        Raises:
            ValueError: as `encode`, or `horizon` is not positive.
        """
        if horizon < 1:
            raise ValueError(f"Expect `horizon` to be at least 1, actually: {horizon}")
        context = self._read(observations, actions, is_first, dreamt=horizon)
        given = iter(context.actions[len(context.is_first) - 1 :])

        def choose(features: Tensor, noise: Tensor | None) -> Tensor:
            action = next(given, None)
            return self._choose(features) if action is None else action

        model = self.networks.world_model
        with torch.no_grad():
            start = self._observe(context).at(-1)
            dream = model.imagine(start, None, choose, horizon)

            features = dream.features[1:]  # the first is the end of the context
            predictions = self._decode(features)
        batched = context.batched
        return Dream(
            {key: self._numpy(x, batched) for key, x in predictions.items()},
            self.codec.decode_actions(self._numpy(dream.prev_action[1:], batched)),
            self._numpy(dream.reward[1:], batched),
            self._numpy(dream.discount[1:], batched),
            self._numpy(features, batched),
        )

    def _read(self, observations: Any, actions: Any, is_first: Any, *, dreamt: int) -> _Context:
        obs, leading = self.codec.encode_observations(observations)
        if len(leading) not in (1, 2) or 0 in leading:
            raise ValueError(
                f"Expect sequences of observations, (T, ...) or (T, B, ...), actually: {leading} "
                "of them"
            )
        length, batch = leading[0], leading[1:]
        size = self.networks.action_space.size
        done = np.zeros((0, *batch, size), np.float32)
        if length > 1 or len(actions):
            done = self.codec.encode_actions(actions)
        most = length - 1 + max(dreamt, 1)
        if done.shape[1:-1] != batch or not length - 1 <= len(done) <= most:
            raise ValueError(
                f"Expect {length - 1} to {most} actions for {length} observations"
                f"{f' of {batch[0]} sequences' if batch else ''}, actually: {done.shape[:-1]}"
            )
        first = np.zeros(leading, bool) if is_first is None else np.array(is_first, bool)
        if first.shape != leading:
            raise ValueError(f"Expect `is_first` of shape {leading}, actually: {first.shape}")
        first[0] = True
        axis = () if batch else (1,)
        return _Context(
            {k: self._tensor(np.expand_dims(x, axis)) for k, x in obs.items()},
            self._tensor(np.expand_dims(done, axis)),
            self._tensor(np.expand_dims(first, axis)),
            bool(batch),
        )

    def _observe(self, context: _Context) -> RSSMState:
        """The posteriors (T, B, ...) of a context."""
        model = self.networks.world_model
        done = context.actions[: len(context.is_first) - 1]
        prev_action = torch.cat([done.new_zeros(1, *done.shape[1:]), done])
        return model.rssm.observe(model.encoder(context.obs), prev_action, context.is_first)

    def _choose(self, features: Tensor) -> Tensor:
        policy = self.networks.actor_critic.policy(features)
        return policy.sample() if self.step_policy.sample_actions else policy.mode

    def _decode(self, features: Tensor) -> dict[str, Tensor]:
        """The most likely observations (..., *shape), images as uint8."""
        decoder = self.networks.world_model.decoder
        modes = {key: x.mode for key, x in decoder(features).items()}
        for key in decoder.image_keys:
            modes[key] = ((modes[key] + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return modes

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.networks.device)

    def _numpy(self, tensor: Tensor, batched: bool) -> np.ndarray:
        """(T, B, ...) as NumPy; (T, ...) where there is one sequence and no batch."""
        return (tensor if batched else tensor[:, 0]).cpu().numpy()
