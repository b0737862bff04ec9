"""Streams: every entry of a batch continues where it ended in the batch before.

`replay.sampling=sequential` chooses them. A stream reads whole episodes in their order, one after
the other. With `replay.carry_state`, the agent carries its state from batch to batch along them.
The file knows steps and flags, no networks.

# batch entry b    | chunk 1         | chunk 2         | chunk 3         |
# stream b          [e7 e7 e7 e7 e7   e7 e7 e7][e2 e2   e2 e2 e2 e2 e2 ...
# is_first           1  0  0  0  0    0  0  0   1  0    0  0  0  0  0
"""

import itertools
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np

from dreamer.replay.sampling import Experience, Sequences
from dreamer.schema.types import Count, doc
from dreamer.schema.validation import checked_call


def check_reset_interval(interval: int, length: int) -> None:
    """Raise a ValueError if random resets so close do not fit sequences of this many steps."""
    if interval and interval < 2 * length + 1:
        raise ValueError(
            "`replay.sampling.reset_interval` must be 0, or at least 2 batch.length + 1 = "
            f"{2 * length + 1}, got {interval}"
        )


def check_across_episodes(across_episodes: bool) -> None:
    """Raise a ValueError if sequences are to continue in the next episode: streams do so anyway."""
    if across_episodes:
        raise ValueError(
            "`replay.across_episodes` must be false with replay.sampling=sequential, got true. "
            "For short episodes, set replay.sampling.piece_policy_steps."
        )


@dataclass
class Stream:
    """Where one entry of the batch reads. It is saved with the run."""

    env: int = 0
    start: int = 0  # first step of the piece
    step: int = 0  # next step to read
    stop: int = 0  # past the last step of the piece; equal to `step`: another piece follows
    cuts: list[int] = field(default_factory=list)  # random resets in the rest of the piece
    is_new: bool = True  # no piece was drawn yet


class Draws:
    """The random numbers of one stream."""

    def __init__(self, generator: np.random.Generator):
        self._integers = generator.integers

    def piece(self, count: int) -> int:
        """Draw one of `count` pieces; 0 is the newest."""
        return int(self._integers(count))

    def offset(self, count: int) -> int:
        """Draw the first step of a new stream's first piece: 0 ... count - 1."""
        return int(self._integers(count))

    def intervals(self, most: int) -> int:
        """Draw the number of intervals that an episode is cut into: 1 ... most."""
        return int(self._integers(1, most + 1))

    def cuts(self, stop: int, count: int) -> np.ndarray:
        """Draw `count` cuts, each 0 ... stop - 1."""
        return self._integers(stop, size=count)


