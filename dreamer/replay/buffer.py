"""The replay buffer: all experience of a run on disk, and the sequences sampled from it.

The collection adds steps, the data module samples batches, `dreamer.run` builds it. It knows no
networks, environments or Trainer.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from dreamer.replay.device_cache import DeviceCache
from dreamer.replay.episodes import EpisodeIndex
from dreamer.replay.sampling import (
    EpisodeSampler,
    Experience,
    IndependentSequences,
    Sampler,
    StepSampler,
    StreamSampler,
    is_stream,
)
from dreamer.replay.storage import Column, RingFiles, peek, size_on_disk
from dreamer.schema.types import PositiveCount, doc
from dreamer.schema.validation import check
from dreamer.types import Batch, TimeStep, obs_dtype

SAMPLERS = {"episodes": EpisodeSampler, "steps": StepSampler}  # by name in conf/, without keys


@dataclass(frozen=True)
class ReplayConfig:
    """Capacity and sampling of the replay; conf/replay holds the defaults."""

    capacity_policy_steps: Annotated[
        PositiveCount,
        doc(
            "Capacity in steps of all environments together; a reset takes a step, too.",
            unit="policy steps",
            source="the authors' configs.yaml, replay.capacity",
        ),
    ]
    sampling: Annotated[
        str | Callable[[Experience], Sampler | StreamSampler],
        doc(
            "episodes: uniform over episodes, as the authors; steps: over starts; sequential: "
            "whole episodes in order; or a node."
        ),
    ]
    across_episodes: Annotated[
        bool,
        doc("Let sequences continue into the next episode, for short episodes."),
    ]
    device: Annotated[
        Literal["cpu", "cuda"],
        doc("Device that gathers batches; cuda: from a copy on the GPU."),
    ] = "cpu"
    carry_state: Annotated[
        bool,
        doc("Start each batch from the states after the last one; needs sampling=sequential."),
    ] = False
    store: Annotated[
        str | None,
        doc("Address where finished episodes are written, such as s3://bucket/runs; null: none."),
    ] = None

    def __post_init__(self):
        check(self)
        if not (callable(self.sampling) or self.sampling in SAMPLERS):
            raise ValueError(
                "`replay.sampling` must be episodes, steps or a node with `_target_`, "
                f"got {self.sampling}"
            )
        check_carry_state(self.carry_state, self.sampling)


def check_carry_state(carry_state: bool, sampling: Any) -> None:
    """Raise a ValueError if states are carried between sequences that do not continue.

    Args:
        carry_state: whether they are.
        sampling: a name, a class of samplers, or one with bound keys.
    """
    target = getattr(sampling, "func", sampling)
    if carry_state and not is_stream(target):
        name = getattr(target, "__name__", target)
        raise ValueError(
            "`replay.carry_state` must be false unless each batch continues the one before, got "
            f"true with {name}. Set replay.sampling=sequential."
        )


class Replay:
    """A ring of steps per environment, in memory-mapped files, sampled as sequences.

    `dreamer.replay.sampling` defines the distribution of sequences. Not safe for several threads or
    processes at once.
    """

    def __init__(
        self,
        directory: Path,
        *,
        obs_shapes: dict[str, tuple[int, ...]],
        action_size: int,
        env_count: int,
        config: ReplayConfig,
        seed: int,
    ):
        """Open the replay in `directory`, or create an empty one.

        Args:
            directory: for the replay only.
            obs_shapes: by key, of one environment: (C, H, W) uint8 image or (O,) float32 vector.
            action_size: A.
            env_count: E.
            config: capacity and sampling.
            seed: of the sampling.

        Raises:
            OSError: the disk has too little space for the full replay.
            ValueError: the directory holds a replay with another layout, or a damaged one; the
                capacity is below one step per environment; or the device is missing or has too
                little memory.
        """
        if config.capacity_policy_steps < env_count:
            raise ValueError(
                f"`capacity_policy_steps` must be at least {env_count}, the number of "
                f"environments, got {config.capacity_policy_steps}"
            )
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("`replay.device` must be cpu without a CUDA device, got cuda")
        self._generator = np.random.default_rng(seed)
        self._obs_keys = list(obs_shapes)
        self._files = RingFiles(
            directory,
            columns_of(obs_shapes, action_size),
            env_count=env_count,
            capacity=config.capacity_policy_steps // env_count,
        )
        # For `add`, time first: observations by key, then the others in its order.
        columns = [column.swapaxes(0, 1) for column in self._files.columns.values()]
        self._obs_columns = dict(zip(obs_shapes, columns, strict=False))
        self._other_columns = columns[len(obs_shapes) :]
        self._sampled = [x for x in self._files.columns if x not in ("is_last", "episode")]
        self._device_cache: DeviceCache | None = None
        if config.device == "cuda":
            self._device_cache = DeviceCache(self._files, self._sampled, torch.device("cuda"))
        self._episodes = EpisodeIndex(env_count)
        self._experience = Experience(self._files, self._episodes, config.across_episodes)
        sampling = config.sampling
        make_sampler = SAMPLERS[sampling] if isinstance(sampling, str) else sampling
        sampler: Any = make_sampler(self._experience)
        self._sampler: StreamSampler | IndependentSequences = (
            sampler if is_stream(sampler) else IndependentSequences(sampler, self._experience)
        )
        self._is_open = np.zeros(env_count, bool)
        self._open_start = np.zeros(env_count, np.int64)
        self._episode = np.zeros(env_count, np.int32)
        # Gets the environment, first and past last step of every episode that ends.
        self.on_episode: Callable[[int, int, int], None] | None = None
        self.is_refilled = False  # it holds other steps than the checkpoint that is loaded says
        self._restore_index()

    @staticmethod
    def size_on_disk(
        obs_shapes: dict[str, tuple[int, ...]],
        action_size: int,
        env_count: int,
        config: ReplayConfig,
    ) -> int:
        """Return the bytes of such a replay when full, without creating it."""
        capacity = config.capacity_policy_steps // env_count
        return size_on_disk(
            columns_of(obs_shapes, action_size), env_count=env_count, capacity=capacity
        )

    @staticmethod
    def count_stored(directory: Path) -> tuple[int, int]:
        """Return the policy steps ever added to the replay in `directory`, and its environments.

        It changes nothing. Both are 0 if nothing was ever stored.

        Raises:
            ValueError: the directory holds other files than those of a replay.
        """
        stored = peek(directory)
        if stored is None or not stored.steps:
            return 0, 0
        if "episode" not in stored.columns:
            raise ValueError(f"{directory} must hold the columns of a replay, got others.")
        episode = stored.columns["episode"]  # (E, L)
        newest = episode[:, (stored.steps - 1) % episode.shape[1]]
        return len(newest) * stored.steps - int((newest + 1).sum()), len(newest)

    @property
    def steps(self) -> int:
        """Steps per environment ever added, without those removed by a roll-back."""
        return self._files.steps

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of the full replay."""
        return self._files.size_bytes

    @property
    def episodes(self) -> int:
        """Number of complete episodes held."""
        return len(self._episodes)

    @property
    def longest_episode(self) -> int:
        """Steps of the longest complete episode, its reset included; 0 without one."""
        return self._episodes.longest

    @property
    def policy_steps(self) -> int:
        """Policy steps held, of all environments: the steps that are not resets."""
        steps, oldest, slots = self._files.steps, self._files.oldest, self._files.slots
        if steps == oldest:
            return 0
        columns, first = self._files.columns, oldest % slots
        resets = self._episode - columns["episode"][:, first] + columns["is_first"][:, first]
        return len(self._episode) * (steps - oldest) - int(resets.sum())

    @property
    def total_policy_steps(self) -> int:
        """Policy steps ever added, of all environments, without those removed by a roll-back."""
        return len(self._episode) * self._files.steps - int((self._episode + 1).sum())

    @property
    def stream_restarts(self) -> int | None:
        """Streams that started anew because their steps were overwritten; None without streams."""
        return self._sampler.restarts

    def add(self, step: TimeStep, prev_action: np.ndarray) -> None:
        """Store one step of every environment, resets included; a full ring drops the oldest.

        An episode without `is_last` that is followed by a reset, after a crash, is closed.

        Args:
            step: of E environments.
            prev_action: (E, A) the action that led to it; zeros where it is a reset.

        Raises:
            ValueError: an environment continues after the end of its episode without a reset.
        """
        files = self._files
        number = files.steps
        if np.count_nonzero(step.is_first | self._is_open) < len(self._is_open):
            raise ValueError("`is_first` must be set on the first step and after every last step")
        begins = np.count_nonzero(step.is_first)  # fast path: most steps begin and end no episode
        if begins:
            self._close_episodes(self._is_open & step.is_first)
            self._episode += step.is_first

        slot = number % files.slots
        for key, column in self._obs_columns.items():
            np.copyto(column[slot], step.obs[key], casting="same_kind")  # no float into uint8
        others = (prev_action, step.reward, step.is_first, step.is_last, step.is_terminal)
        for column, value in zip(self._other_columns, (*others, self._episode), strict=True):
            column[slot] = value
        files.commit()

        if begins:
            self._is_open |= step.is_first
            self._open_start[step.is_first] = number
        if np.count_nonzero(step.is_last):
            self._close_episodes(step.is_last)
        self._episodes.drop_before(files.oldest)

    def can_sample(self, length: int) -> bool:
        """Return whether a sequence of this many steps can be sampled now."""
        return self._sampler.can_sample(length)

    def sample(self, batch_size: int, length: int) -> Batch:
        """Sample sequences.

        Args:
            batch_size: B, sequences.
            length: T, steps of each.

        Returns:
            Copies (T, B, ...) on the device of the replay; on a CPU beside a GPU they are pinned.
            `is_first` is set at t = 0 of every sequence, and `prev_action[0]` is as stored, both as
            in the authors' code. Streams set it where they begin or are reset.

        Raises:
            ValueError: no sequence of this length is held.
        """
        try:
            env, step, resets, begins = self._sampler.next_batch(  # (T, B) each
                self._generator, batch_size, length
            )
        except LookupError:
            raise ValueError(
                f"No sequence of {length} steps can be sampled: the longest complete episode held "
                f"has {self.longest_episode} steps, and {self.policy_steps} policy steps are held "
                "in all. Choose a shorter batch length, a longer prefill or "
                "replay.across_episodes=true."
            ) from None
        source = self._device_cache or self._files
        gathered = {name: source.gather(name, env, step) for name in self._sampled}
        device = gathered["reward"].device
        gathered["is_first"] |= torch.from_numpy(resets | begins).to(device)
        gathered["reward"].masked_fill_(torch.from_numpy(begins).to(device), 0)
        obs = {key: gathered.pop(f"obs_{key}") for key in self._obs_keys}
        return Batch(obs=obs, **gathered)

    def close_episodes(self) -> None:
        """End the open episodes with their newest step, as if a time limit had cut them."""
        self._close_episodes(self._is_open.copy())

    def complete_episodes(self) -> list[tuple[int, int, int]]:
        """Return environment, first and past last step of all episodes that are complete."""
        return [(env, start, stop) for env, start, stop in self._episodes.to_array().tolist()]

    def open_episodes(self) -> list[tuple[int, int, int]]:
        """Return environment, first and past last step of the episodes that go on."""
        held = np.flatnonzero(self._is_open & (self._open_start >= self._files.oldest)).tolist()
        return [(env, int(self._open_start[env]), self._files.steps) for env in held]

    def clear(self) -> None:
        """Remove all steps; their space on disk is reused."""
        self._files.roll_back(0, floor=0)
        if self._device_cache:
            self._device_cache.roll_back()
        self._restore_index()

    def state_dict(self) -> dict[str, Any]:
        """Return which steps are held, the random state and the streams; the steps stay on disk.

        JSON text, because the generator's 128-bit integers fit into no tensor.
        """
        state = {
            "steps": self._files.steps,
            "oldest": self._files.oldest,
            "generator": json.dumps(self._generator.bit_generator.state),
        }
        sampler = self._sampler.state_dict()
        return state | ({"sampler": sampler} if sampler else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Roll back to a state: remove the steps added since, and close the open episodes.

        Steps that were overwritten since are lost, with a warning. There is also a warning if the
        state has more steps than were ever stored here. A replay that `is_refilled` keeps what it
        has, and its streams start anew.

        Raises:
            ValueError: Nothing is stored here, but the state has steps: the files are damaged.
        """
        written, oldest = self._files.steps, self._files.oldest
        if state["steps"] and written <= oldest:
            raise ValueError(
                f"The replay in {self._files.directory} is damaged: it holds none of the "
                f"{state['steps']} steps per environment of the checkpoint. Restore it, or choose "
                "another run_dir=."
            )
        if self.is_refilled:
            pass
        elif state["steps"] > written:
            warnings.warn(
                f"The checkpoint has {state['steps']} steps per environment, but the replay has "
                f"only {written}: the run continues with these.",
                stacklevel=2,
            )
        else:
            if state["oldest"] < oldest:
                lost = min(oldest, state["steps"]) - state["oldest"]
                warnings.warn(
                    f"Since the checkpoint, the replay has overwritten {lost} of its "
                    f"{state['steps'] - state['oldest']} steps per environment: the run continues "
                    "with the rest.",
                    stacklevel=2,
                )
            self._files.roll_back(state["steps"], floor=oldest)
            if self._device_cache:
                self._device_cache.roll_back()
        self._restore_index()
        self.close_episodes()
        self._generator.bit_generator.state = json.loads(state["generator"])
        if "sampler" in state and not self.is_refilled:
            self._sampler.load_state_dict(state["sampler"])

    def _close_episodes(self, which: np.ndarray) -> None:
        """Mark the newest step of some environments, (E,) bool, as the last of its episode."""
        steps, oldest = self._files.steps, self._files.oldest
        for env in which.nonzero()[0].tolist():
            self._files.columns["is_last"][env, (steps - 1) % self._files.slots] = True
            if self._open_start[env] >= oldest:
                start = int(self._open_start[env])
                self._episodes.append(env, start, steps)
                if self.on_episode is not None:
                    self.on_episode(env, start, steps)
            self._is_open[env] = False

    def _restore_index(self) -> None:
        """Rebuild the index of episodes from the flags of the steps held."""
        steps, oldest = self._files.steps, self._files.oldest
        columns, slots = self._files.columns, self._files.slots
        self._episodes.clear()
        self._is_open[:], self._episode[:] = False, -1
        if steps == oldest:
            return
        last = (steps - 1) % slots
        self._is_open[:] = ~columns["is_last"][:, last]
        self._episode[:] = columns["episode"][:, last]
        slot = np.arange(oldest, steps) % slots
        for env, is_open in enumerate(self._is_open):
            starts = oldest + np.flatnonzero(columns["is_first"][env, slot])
            stops = np.append(starts, steps)[1:]
            # An open episode without a reset has lost its start: it began before the oldest step.
            self._open_start[env] = starts[-1] if len(starts) else oldest - 1
            complete = len(starts) - is_open
            for start, stop in zip(starts[:complete].tolist(), stops.tolist(), strict=False):
                self._episodes.append(env, start, stop)


def columns_of(obs_shapes: dict[str, tuple[int, ...]], action_size: int) -> dict[str, Column]:
    """Return the columns of one environment's steps, by name."""
    return {
        **{
            f"obs_{key}": Column(tuple(shape), np.dtype(obs_dtype(shape)).name)
            for key, shape in obs_shapes.items()
        },
        "prev_action": Column((action_size,), "float32"),
        "reward": Column((), "float32"),
        "is_first": Column((), "bool"),
        "is_last": Column((), "bool"),
        "is_terminal": Column((), "bool"),
        "episode": Column((), "int32"),  # its number in the environment: grows at every reset
    }
