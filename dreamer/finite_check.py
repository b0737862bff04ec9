"""Remembers on the device which loss was the first that is not finite, and tells the host.

The agent asks it before every optimiser step. It knows names and numbers, but no network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FiniteCheck(nn.Module):
    """Holds back all steps after a check that failed, without making the host wait.

    A host that looks at every result cannot launch the next kernels meanwhile. So the device itself
    leaves the weights as they are, and the host reads of it when it gets there.
    """

    _first_failure: Tensor  # () int64: 0, or 1 + the place in `names`

    def __init__(self, names: Sequence[str]):
        """`names` of the checks, in any order."""
        super().__init__()
        self.names = list(names)
        # A buffer moves with the agent; it is not saved.
        first_failure = torch.zeros((), dtype=torch.long)
        self.register_buffer("_first_failure", first_failure, persistent=False)
        self._arrived: Tensor | None = None  # of a copy to the host, in pinned memory

    def check(self, name: str, norm: Tensor) -> Tensor:
        """1 if this gradient norm () and all that were checked before are finite, else 0; () float.

        Nothing waits for the device.
        """
        code = 1 + self.names.index(name)
        self._first_failure += code * (~norm.isfinite() & (self._first_failure == 0))
        return (self._first_failure == 0).float()

    def send(self) -> None:
        """Start to copy the result to the host; nothing waits."""
        if self._first_failure.device.type == "cuda":
            if self._arrived is None:
                self._arrived = torch.zeros((), dtype=torch.long, pin_memory=True)
            self._arrived.copy_(self._first_failure, non_blocking=True)

    def read(self, *, wait: bool = False) -> str | None:
        """Return the name of the check that failed first, None if all passed.

        On a GPU, as far as a copy has arrived, which may be an update or two late; `wait` waits for
        the device. On a CPU it is always up to date.
        """
        result = self._arrived
        if wait or result is None or self._first_failure.device.type == "cpu":
            result = self._first_failure
        code = int(result)
        return self.names[code - 1] if code else None

    def reset(self) -> None:
        """Forget all checks."""
        self._first_failure.zero_()
        self.send()