class SequentialSampler:
    """Whole episodes in order, one endless stream for every entry of the batch.

    A stream draws a piece uniformly, reads it from front to end in chunks of a batch's length, and
    draws the next. Pieces are complete episodes; an episode in progress is not read. Shorter pieces
    than a sequence are skipped: `piece_policy_steps` joins short episodes. The first step of a
    piece has `is_first` set and no reward, as nothing before it was read.

    If the ring overwrites a step that a stream has still to read, the stream restarts with another
    piece. `restarts` counts this.

    Source: `DataSequential` in data.py of https://github.com/jurgisp/pydreamer. Pieces take the
    place of its files, and the replay's capacity that of `buffer_size`.
    """

    make_draws = Draws

    @checked_call
    def __init__(
        self,
        experience: Experience,
        *,
        skip_first: Annotated[
            bool, doc("Start each stream at a random step of its first piece, to decorrelate them.")
        ],
        allow_mid_reset: Annotated[
            bool, doc("Complete a piece's last, shorter chunk with the next piece; else drop it.")
        ],
        reset_interval: Annotated[
            Count,
            doc(
                "Mean interval between random resets in long episodes; 0: none.",
                unit="policy steps",
                source="PyDreamer, reset_interval: 200",
            ),
        ],
        piece_policy_steps: Annotated[
            Count,
            doc(
                "Steps of a piece, which holds the episodes that begin in them; 0: one episode.",
                unit="policy steps",
            ),
        ],
        newest_policy_steps: Annotated[
            Count,
            doc(
                "Read only the newest pieces, less than so many steps in all; 0: all.",
                unit="policy steps",
            ),
        ],
    ):
        """Start without streams; the first batch makes them.

        Raises:
            ValueError: `replay.across_episodes` is true.
        """
        check_across_episodes(experience.across_episodes)
        self.restarts = 0
        self._files, self._episodes = experience.files, experience.episodes
        self._skip_first, self._allow_mid_reset = skip_first, allow_mid_reset
        self._reset_interval = reset_interval
        self._piece_policy_steps = piece_policy_steps
        self._newest_policy_steps = newest_policy_steps
        self._streams: list[Stream] = []
        self._pieces = np.empty((0, 3), np.int64)  # environment, start and stop; the newest first
        self._longest = 0  # steps of a piece
        self._version = -1  # of the index of episodes that `_pieces` is made from

    def can_sample(self, length: int) -> bool:
        """See `StreamSampler`."""
        self._find_pieces()
        return self._longest >= length

    def next_batch(self, generator: np.random.Generator, batch_size: int, length: int) -> Sequences:
        """See `StreamSampler`."""
        check_reset_interval(self._reset_interval, length)
        self._streams = self._streams or [Stream() for _ in range(batch_size)]
        if len(self._streams) != batch_size:
            raise ValueError(
                f"The batch size must stay {len(self._streams)}, the number of streams, got "
                f"{batch_size}"
            )
        sequences = Sequences.empty(length, batch_size)
        for entry, stream in enumerate(self._streams):
            self._read(stream, self.make_draws(generator), sequences.entry(entry))
        return sequences

    def state_dict(self) -> dict[str, Any]:
        """See `StreamSampler`."""
        return {"restarts": self.restarts, "streams": [asdict(x) for x in self._streams]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `StreamSampler`."""
        self.restarts = state["restarts"]
        self._streams = [Stream(**x) for x in state["streams"]]

    def _read(self, stream: Stream, draws: Draws, out: Sequences) -> None:
        """Fill one entry of a batch, (T,) arrays, with the next steps of its stream."""
        self._restart_if_lost(stream)
        length, filled = len(out.step), 0
        while filled < length:
            if stream.step == stream.stop:
                self._open_piece(stream, draws, length)
            count = min(stream.stop - stream.step, length - filled)
            if count < length - filled and not self._allow_mid_reset:
                stream.step = stream.stop  # a shorter chunk is dropped
                continue
            stop = stream.step + count
            out.env[filled : filled + count] = stream.env
            out.step[filled : filled + count] = np.arange(stream.step, stop)
            out.begins[filled] = stream.step == stream.start
            # A cut resets the first step of the chunk that contains it.
            out.resets[filled] = any(stream.step <= cut < stop for cut in stream.cuts)
            stream.cuts = [cut for cut in stream.cuts if cut >= stop]
            stream.step = stop
            filled += count

    def _restart_if_lost(self, stream: Stream) -> None:
        """Let a stream draw another piece if a step that it has still to read is not held."""
        is_held = stream.step >= self._files.oldest and stream.stop <= self._files.steps
        if stream.step < stream.stop and not is_held:
            stream.step = stream.stop
            self.restarts += 1

    def _open_piece(self, stream: Stream, draws: Draws, length: int) -> None:
        """Draw a piece of at least `length` steps.

        Raises:
            LookupError: there is none.
        """
        if not self.can_sample(length):
            raise LookupError
        may_skip = self._skip_first and stream.is_new
        stream.is_new = False
        while True:
            stream.env, stream.start, stream.stop = self._pieces[
                draws.piece(len(self._pieces))
            ].tolist()
            if stream.stop - stream.start >= length:
                break
            may_skip = False  # as in PyDreamer
        rest = stream.stop - stream.start - length
        stream.step = stream.start + (draws.offset(rest + 1) if may_skip else 0)
        stream.cuts = self._draw_cuts(stream, draws, length) if self._reset_interval else []

    def _draw_cuts(self, stream: Stream, draws: Draws, length: int) -> list[int]:
        """Cut each episode of a piece into a random number of intervals of `length` or more."""
        slots = np.arange(stream.start, stream.stop) % self._files.slots
        is_first = self._files.columns["is_first"][stream.env, slots]
        begins = {0, *np.flatnonzero(is_first).tolist(), len(slots)}
        cuts: list[int] = []
        for begin, end in itertools.pairwise(sorted(begins)):
            intervals = draws.intervals((end - begin) // self._reset_interval + 1)
            if intervals > 1:
                drawn = draws.cuts(end - begin - intervals * length, intervals - 1)
                spaced = np.sort(drawn) + length * np.arange(1, intervals)
                cuts += (stream.start + begin + spaced).tolist()
        return cuts

    def _find_pieces(self) -> None:
        """List the pieces anew if the complete episodes have changed."""
        if self._version == self._episodes.version:
            return
        self._version = self._episodes.version
        episodes = self._episodes.to_array()  # (n, 3)
        first = self._first_of_pieces(episodes)
        last = np.append(first, len(episodes))[1:] - 1
        pieces = np.stack(
            [episodes[first, 0], episodes[first, 1], episodes[last, 2]], 1
        )  # (P, 3) environment, start, stop
        steps = pieces[:, 2] - pieces[:, 1] - (last - first + 1)  # without the resets
        order = np.lexsort([pieces[:, 0], -pieces[:, 2]])
        if self._newest_policy_steps:
            order = order[np.cumsum(steps[order]) < self._newest_policy_steps]
        self._pieces = pieces[order]
        self._longest = int((self._pieces[:, 2] - self._pieces[:, 1]).max(initial=0))

    def _first_of_pieces(self, episodes: np.ndarray) -> np.ndarray:
        """Return the indices (P,) of the episodes that begin a piece; consecutive ones are joined.

        The borders between pieces are multiples of `piece_policy_steps`, so that pieces stay the
        same while episodes are added.
        """
        if not self._piece_policy_steps:
            return np.arange(len(episodes))
        block = episodes[:, 1] // self._piece_policy_steps
        follows = (np.diff(episodes[:, 0]) == 0) & (np.diff(block) == 0)
        follows &= episodes[1:, 1] == episodes[:-1, 2]
        return np.flatnonzero(np.append([True] * bool(len(episodes)), ~follows))
