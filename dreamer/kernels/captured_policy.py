"""Policies as CUDA graphs: captured after a few calls, then replayed.

`build.py` makes them if `cuda_graphs` is on. `policy.py` defines what they compute.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dreamer.kernels.cuda_graph import Capture, CapturedFunction
from dreamer.models.actor_critic import ActorCritic
from dreamer.models.world_model import WorldModel
from dreamer.policy import DreamerPolicy, MemoryState, PolicyNoise, SnapshotPolicy
from dreamer.types import RSSMState


class CapturedPolicy(DreamerPolicy):
    """Acts by replaying CUDA graphs, one for each number of environments.

    A returned memory is valid until the next call. Weights may change in place, but not move.
    """

    def __init__(
        self,
        world_model: WorldModel,
        actor_critic: ActorCritic,
        *,
        make_capture: Callable[[], Capture],
        sample_actions: bool,
        exploration_noise: float = 0.0,
    ):
        """Like `DreamerPolicy`; `make_capture` makes the object that captures each graph."""
        super().__init__(
            world_model,
            actor_critic,
            sample_actions=sample_actions,
            exploration_noise=exploration_noise,
        )
        self._make_capture = make_capture
        self._captures_automatically = True
        # By E and the names of the given noise.
        self._captured: dict[tuple[int | str, ...], CapturedFunction] = {}

    def _act(
        self, obs: dict[str, Tensor], is_first: Tensor, state: MemoryState, noise: PolicyNoise
    ) -> MemoryState:
        given = [n for n, x in zip(PolicyNoise._fields, noise, strict=True) if x is not None]
        captured = self._captured.get(key := (len(is_first), *given))
        if captured is None:
            captured = self._captured[key] = self._start(list(obs), given)
        noises = (x for x in noise if x is not None)
        action, *latent = captured(is_first, state.action, *state.latent, *obs.values(), *noises)
        return MemoryState(RSSMState(*latent), action)

    def _start(self, obs_keys: list[str], given: list[str]) -> CapturedFunction:
        """Turn `_act` into a function from tensors to tensors, the given noise included."""
        plain = super()._act

        def act(is_first: Tensor, action: Tensor, *others: Tensor) -> list[Tensor]:
            latent, others = RSSMState(*others[:3]), others[3:]
            obs = dict(zip(obs_keys, others, strict=False))
            noise = PolicyNoise(**dict(zip(given, others[len(obs) :], strict=True)))
            state = plain(obs, is_first, MemoryState(latent, action), noise)
            return [state.action, *state.latent]

        return CapturedFunction(act, self._make_capture(), automatic=self._captures_automatically)


class CapturedSnapshotPolicy(SnapshotPolicy, CapturedPolicy):
    """Acts with the weights of the last `refresh`, by replaying CUDA graphs."""

    def __init__(
        self,
        world_model: WorldModel,
        actor_critic: ActorCritic,
        *,
        make_capture: Callable[[], Capture],
        exploration_noise: float,
        seed: int,
    ):
        """Like `SnapshotPolicy` and `CapturedPolicy`."""
        super().__init__(
            world_model,
            actor_critic,
            exploration_noise=exploration_noise,
            seed=seed,
            make_capture=make_capture,
        )

    @torch.no_grad()
    def refresh(self, policy_steps: int) -> None:
        """See `SnapshotPolicy`; captures here, as torch allows no draws during a capture."""
        super().refresh(policy_steps)
        self._captures_automatically = self._stream is None
        if self._stream is not None:
            for captured in self._captured.values():
                captured.capture()
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def _act(
        self, obs: dict[str, Tensor], is_first: Tensor, state: MemoryState, noise: PolicyNoise
    ) -> MemoryState:
        # Captures would draw from torch's global generator.
        return super()._act(obs, is_first, state, PolicyNoise(*self._fill_noise(state, noise)))
