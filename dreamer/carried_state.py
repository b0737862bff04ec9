"""The state that the agent carries from one batch to the next: truncated backpropagation.

With `replay.carry_state`, every sequence continues the one at its place in the batch before. So the
model starts from the state after that, without its graph: gradients end at the first step of a
batch, the memory does not. The agent owns it; this file knows states, but no replay.
"""

from collections.abc import Mapping
from typing import Any

import torch

from dreamer.types import RSSMState


class NoCarriedState:
    """Every batch starts from zeros."""

    def start(self, device: torch.device) -> RSSMState | None:
        """Return the state before the next batch, None for zeros."""
        return None

    def keep(self, state: RSSMState) -> None:
        """Take the state after a batch."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore it."""


class CarriedState(NoCarriedState):
    """The state after the last batch.

    It is changed in place, because a CUDA graph keeps its address. Its size is that of the states
    that it is given, which need not be the batch's.
    """

    def __init__(self):
        self._state: RSSMState | None = None

    def start(self, device: torch.device) -> RSSMState | None:
        """Return the state before the next batch; None, for zeros, before the first."""
        if self._state is not None and self._state.deter.device != device:
            self._state = RSSMState(*(x.to(device) for x in self._state))
        return self._state

    @torch.no_grad()
    def keep(self, state: RSSMState) -> None:
        """Copy the state after a batch; the next update's gradients do not reach it.

        A state that is not finite is not taken, so that a run that stops for it can be resumed.
        """
        if self._state is None:
            self._state = RSSMState(*(torch.zeros_like(x) for x in state))
        is_finite = torch.stack([x.isfinite().all() for x in state]).all()
        for old, new in zip(self._state, state, strict=True):
            old.copy_(torch.where(is_finite, new, old))

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors by name; none before the first batch."""
        return {} if self._state is None else self._state._asdict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the tensors, in place if possible."""
        if not state_dict:
            self._state = None
            return
        loaded = RSSMState(**state_dict)
        shapes = [x.shape for x in loaded]
        if self._state is None or [x.shape for x in self._state] != shapes:
            self._state = RSSMState(*(torch.empty_like(x) for x in loaded))
        for old, new in zip(self._state, loaded, strict=True):
            old.copy_(new)
