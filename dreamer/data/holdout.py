"""Held-out episodes: which ones they are, and a short sequence of each.

Runs use it for `data.holdout`. It knows stored episodes and a run's spaces, no networks.

Letters: n steps of an episode, its reset included; T steps of a sequence; B sequences.
"""

import hashlib
import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer.data.episodes import BrokenFile, Episode
from dreamer.data.feed import Fit, Header
from dreamer.data.formats import Pass
from dreamer.types import Batch

FLAGS = ("prev_action", "reward", "is_first", "is_terminal")


def number_of(name: str) -> float:
    """Return a number in [0, 1) that depends on the name of an episode alone."""
    digest = hashlib.blake2b(name.encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def is_held_out(name: str, share: float) -> bool:
    """Whether an episode is among those held out; more of them with a larger share."""
    return number_of(name) < share


class HeldOut(NamedTuple):
    """Sequences to score, the shorter ones padded at their ends."""

    batch: Batch  # (T, B, ...)
    mask: Tensor  # (T, B) bool, false in the padding


class Clip(NamedTuple):
    """A part of an episode."""

    number: float  # of its name
    columns: Mapping[str, np.ndarray]  # (n, ...) by the names of `FLAGS`, observations as obs_...


def read_clips(
    header: Header, fit: Fit, keep: Callable[[str], bool], *, count: int, length: int
) -> list[Clip]:
    """Read a part of some episodes, each time the same ones; memory holds no more than these.

    Args:
        header: Of the data.
        fit: Converts the observations.
        keep: Whether an episode of that name may be read.
        count: Number of episodes at most.
        length: T at most.
    """
    heap: list[tuple[float, int, Clip]] = []  # the highest number first
    for order, episode in enumerate(Pass.of(header.address).headers()):
        number = number_of(episode.name)
        if not keep(episode.name) or (len(heap) == count and -number <= heap[0][0]):
            continue
        try:
            clip = Clip(number, _cut(episode, fit, length))
        except BrokenFile as error:
            header.skipped[episode.name] = str(error)
            continue
        (heapq.heappush if len(heap) < count else heapq.heapreplace)(heap, (-number, order, clip))
    return [clip for *_, clip in sorted(heap, reverse=True)]


def _cut(episode: Episode, fit: Fit, length: int) -> dict[str, np.ndarray]:
    """Return T steps; like in training, ends of episodes are as likely as other places."""
    steps = episode.steps + 1
    start = int(number_of(f"start of {episode.name}") * steps)
    start = max(min(start, steps - length), 0)
    part = slice(start, start + length)
    columns = {name: np.array(getattr(episode.flags, name)[part]) for name in FLAGS}
    columns |= {f"obs_{name}": np.array(x[part]) for name, x in fit.apply(episode).items()}
    columns["is_first"][0] = True  # as in every sequence of a batch
    return columns


def stack(clips: Sequence[Clip]) -> HeldOut:
    """Put clips side by side, each padded to the longest."""
    lengths = [len(clip.columns["reward"]) for clip in clips]
    longest = max(lengths)

    def column(name: str) -> Tensor:
        arrays = [clip.columns[name] for clip in clips]
        padded = [np.pad(x, [(0, longest - len(x)), *[(0, 0)] * (x.ndim - 1)]) for x in arrays]
        stacked = np.stack(padded, 1)
        return torch.from_numpy(
            stacked.astype(np.float32) if stacked.dtype.kind == "f" else stacked
        )

    names = [name for name in clips[0].columns if name.startswith("obs_")]
    obs = {name.removeprefix("obs_"): column(name) for name in names}
    mask = torch.arange(longest)[:, None] < torch.tensor(lengths)
    action, reward, *others = (column(name) for name in FLAGS)
    return HeldOut(Batch(obs, action.float(), reward.float(), *others), mask)
