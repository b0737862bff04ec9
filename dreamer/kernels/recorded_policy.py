"""Policies as CUDA graphs: a call is captured after a few, and replayed from then on.

`build.py` makes them where `cuda_graphs` asks for it. What they do is in `policy.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dreamer.kernels.cuda_graph import Capture, CapturedFunction
from dreamer.models.actor_critic import ActorCritic
from dreamer.models.world_model import WorldModel
from dreamer.policy import DreamerPolicy, MemoryState, PolicyNoise, SnapshotPolicy
from dreamer.types import RSSMState


class RecordedPolicy(DreamerPolicy):
    """Acts by replaying captures, one for each number of environments.

    A memory that it returns holds until its next call. Weights may change in place, but not move.
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
        """As `DreamerPolicy`; `make_capture` is asked for what each capture is made with."""
        super().__init__(
            world_model,
            actor_critic,
            sample_actions=sample_actions,
            exploration_noise=exploration_noise,
        )
        self._make_capture = make_capture
        self._captures_when_called = True
        # By E and what noise is given.
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
        """`_act` as a function from tensors to tensors, some of the noise among them."""
        plain = super()._act

        def act(is_first: Tensor, action: Tensor, *others: Tensor) -> list[Tensor]:
            latent, others = RSSMState(*others[:3]), others[3:]
            obs = dict(zip(obs_keys, others, strict=False))
            noise = PolicyNoise(**dict(zip(given, others[len(obs) :], strict=True)))
            state = plain(obs, is_first, MemoryState(latent, action), noise)
            return [state.action, *state.latent]

        return CapturedFunction(act, self._make_capture(), when_called=self._captures_when_called)


class RecordedSnapshotPolicy(SnapshotPolicy, RecordedPolicy):
    """Acts with the weights of the last `refresh`, by replaying captures."""

    def __init__(
        self,
        world_model: WorldModel,
        actor_critic: ActorCritic,
        *,
        make_capture: Callable[[], Capture],
        exploration_noise: float,
        seed: int,
    ):
        """As `SnapshotPolicy` and `RecordedPolicy`."""
        super().__init__(
            world_model,
            actor_critic,
            exploration_noise=exploration_noise,
            seed=seed,
            make_capture=make_capture,
        )

    @torch.no_grad()
    def refresh(self, policy_steps: int) -> None:
        """See `SnapshotPolicy`; captures what is due: torch allows no draws beside a capture."""
        super().refresh(policy_steps)
        self._captures_when_called = self._stream is None
        if self._stream is not None:
            for captured in self._captured.values():
                captured.capture()
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def _act(
        self, obs: dict[str, Tensor], is_first: Tensor, state: MemoryState, noise: PolicyNoise
    ) -> MemoryState:
        # Captures would draw from torch's global generator.
        return super()._act(obs, is_first, state, PolicyNoise(*self._drawn(state, noise)))
