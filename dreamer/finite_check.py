"""Checks on the device that all losses are finite, and reports the first failure to the host.

The agent uses it in every optimiser step. With float16, `loss_scaling.py` has a subclass. It knows
names and numbers, but no networks.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class FiniteCheck(nn.Module):
    """Blocks all steps after a failed check, without making the host wait.

    A host that reads every result cannot launch the next kernels meanwhile. So the device itself
    blocks the steps, and the host reads the result later.
    """

    _first_failure: Tensor  # () int64: 0, or 1 + index in `names`

    def __init__(self, names: Sequence[str]):
        """`names` are those of the checks."""
        super().__init__()
        self.names = list(names)
        # A buffer, to move with the agent to a device; it is not saved.
        first_failure = torch.zeros((), dtype=torch.long)
        self.register_buffer("_first_failure", first_failure, persistent=False)
        self._on_host: Tensor | None = None  # a copy in pinned memory

    def scale(self, name: str, loss: Tensor) -> Tensor:
        """Return the loss () whose gradients are computed: in float16, a multiple of this one."""
        return loss

    def unscale(self, name: str, gradients: Sequence[Tensor]) -> None:
        """Undo `scale` in the gradients, in place."""

    def allow(self, name: str, loss: Tensor, norm: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Decide whether a step may change weights.

        Args:
            name: of the loss.
            loss: (), detached, without scale.
            norm: () of the gradients, without scale.

        Returns:
            1 or 0, () float; and metrics, each ().
        """
        return self.check(name, norm + loss), {f"grad_norm/{name}": norm}

    def saved(self) -> dict[str, list[float]]:
        """Return what a resumed run needs, by name."""
        return {}

    def restore(self, saved: Mapping[str, Sequence[float]]) -> None:
        """Restore what `saved` returned; other names, or another precision, are ignored."""

    def check(self, name: str, norm: Tensor) -> Tensor:
        """Return 1 if this number () and all checked before are finite, else 0; () float.

        Nothing waits for the device.
        """
        code = 1 + self.names.index(name)
        self._first_failure += code * (~norm.isfinite() & (self._first_failure == 0))
        return (self._first_failure == 0).float()

    def send(self) -> None:
        """Start copying the result to the host, without waiting."""
        if self._first_failure.device.type == "cuda":
            if self._on_host is None:
                self._on_host = torch.zeros((), dtype=torch.long, pin_memory=True)
            self._on_host.copy_(self._first_failure, non_blocking=True)

    def read(self, *, wait: bool = False) -> str | None:
        """Return the name of the first failed check, None if all passed.

        On a GPU the result may be an update or two late; `wait` waits for the device. On a CPU it
        is always current.
        """
        result = self._on_host
        if wait or result is None or self._first_failure.device.type == "cpu":
            result = self._first_failure
        code = int(result)
        return self.names[code - 1] if code else None

    def reset(self) -> None:
        """Forget all checks."""
        self._first_failure.zero_()
        self.send()
