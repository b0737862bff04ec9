"""The replay for Lightning: a loader of batches, and a cursor in the checkpoint.

`dreamer.run` builds the data module; the Trainer samples from it. It knows no networks and does not
fill the replay: a callback does that in `on_fit_start`, before the first batch is sampled.
"""

import warnings
from collections.abc import Iterator
from typing import Any

from pytorch_lightning import LightningDataModule
from torch.utils.data import IterableDataset

from dreamer.replay.mixture import AnyReplay
from dreamer.types import Batch


class ReplayDataset(IterableDataset[Batch]):
    """An endless stream of batches, each sampled on request.

    Its length is the maximum number of batches of the run. With a length, Lightning prefetches no
    batch, so that a checkpoint has the random state right after the last trained batch
    (`_PrefetchDataFetcher` in pytorch_lightning/loops/fetchers.py, 2.6.6).
    """

    def __init__(self, replay: AnyReplay, *, batch_size: int, length: int, updates: int):
        self._replay, self._batch_size, self._length = replay, batch_size, length
        self._updates = updates

    def __len__(self) -> int:
        return self._updates

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self._replay.sample(self._batch_size, self._length)


class ReplayDataModule(LightningDataModule):
    """Feeds the Trainer from a replay, and saves the replay's cursor in checkpoints."""

    def __init__(self, replay: AnyReplay, *, batch_size: int, length: int, updates: int):
        """Wrap a replay.

        Args:
            replay: sampled in this process; a worker would have an outdated copy of its index.
            batch_size: B, sequences.
            length: T, steps of each.
            updates: maximum number of batches of the whole run, earlier ones of a resume included.
        """
        super().__init__()
        self._replay = replay
        self._dataset = ReplayDataset(replay, batch_size=batch_size, length=length, updates=updates)

    def train_dataloader(self) -> ReplayDataset:
        """Return the batches without a `DataLoader`: the replay has batched and pinned them.

        A `DataLoader` would only repeat that, and warn about its workers.
        """
        return self._dataset

    def state_dict(self) -> dict[str, Any]:
        """Return the replay's cursor and random state; the experience stays in its files."""
        return self._replay.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Roll the replay back; Lightning calls this before `on_fit_start`."""
        self._replay.load_state_dict(state_dict)
        # The warning is wrong: the data module resumes, and Lightning checks the loader only.
        warnings.filterwarnings(
            "ignore", "You're resuming from a checkpoint that ended before the epoch ended"
        )
