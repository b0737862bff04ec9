"""Which sequences of steps a replay may give, and how likely each is.

`replay.sampling` names a sampler: one of the two here, or by `_target_` a class of a user's own. It
is called with an `Experience` and with the other keys of its node, and follows the protocol
`Sampler`. Samplers propose sequences by environment and number of the first step; they copy
nothing. The two here reject what is not valid instead of keeping a list of what is, so the valid
ones stay equally likely and a draw costs the same however much is stored.

`across_episodes` lets a sequence run on into the next episode of the same environment, whose reset
then has `is_first` set inside the sequence; for worlds with episodes shorter than the sequence.
"""

from typing import NamedTuple, Protocol

import numpy as np

from dreamer.replay.episodes import EpisodeIndex
from dreamer.replay.storage import RingFiles

LARGEST_ROUND = 2**15  # sequences proposed at once, at most
ROUNDS_IN_VAIN = 1000  # of that size, without one valid sequence: the sampler is at fault


class Experience(NamedTuple):
    """What a sampler may look at. It changes with every step that the replay adds.

    Step n of environment e lies in `files.columns[name][e, n % files.slots]`, for n from
    `files.oldest` to `files.steps - 1`. The columns are `reward`, `is_first`, `is_last`,
    `is_terminal`, `prev_action`, `episode` (its number) and `obs_<key>`.
    """

    files: RingFiles
    episodes: EpisodeIndex  # the complete episodes held
    across_episodes: bool  # whether a sequence may run on into the next episode

    def holds(self, env: np.ndarray, start: np.ndarray, length: int) -> np.ndarray:
        """Tell which sequences of this many steps are held.

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
        """Tell which sequences are held and lie within one episode, unless they may cross.

        See `holds`.
        """
        held = self.holds(env, start, length)
        if self.across_episodes:
            return held
        episode, slots = self.files.columns["episode"], self.files.slots
        return held & (episode[env, start % slots] == episode[env, (start + length - 1) % slots])


class Sampler(Protocol):
    """One way of choosing sequences.

    Of a sampler only the class and its keys are saved with a run, no state of it.
    """

    def can_sample(self, length: int) -> bool:
        """Tell whether any sequence of this many steps is held; scans what is held."""
        ...

    def propose(self, generator: np.random.Generator, count: int, length: int) -> np.ndarray:
        """Draw `count` sequences and keep the valid ones: (<= count, 2) environment and start."""
        ...


class EpisodeSampler:
    """The authors' way: first a complete episode, all alike, then a start within it.

    The episode is drawn among those with at least `length` steps, the reset included. The draw of
    the start reaches `length` steps too far and is cut back, so the last sequence of an episode is
    `length` + 1 times as likely as each earlier one.

    With `across_episodes`: among all complete episodes, and any of their steps is the start, all
    alike, cut back to the newest sequence held.

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
    """Every start is as likely as any other from which `length` steps of one episode are held.

    The episode may be over or not, and its beginning overwritten or not. With `across_episodes`
    any start counts from which `length` steps are held.
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


SAMPLERS = {"episodes": EpisodeSampler, "steps": StepSampler}  # by their names in conf/


def draw(
    sampler: Sampler,
    experience: Experience,
    generator: np.random.Generator,
    batch_size: int,
    length: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Propose sequences until there are enough: environment and first step of each, (B,) both.

    Raises:
        LookupError: there is no such sequence.
        ValueError: the sampler proposes what is not held, or nothing at all.
    """
    drawn, count, in_vain = np.empty((0, 2), np.int64), batch_size, 0
    while len(drawn) < batch_size:
        valid = sampler.propose(generator, count, length)
        in_vain = 0 if len(valid) else in_vain + (count >= LARGEST_ROUND)
        if in_vain > ROUNDS_IN_VAIN:
            raise ValueError(
                f"{type(sampler).__name__}.propose gave no sequence in {ROUNDS_IN_VAIN} calls, "
                f"though can_sample({length}) is true"
            )
        # The exact answer needs a scan, so it is asked for only after many proposals in vain.
        if not len(valid) and count >= LARGEST_ROUND and not sampler.can_sample(length):
            raise LookupError
        drawn = np.concatenate([drawn, valid])
        count = min(2 * count, LARGEST_ROUND)
    env, start = drawn[:batch_size].T
    held = experience.holds(env, start, length)
    if not held.all():
        wrong = int(held.argmin())
        raise ValueError(
            f"{type(sampler).__name__}.propose gave steps that are not held: {length} from step "
            f"{start[wrong]} of environment {env[wrong]}; held are {experience.files.oldest} to "
            f"{experience.files.steps - 1}"
        )
    return env, start
