"""Several replays that share every batch: stored data with weights, or beside a run's own.

`dreamer.run` builds it in place of one `Replay`, whose interface it has. Each part keeps its own
sampler, and so its own distribution of sequences.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from dreamer.replay.buffer import Replay
from dreamer.types import Batch, TimeStep


class MixedReplay:
    """Replays with weights; new steps go to the first one.

    Of B sequences, a replay of weight w, a fraction of the sum, gives w * B, rounded down or up at
    random, so that the mean is exact. If sequences continue those of the batch before, the number
    is the nearest one, always the same.

    # u in [0, 1), drawn for every batch      0     w0 * B        (w0 + w1) * B      B
    # sequences at u, u + 1, u + 2, ...       | x    x    x    x |   x    x    x    x |
    """

    def __init__(self, parts: Sequence[Replay], weights: Sequence[float], *, seed: int):
        """Combine replays.

        Args:
            parts: at least two, of the same observations and actions.
            weights: of each, positive; they need not sum to 1.
            seed: of the rounding.
        """
        self.parts = list(parts)
        self._ends = np.cumsum(weights) / math.fsum(weights)  # (parts,) the last one is 1
        self._ends[-1] = 1.0
        self._generator = np.random.default_rng(seed)
        self._continues = self.parts[0].stream_restarts is not None

    def counts(self, batch_size: int) -> list[int]:
        """Return how many sequences of the next batch each part gives; draws the rounding.

        Raises:
            ValueError: sequences continue those of the batch before, and a part gives none.
        """
        offset = 0.5 if self._continues else self._generator.random()
        bounds = np.ceil(self._ends * batch_size - offset).astype(int)
        bounds[-1] = batch_size
        counts = np.diff(bounds, prepend=0).tolist()
        if self._continues and min(counts) == 0:
            raise ValueError(
                "`batch.size` must be large enough for a sequence of every part of the data with "
                f"replay.sampling=sequential, got {batch_size}, of which the parts give {counts}"
            )
        return counts

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of the full replays."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def episodes(self) -> int:
        """Number of complete episodes held."""
        return sum(part.episodes for part in self.parts)

    @property
    def longest_episode(self) -> int:
        """Steps of the longest episode of that part whose longest one is the shortest."""
        return min(part.longest_episode for part in self.parts)

    @property
    def policy_steps(self) -> int:
        """Policy steps held."""
        return sum(part.policy_steps for part in self.parts)

    @property
    def stream_restarts(self) -> int | None:
        """See `Replay`."""
        restarts = [part.stream_restarts for part in self.parts]
        return sum(x or 0 for x in restarts) if self._continues else None

    def add(self, step: TimeStep, prev_action: np.ndarray) -> None:
        """Store one step of every environment in the first part."""
        self.parts[0].add(step, prev_action)

    def can_sample(self, length: int) -> bool:
        """Return whether every part has a sequence of this many steps."""
        return all(part.can_sample(length) for part in self.parts)

    def sample(self, batch_size: int, length: int) -> Batch:
        """Sample sequences, those of each part side by side; see `Replay.sample`."""
        counts = self.counts(batch_size)
        batches = [
            part.sample(count, length)
            for part, count in zip(self.parts, counts, strict=True)
            if count
        ]
        obs = {key: _beside([batch.obs[key] for batch in batches]) for key in batches[0].obs}
        others = zip(*(batch[1:] for batch in batches), strict=True)
        return Batch(obs, *(_beside(tensors) for tensors in others))

    def close_episodes(self) -> None:
        """See `Replay`."""
        for part in self.parts:
            part.close_episodes()

    def clear(self) -> None:
        """Remove all steps of all parts."""
        for part in self.parts:
            part.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the parts and that of the rounding."""
        return {
            "parts": [part.state_dict() for part in self.parts],
            "generator": json.dumps(self._generator.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them; see `Replay`."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self._generator.bit_generator.state = json.loads(state["generator"])


AnyReplay: TypeAlias = Replay | MixedReplay


def _beside(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate (T, b, ...) to (T, B, ...), pinned if the tensors are."""
    whole = torch.cat(list(tensors), 1)
    return whole.pin_memory() if tensors[0].is_pinned() else whole
