"""A copy of the replay's files on the device that learns, from which batches are gathered.

`Replay` asks it in place of the files where replay.device=cuda. The files stay the truth: the
mirror is filled from them, also with the steps that a resumed run finds there.
"""

import numpy as np
import torch
from torch import Tensor

from dreamer.replay.storage import RingFiles

CHUNK = 2**14  # steps copied at once, so that no copy takes more than 64 MiB of memory on the way


class DeviceCache:
    """The columns of rings that batches are made of, on a device."""

    def __init__(self, files: RingFiles, names: list[str], device: torch.device):
        """Make room for the columns `names` of full rings.

        Raises:
            ValueError: the device has too little memory for them.
        """
        self._files, self._device = files, device
        columns = {name: torch.from_numpy(files.columns[name]) for name in names}  # (E, L, ...)
        needed = sum(x.nbytes for x in columns.values())
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else needed
        if needed > free:
            raise ValueError(
                f"Expect `replay.capacity_policy_steps` to fit into the {free:,} free bytes of "
                f"{device} with replay.device=cuda, actually: {needed:,} bytes. Make it smaller, "
                "or leave the replay on disk with replay.device=cpu."
            )
        self._columns = {
            name: (x, torch.empty(x.shape, dtype=x.dtype, device=device))
            for name, x in columns.items()
        }
        self._copied = files.oldest  # all steps held below this number are on the device

    def gather(self, name: str, env: np.ndarray, step: np.ndarray) -> Tensor:
        """As `RingFiles.gather`, on the device: env (B,), step (T, B) -> (T, B, ...)."""
        self._catch_up()
        rows = torch.from_numpy(env * self._files.slots + step % self._files.slots)
        copy = self._columns[name][1].flatten(0, 1)
        rows = rows.to(self._device)
        return copy.index_select(0, rows.flatten()).unflatten(0, rows.shape)

    def forget(self) -> None:
        """After a roll-back of the files: steps that were copied may be written anew."""
        self._copied = min(self._copied, self._files.steps)

    def _catch_up(self) -> None:
        """Copy the steps that the files got since the last time."""
        slots, stop = self._files.slots, self._files.steps
        start = max(self._copied, self._files.oldest)
        while start < stop:
            first = start % slots
            count = min(stop - start, slots - first, CHUNK)
            for source, copy in self._columns.values():
                copy[:, first : first + count] = source[:, first : first + count].to(self._device)
            start += count
        self._copied = stop
