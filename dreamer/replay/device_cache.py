"""A copy of the replay's files on the training device, to gather batches there.

`Replay` uses it instead of the files if replay.device=cuda. The files remain the source: the cache
is filled from them, also in a resumed run.
"""

import numpy as np
import torch
from torch import Tensor

from dreamer.replay.storage import RingFiles

CHUNK = 2**14  # steps copied at once, to limit the memory of a copy


class DeviceCache:
    """The columns of `RingFiles` that batches need, on a device."""

    def __init__(self, files: RingFiles, names: list[str], device: torch.device):
        """Allocate memory for the columns `names` of full rings.

        Raises:
            ValueError: the device has too little memory for them.
        """
        self._files, self._device = files, device
        columns = {name: torch.from_numpy(files.columns[name]) for name in names}  # (E, L, ...)
        needed = sum(x.nbytes for x in columns.values())
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else needed
        if needed > free:
            raise ValueError(
                f"`replay.capacity_policy_steps` must fit into the {free:,} free bytes of {device} "
                f"with replay.device=cuda, got {needed:,} bytes. Make it smaller, or set "
                "replay.device=cpu."
            )
        self._columns = {
            name: (x, torch.empty(x.shape, dtype=x.dtype, device=device))
            for name, x in columns.items()
        }
        self._copied = files.oldest  # all held steps below this number are on the device

    def gather(self, name: str, env: np.ndarray, step: np.ndarray) -> Tensor:
        """Do `RingFiles.gather` on the device: env (B,), step (T, B) -> (T, B, ...)."""
        self._copy_new_steps()
        rows = torch.from_numpy(env * self._files.slots + step % self._files.slots)
        copy = self._columns[name][1].flatten(0, 1)
        rows = rows.to(self._device)
        return copy.index_select(0, rows.flatten()).unflatten(0, rows.shape)

    def roll_back(self) -> None:
        """Follow a roll-back of the files: copied steps may be overwritten."""
        self._copied = min(self._copied, self._files.steps)

    def _copy_new_steps(self) -> None:
        """Copy the steps that were added to the files since the last call."""
        slots, stop = self._files.slots, self._files.steps
        start = max(self._copied, self._files.oldest)
        while start < stop:
            first = start % slots
            count = min(stop - start, slots - first, CHUNK)
            for source, copy in self._columns.values():
                copy[:, first : first + count] = source[:, first : first + count].to(self._device)
            start += count
        self._copied = stop
