"""Samplers: which sequences of steps a replay samples, and with which probability.

`replay.sampling` chooses one of the two here, the streams of `streams.py`, or a user's class by
`_target_`. The class is called with an `Experience` and the other keys of its node, and follows the
protocol `Sampler`, or `StreamSampler` if each batch continues the one before. Samplers name steps
by environment and number; they copy nothing. The two here use rejection sampling: valid sequences
keep their probabilities, and the cost does not grow with the replay.

With `across_episodes`, a sequence may continue into the next episode of the same environment, whose
reset then has `is_first` set. It is for environments with episodes shorter than a sequence.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from dreamer.replay.episodes import EpisodeIndex
from dreamer.replay.storage import RingFiles

MAX_PROPOSALS = 2**15  # maximum number of sequences per call of `propose`
MAX_EMPTY_CALLS = 1000  # of that size without a valid sequence


class Experience(NamedTuple):
    """The data that a sampler may read. It changes with every added step.

    Step n of environment e is `files.columns[name][e, n % files.slots]`, for n from
    `files.oldest` to `files.steps - 1`. The columns are `reward`, `is_first`, `is_last`,
    `is_terminal`, `prev_action`, `episode` (its number) and `obs_<key>`.
    """

    files: RingFiles
    episodes: EpisodeIndex  # the complete episodes held
    across_episodes: bool  # whether sequences may continue into the next episode

    def holds(self, env: np.ndarray, start: np.ndarray, length: int) -> np.ndarray:
        """Return which sequences of this many steps are held.

        Args:
            env: (count,) int.
            start: (count,) int, number of the first step.
            length: T.

        Returns:
            (count,) bool.
        """
        files = self.files
        held = (start >= files.oldest) & (start <= files.steps - length)
        return held & (env >= 0) & (env < files.env_count)

    def is_valid(self, env: np.ndarray, start: np.ndarray, length: int) -> np.ndarray:
        """Return which sequences are held and, without `across_episodes`, within one episode.

        See `holds`.
        """
        held = self.holds(env, start, length)
        if self.across_episodes:
            return held
        episode, slots = self.files.columns["episode"], self.files.slots
        return held & (episode[env, start % slots] == episode[env, (start + length - 1) % slots])


class Sampler(Protocol):
    """Interface of a sampler.

    A run saves its class and keys, but no state.
    """

    def can_sample(self, length: int) -> bool:
        """Return whether any sequence of this many steps can be sampled; scans the replay."""
        ...

    def propose(self, generator: np.random.Generator, count: int, length: int) -> np.ndarray:
        """Draw `count` sequences and return the valid ones: (<= count, 2) environment and start."""
        ...


class Sequences(NamedTuple):
    """The steps of a batch, and the resets in it besides the stored ones."""

    env: np.ndarray  # (T, B) int
    step: np.ndarray  # (T, B) int, numbers of steps as in `Experience`
    resets: np.ndarray  # (T, B) bool, `is_first` is set here
    begins: np.ndarray  # (T, B) bool, here, too, and the reward is 0: it belongs to what was before

    @classmethod
    def empty(cls, length: int, batch_size: int) -> "Sequences":
        """Make sequences to be filled, without a reset."""
        numbers = np.zeros((2, length, batch_size), np.int64)
        flags = np.zeros((2, length, batch_size), bool)
        return cls(*numbers, *flags)

    def entry(self, index: int) -> "Sequences":
        """Return one sequence, (T,) each, as a view."""
        return Sequences(*(x[:, index] for x in self))


class StreamSampler(Protocol):
    """Interface of a sampler with a state: each batch continues the one before.

    A class with the method `next_batch` is one. A run saves its state, and the state of the
    generator, from which all its random numbers come.
    """

    restarts: int  # streams that started anew because the replay has overwritten their steps

    def can_sample(self, length: int) -> bool:
        """Return whether any sequence of this many steps can be sampled; scans the replay."""
        ...

    def next_batch(self, generator: np.random.Generator, batch_size: int, length: int) -> Sequences:
        """Return the next batch; the sequences in column b continue those of the last batch.

        Raises:
            LookupError: there is no such sequence.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types or tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state. Steps may have been overwritten or removed since."""
        ...


def is_stream(sampler: Any) -> bool:
    """Whether an object or a class is a `StreamSampler`."""
    return hasattr(sampler, "next_batch")


class EpisodeSampler:
    """Sampling of the authors' code: a uniform complete episode, then a start within it.

    Episodes have at least `length` steps, the reset included. The start is uniform over all steps
    and the end, then clipped to the last possible one, so the last sequence of an episode is
    `length` + 1 times as likely as each earlier one.

    With `across_episodes`, the start is uniform over the steps of a uniform complete episode,
    clipped to the newest sequence held.

    Source: `Replay._sample_sequence` in common/replay.py of https://github.com/danijar/dreamerv2
    """

    def __init__(self, experience: Experience):
        self._files, self._episodes, self._across = experience

    def can_sample(self, length: int) -> bool:
        """See `Sampler`."""
        if self._across:
            return len(self._episodes) > 0 and self._files.steps - self._files.oldest >= length
        return self._episodes.longest >= length

    def propose(self, generator: np.random.Generator, count: int, length: int) -> np.ndarray:
        """See `Sampler`."""
        newest = self._files.steps - length
        if not len(self._episodes) or newest < self._files.oldest:
            return np.empty((0, 2), np.int64)
        env, start, stop = self._episodes.draw(generator, count)
        if self._across:
            return np.stack([env, np.minimum(generator.integers(start, stop), newest)], 1)
        drawn = np.minimum(generator.integers(start, stop + 1), stop - length)
        return np.stack([env, drawn], 1)[stop - start >= length]


class StepSampler:
    """Uniform sampling over all starts from which `length` steps of one episode are held.

    The episode may be unfinished, or its beginning overwritten. With `across_episodes`, all starts
    count from which `length` steps are held.
    """

    def __init__(self, experience: Experience):
        self._experience, self._files = experience, experience.files

    def can_sample(self, length: int) -> bool:
        """See `Sampler`."""
        start = np.arange(self._files.oldest, self._files.steps - length + 1)
        return len(start) > 0 and any(
            self._experience.is_valid(np.array(env), start, length).any()
            for env in range(self._files.env_count)
        )

    def propose(self, generator: np.random.Generator, count: int, length: int) -> np.ndarray:
        """See `Sampler`."""
        newest = self._files.steps - length
        if newest < self._files.oldest:
            return np.empty((0, 2), np.int64)
        env = generator.integers(self._files.env_count, size=count)
        start = generator.integers(self._files.oldest, newest + 1, size=count)
        return np.stack([env, start], 1)[self._experience.is_valid(env, start, length)]


def draw(
    sampler: Sampler,
    experience: Experience,
    generator: np.random.Generator,
    batch_size: int,
    length: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw sequences: environment and first step of each, (B,) both.

    Raises:
        LookupError: there is no such sequence.
        ValueError: the sampler proposes sequences that are not held, or none.
    """
    drawn, count, empty_calls = np.empty((0, 2), np.int64), batch_size, 0
    while len(drawn) < batch_size:
        valid = sampler.propose(generator, count, length)
        empty_calls = 0 if len(valid) else empty_calls + (count >= MAX_PROPOSALS)
        if empty_calls > MAX_EMPTY_CALLS:
            raise ValueError(
                f"{type(sampler).__name__}.propose must return sequences if "
                f"can_sample({length}) is true, got none in {MAX_EMPTY_CALLS} calls"
            )
        # `can_sample` scans the replay, so it is called only after many rejections.
        if not len(valid) and count >= MAX_PROPOSALS and not sampler.can_sample(length):
            raise LookupError
        drawn = np.concatenate([drawn, valid])
        count = min(2 * count, MAX_PROPOSALS)
    env, start = drawn[:batch_size].T
    held = experience.holds(env, start, length)
    if not held.all():
        wrong = int(held.argmin())
        raise ValueError(
            f"{type(sampler).__name__}.propose must return steps between {experience.files.oldest} "
            f"and {experience.files.steps - 1}, got {length} from step {start[wrong]} of "
            f"environment {env[wrong]}"
        )
    return env, start


class IndependentSequences:
    """Batches of sequences that a `Sampler` proposes, each beginning with a reset."""

    restarts = None  # there are no streams

    def __init__(self, sampler: Sampler, experience: Experience):
        self._sampler, self._experience = sampler, experience
        self.can_sample = sampler.can_sample

    def next_batch(self, generator: np.random.Generator, batch_size: int, length: int) -> Sequences:
        """Draw a batch.

        Raises:
            LookupError: there is no such sequence.
            ValueError: the sampler proposes sequences that are not held, or none.
        """
        env, start = draw(self._sampler, self._experience, generator, batch_size, length)
        sequences = Sequences.empty(length, batch_size)
        sequences.env[:], sequences.step[:] = env, start + np.arange(length)[:, None]
        sequences.resets[0] = True
        return sequences

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: a `Sampler` has no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""
