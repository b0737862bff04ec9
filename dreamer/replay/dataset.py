"""The replay as Lightning sees it: a loader of batches, and a cursor in the checkpoint.

The runner builds the data module; the Trainer draws from it. It knows no network and does not fill
the replay: a callback does that in `on_fit_start`, before the loader is asked for the first batch.
"""

import warnings
from collections.abc import Iterator
from typing import Any

from pytorch_lightning import LightningDataModule
from torch.utils.data import IterableDataset

from dreamer.replay.buffer import Replay
from dreamer.types import Batch


class ReplayDataset(IterableDataset[Batch]):
    """Batches without end, each sampled at the moment it is asked for.

    Its length is the number of batches that the run will draw at most. Only because there is one
    does Lightning draw no batch ahead, so that the generator in a checkpoint stands just behind the
    last batch trained on (`_PrefetchDataFetcher` in pytorch_lightning/loops/fetchers.py, 2.6.6).
    """

    def __init__(self, replay: Replay, *, batch_size: int, length: int, updates: int):
        self._replay, self._batch_size, self._length = replay, batch_size, length
        self._updates = updates

    def __len__(self) -> int:
        return self._updates

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self._replay.sample(self._batch_size, self._length)


class ReplayDataModule(LightningDataModule):
    """Feeds the Trainer from a replay, whose cursor rides along in Lightning's checkpoints."""

    def __init__(self, replay: Replay, *, batch_size: int, length: int, updates: int):
        """Wrap a replay.

        Args:
            replay: sampled in this process: a worker would hold a stale copy of its index.
            batch_size: B, sequences.
            length: T, steps of each.
            updates: batches the whole run will draw at most, those before a resume included.
        """
        super().__init__()
        self._replay = replay
        self._dataset = ReplayDataset(replay, batch_size=batch_size, length=length, updates=updates)

    def train_dataloader(self) -> ReplayDataset:
        """Give the Trainer the batches as they are: the replay has batched, copied and pinned them.

        A `DataLoader` around them could only repeat that, and brings warnings on its workers.
        """
        return self._dataset

    def state_dict(self) -> dict[str, Any]:
        """Tell the replay's cursor and generator; the experience stays in its own files."""
        return self._replay.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Roll the replay back; Lightning calls this before `on_fit_start`."""
        self._replay.load_state_dict(state_dict)
        # Lightning asks the loader, not the data module, whether it can resume.
        warnings.filterwarnings(
            "ignore", "You're resuming from a checkpoint that ended before the epoch ended"
        )
