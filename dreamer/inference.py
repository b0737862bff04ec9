"""A trained agent for programs: acts, encodes and imagines, with NumPy arrays in and out.

`dreamer.load` makes one. It knows the networks and the codec, but no run folder and no environment.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.envs.codecs import SpaceCodec
from dreamer.models.actor_critic import ActorCritic
from dreamer.policy import DreamerPolicy, MemoryState
from dreamer.tensor_file import SUFFIX, save_tensors
from dreamer.types import RSSMState

# observations   o0   o1   o2   o3             a context of T = 4
# actions          a0   a1   a2 | a3   a4       a_t was chosen at o_t; a3 and a4 are imagined
# dream                         |    d0   d1    predictions after each imagined action


class Dream(NamedTuple):
    """H steps that the world model predicts after a context; for B sequences, (H, B, ...)."""

    observations: dict[str, np.ndarray]  # as the model encodes them: (H, C, 64, 64) uint8, (H, O)
    actions: Any  # (H, ...) of the environment's space; the action that led to each step
    rewards: np.ndarray  # (H,) means, after the `reward_transform`, in the unit of the model
    discounts: np.ndarray  # (H,) gamma times the probability that the episode continues
    features: np.ndarray  # (H, F)


class _Context(NamedTuple):
    """One or B sequences as tensors."""

    obs: dict[str, Tensor]  # (T, B, *shape)
    actions: Tensor  # (T - 1 + H, B, A) at most; chosen at the step of the same index
    is_first: Tensor  # (T, B)
    batched: bool  # false: one sequence without a batch axis, B = 1
    reward: Tensor | None  # (T, B), if the agent reads it
    is_terminal: Tensor | None  # (T, B), the same


class TrainedAgent:
    """A trained agent: `networks` are torch modules, `codec` converts inputs and outputs."""

    def __init__(
        self,
        networks: DreamerAgent,
        codec: SpaceCodec,
        actor_critic: ActorCritic | None = None,
        *,
        sample_actions: bool,
        make_env: Callable[[], gymnasium.Env] | None = None,
    ):
        """Make the agent act.

        Args:
            networks: The agent.
            codec: Converts observations and actions.
            actor_critic: What acts, such as the explorer's; None: the agent's own.
            sample_actions: Sample actions as in training; else use the actor's mode.
            make_env: Makes the environment that the agent was trained in; None: nobody knows it.
        """
        self._make_env = make_env
        self.networks = networks.eval()
        self.codec = codec
        self.actor_critic = networks.actor_critic if actor_critic is None else actor_critic
        self.frames, self.updates = networks.frames, networks.updates
        self.step_policy = DreamerPolicy(  # for a group of environments: TimeStep -> (E, A)
            networks.world_model, self.actor_critic, sample_actions=sample_actions
        )

    def make_env(self) -> gymnasium.Env:
        """Make one environment like those that the agent was trained in.

        `policy` takes what its `reset` and `step` return, and its `step` takes what `policy`
        returns. A step is a policy step, as in training: the action repeat is in it.

        Raises:
            ValueError: It is not known how to make it, or the run names code that is not allowed.
            ImportError: A package that it needs is not installed.
        """
        if self._make_env is None:
            raise ValueError("The agent must come from `dreamer.load` to know its environment.")
        return self._make_env()

    def save_weights(self, path: str | Path) -> None:
        """Write all weights in the format safetensors, which other programs read, and `init_from`.

        Args:
            path: Ends with `.safetensors`.

        Raises:
            ValueError: The path ends differently.
        """
        path = Path(path)
        if path.suffix != SUFFIX:
            raise ValueError(f"`path` must end with {SUFFIX}, got {path}")
        counters = {"frames": str(self.frames), "updates": str(self.updates)}
        save_tensors(path, self.networks.state_dict(), counters)

    def policy(
        self,
        observation: Any,
        state: MemoryState | None = None,
        *,
        is_first: Any = None,
        reward: Any = None,
        is_terminal: Any = None,
    ) -> tuple[Any, MemoryState]:
        """Choose the next action in one environment or in B environments.

        The latent state is sampled with torch's global generator.

        Args:
            observation: Of one step, or of B with a leading axis.
            state: Returned at the previous step; None starts an episode.
            is_first: (B,) bool, where a new episode starts; None: only without a state.
            reward: Of arriving at the observation, raw, a number or (B,). Only agents that were
                trained with `reward_input` read it; None without a state is 0.
            is_terminal: Whether the episode has ended there, bool or (B,); None: no.

        Returns:
            The action of the environment's space, of one step or (B, ...) like the observation,
            and the state for the next call.

        Raises:
            ValueError: The observation does not match the environment's space, or the state has
                another number of environments, or a reward that is needed is missing.
        """
        obs, leading = self.codec.encode_observations(observation)
        if len(leading) > 1:
            raise ValueError(f"`observation` must be one or (B, ...), got {leading} observations")
        count = leading[0] if leading else 1
        if state is not None and len(state.action) != count:
            raise ValueError(
                f"`state` must be of {count} environments, like the observations, got "
                f"{len(state.action)}. Pass None to start new episodes."
            )
        first = np.zeros(count, bool) if is_first is None else np.atleast_1d(is_first).astype(bool)
        if first.shape != (count,):
            raise ValueError(f"`is_first` must have shape ({count},), got {first.shape}")
        tensors = {k: self._tensor(x if leading else x[None]) for k, x in obs.items()}
        with torch.no_grad():
            arrived = self._arrived((count,), reward, is_terminal, required=state is not None)
            state = self.step_policy.act(
                tensors, self._tensor(first), state, reward=arrived[0], is_terminal=arrived[1]
            )
        actions = state.action.cpu().numpy()
        return self.codec.decode_actions(actions if leading else actions[0]), state

    def encode(
        self,
        observations: Any,
        actions: Any,
        *,
        is_first: Any = None,
        rewards: Any = None,
        is_terminal: Any = None,
    ) -> np.ndarray:
        """Compute the posterior features of one sequence or of B sequences.

        Args:
            observations: (T, ...) or (T, B, ...).
            actions: Chosen at the observations, (T - 1, ...); an action at the last is ignored.
            is_first: (T,) or (T, B) bool, where episodes start; None: at the first step only.
            rewards: (T,) or (T, B) raw, of arriving at the observations. Only agents that were
                trained with `reward_input` read them, and need them if T is more than 1.
            is_terminal: (T,) or (T, B) bool, where an episode has ended; None: nowhere.

        Returns:
            (T, F) or (T, B, F) float32: the sampled stochastic state and the deterministic one.

        Raises:
            ValueError: Observations or actions do not match the environment's spaces, or their
                numbers do not match each other.
        """
        context = self._read(observations, actions, is_first, (rewards, is_terminal), imagined=0)
        with torch.no_grad():
            features = self._observe(context).features
        return self._numpy(features, context.batched)

    def imagine(
        self,
        observations: Any,
        actions: Any,
        horizon: int,
        *,
        is_first: Any = None,
        rewards: Any = None,
        is_terminal: Any = None,
    ) -> Dream:
        """Imagine H steps after a context.

        Args:
            observations: The context, (T, ...) or (T, B, ...).
            actions: Chosen at the observations, (T - 1, ...), followed by up to H actions to
                imagine with; the actor chooses the remaining ones.
            horizon: H, steps to imagine.
            is_first: See `encode`.
            rewards: See `encode`.
            is_terminal: See `encode`.

        Raises:
            ValueError: As in `encode`, or `horizon` is not positive.
        """
        if horizon < 1:
            raise ValueError(f"`horizon` must be at least 1, got {horizon}")
        arrived = rewards, is_terminal
        context = self._read(observations, actions, is_first, arrived, imagined=horizon)
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

    def _read(
        self,
        observations: Any,
        actions: Any,
        is_first: Any,
        arrived: tuple[Any, Any],
        *,
        imagined: int,
    ) -> _Context:
        obs, leading = self.codec.encode_observations(observations)
        if len(leading) not in (1, 2) or 0 in leading:
            raise ValueError(
                "`observations` must be (T, ...) or (T, B, ...) with T of at least 1, got "
                f"{leading} observations"
            )
        length, batch = leading[0], leading[1:]
        size = self.networks.action_space.size
        done = np.zeros((0, *batch, size), np.float32)
        if length > 1 or len(actions):
            done = self.codec.encode_actions(actions)
        most = length - 1 + max(imagined, 1)
        if done.shape[1:-1] != batch or not length - 1 <= len(done) <= most:
            raise ValueError(
                f"`actions` must be {length - 1} to {most} for {length} observations"
                f"{f' of {batch[0]} sequences' if batch else ''}, got {done.shape[:-1]}"
            )
        first = np.zeros(leading, bool) if is_first is None else np.array(is_first, bool)
        if first.shape != leading:
            raise ValueError(f"`is_first` must have shape {leading}, got {first.shape}")
        first[0] = True
        axis = () if batch else (1,)
        return _Context(
            {k: self._tensor(np.expand_dims(x, axis)) for k, x in obs.items()},
            self._tensor(np.expand_dims(done, axis)),
            self._tensor(np.expand_dims(first, axis)),
            bool(batch),
            *(
                None if x is None else x.reshape(length, -1)
                for x in self._arrived(leading, *arrived, required=length > 1)
            ),
        )

    def _arrived(
        self, leading: tuple[int, ...], reward: Any, is_terminal: Any, *, required: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return reward and terminal (*leading); None if the agent does not read them.

        Raises:
            ValueError: The reward is missing though required, or has another shape.
        """
        if not self.networks.world_model.encoder.reads_reward:
            return None, None
        if reward is None and required:
            raise ValueError(
                "`reward` (`rewards` of a sequence) must be given, got None: the agent was trained "
                "with reward_input=true"
            )
        values = {
            "reward": np.zeros(leading, np.float32) if reward is None else np.float32(reward),
            "is_terminal": np.zeros(leading, bool)
            if is_terminal is None
            else np.asarray(is_terminal, bool),
        }
        for key, value in values.items():
            if value.shape != leading and (value.shape, leading) != ((), (1,)):
                raise ValueError(f"`{key}` must have shape {leading}, got {value.shape}")
        first, second = (self._tensor(np.reshape(x, leading)) for x in values.values())
        return first, second

    def _observe(self, context: _Context) -> RSSMState:
        """Return the posterior states (T, B, ...) of a context."""
        model = self.networks.world_model
        done = context.actions[: len(context.is_first) - 1]
        prev_action = torch.cat([done.new_zeros(1, *done.shape[1:]), done])
        embed = model.encode(context.obs, context.reward, context.is_terminal)
        return model.rssm.observe(embed, prev_action, context.is_first)

    def _choose(self, features: Tensor) -> Tensor:
        policy = self.actor_critic.policy(features)
        return policy.sample() if self.step_policy.sample_actions else policy.mode

    def _decode(self, features: Tensor) -> dict[str, Tensor]:
        """Return the modes of the predicted observations (..., *shape), images as uint8."""
        decoder = self.networks.world_model.decoder
        modes = {key: x.mode for key, x in decoder(features).items()}
        for key in decoder.image_keys:
            modes[key] = ((modes[key] + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return modes

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.networks.device)

    def _numpy(self, tensor: Tensor, batched: bool) -> np.ndarray:
        """Convert (T, B, ...) to NumPy; to (T, ...) if there was no batch axis."""
        return (tensor if batched else tensor[:, 0]).cpu().numpy()
