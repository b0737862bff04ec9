"""Stored experience that a run learns from: `data.train`, and `data.prefill` of an online run.

`train.py` copies it into replays. It knows addresses and their weights, no format of files.
"""

import functools
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig

from dreamer.data.feed import Fit, Header, Keep, episodes, keep_all, read_header, spaces_of
from dreamer.data.holdout import Clip, HeldOut, is_held_out, read_clips, stack
from dreamer.envs.base import VectorEnvs
from dreamer.envs.codecs import SpaceCodec, codec_from_dict
from dreamer.envs.offline import StoredSpaces
from dreamer.replay.buffer import Replay, ReplayConfig
from dreamer.replay.mixture import AnyReplay, MixedReplay
from dreamer.replay.storage import peek
from dreamer.replay.stored import copy_episodes, count_too_old
from dreamer.run.folder import ResumePoint, RunFolder
from dreamer.run.offline import Source, is_offline, rename_of, sources_of
from dreamer.run.paths import absolute, is_remote


class Part(NamedTuple):
    """Stored data that are to be copied into one replay."""

    header: Header
    fit: Fit
    too_old: int  # episodes to leave out, the oldest

    @property
    def numbers(self) -> dict[str, Any]:
        """The source and the size, for the run folder."""
        lengths = self.header.lengths[self.too_old :]
        return {
            "source": self.header.address,
            "episodes": len(lengths),
            "policy_steps": sum(lengths) - len(lengths),
        }


class Experience(NamedTuple):
    """All stored data that a run begins with."""

    parts: list[Part]

    @property
    def numbers(self) -> dict[str, Any]:
        """The sources and their size, for the run folder."""
        found = [part.numbers for part in self.parts]
        if len(found) == 1:
            return found[0]
        total = {key: sum(one[key] for one in found) for key in ("episodes", "policy_steps")}
        return {"source": [one["source"] for one in found], **total}


def must_copy(cfg: DictConfig, folder: RunFolder, resume: ResumePoint | None) -> bool:
    """Whether the data of a run are to be copied: at its start, and if their copy is lost.

    Args:
        cfg: The configuration.
        folder: The run folder.
        resume: The checkpoint; None: the run starts.
    """
    if resume is None:
        return True
    directories = stored_in(cfg, folder)
    before = resume.steps[len(resume.steps) - len(directories) :]
    for directory, steps in zip(directories, before, strict=True):
        stored = peek(directory)
        if stored is None or stored.steps < steps:
            return True
    return False


def stored_in(cfg: DictConfig, folder: RunFolder) -> list[Path]:
    """Return the directories that hold nothing but stored data, one for each source."""
    count = len(sources_of(cfg))
    if is_offline(cfg) and count == 1:
        return [folder.replay]
    if not (is_offline(cfg) or cfg.data.mix):  # new steps come to the data
        return []
    return [folder.stored / str(number) for number in range(count)]


def read_headers(cfg: DictConfig, folder: RunFolder, envs: VectorEnvs | None) -> list[Header]:
    """Make the first pass over the data of a run; nothing is written.

    A run that they come from may be active.

    Args:
        cfg: Its configuration.
        folder: Its folder, which cannot be a source.
        envs: Its environments; None with env=offline.

    Raises:
        ValueError: There are no such data, their shapes differ, or they cannot be read.
    """
    return [
        _read_header(source, folder, envs, _kept(cfg))
        for source in sources_of(cfg)  # none, one or several
    ]


def read_held_out(cfg: DictConfig, folder: RunFolder, envs: VectorEnvs) -> HeldOut | None:
    """Read sequences of the episodes of `data.holdout`; None: there are none to score.

    A resumed run reads the same ones again.

    Raises:
        ValueError: There are no such data, or those of other observations or actions.
    """
    share, node = cfg.data.holdout, cfg.callbacks.get("holdout")
    if share is None or node is None:
        return None
    sources, keep = [Source("data.holdout", str(share))], keep_all
    if not isinstance(share, str):
        sources, keep = sources_of(cfg), functools.partial(is_held_out, share=share)
    clips: list[Clip] = []
    for source in sources:
        header = _read_header(source, folder, envs, keep)
        fit = Fit.of(header, envs.obs_shapes, envs.action_space, rename_of(cfg))
        length = node.context + max(node.horizons)
        clips += read_clips(header, fit, keep, count=node.episodes, length=length)
    if not clips:
        raise ValueError("`data.holdout` must hold episodes that can be read, got none")
    return stack(sorted(clips, key=lambda clip: clip.number)[: node.episodes])


def _kept(cfg: DictConfig) -> Keep:
    """Return which episodes may be trained on, by their names."""
    share = cfg.data.holdout
    if not isinstance(share, float):
        return keep_all
    return lambda name: not is_held_out(name, share)


def _read_header(source: Source, folder: RunFolder, envs: VectorEnvs | None, keep: Keep) -> Header:
    key, address = source.key, source.address
    must = f"`{key}` must be the address of stored episodes, got {address}"
    if not is_remote(address):
        if not Path(address).exists():
            raise ValueError(f"{must}, which does not exist")
        if Path(address) == absolute(folder.path):
            raise ValueError(f"{must}, which is that of this run")
    try:
        return read_header(key, address, envs.action_space if envs else None, keep)
    except FileNotFoundError as error:
        raise ValueError(f"{must}, which does not exist") from error
    except ValueError as error:
        raise ValueError(f"{must}: {error}") from error


def spaces_from(headers: Sequence[Header], cfg: DictConfig, folder: RunFolder) -> StoredSpaces:
    """Return the spaces of a run without an environment: of its data, or of its folder.

    Args:
        headers: Of the data; none if the run is resumed.
        cfg: Its configuration.
        folder: Its folder.

    Raises:
        ValueError: The data suggest none, or the folder has lost its spaces.json.
    """
    if headers:
        return StoredSpaces(spaces_of(headers[0], rename_of(cfg)))
    stored = folder.spaces()
    if stored is None:
        raise ValueError(
            f"{folder.path / 'spaces.json'} is missing, which describes the observations and "
            "actions of the run. Restore it."
        )
    codec: SpaceCodec = codec_from_dict(stored)
    return StoredSpaces(codec)


def plan_experience(
    headers: Sequence[Header], cfg: DictConfig, envs: VectorEnvs
) -> Experience | None:
    """Check that the data fit the spaces of a run, and choose what is copied; None: nothing.

    A replay with nothing but stored data has their size. Into another one, the newest episodes are
    copied that fit.

    Raises:
        ValueError: The data have other observations or actions, or fewer episodes than
            environments here.
    """
    spaces = envs.obs_shapes, envs.action_space, rename_of(cfg)
    fits = [Fit.of(header, *spaces) for header in headers]
    if is_offline(cfg) or cfg.data.mix:
        parts = [Part(header, fit, 0) for header, fit in zip(headers, fits, strict=True)]
        return Experience(parts) if parts else None
    if not headers:
        return None
    (header,), (fit,) = headers, fits
    per_environment = cfg.replay.capacity_policy_steps // envs.count
    too_old = count_too_old(header.lengths, per_environment * envs.count)
    left = len(header.lengths) - too_old
    if left < envs.count:
        raise ValueError(
            f"`{header.key}` must have an episode for each of the {envs.count} environments "
            "(`env.count`) that fits into `replay.capacity_policy_steps`, got "
            f"{left} in {header.address}"
        )
    return Experience([Part(header, fit, too_old)])


class Replays(NamedTuple):
    """The replay of a run, and where its stored data go."""

    whole: AnyReplay
    own: Replay  # gets the steps of a run that collects
    targets: list[tuple[Replay, int]]  # of each part of the data, and its environments


def make_replays(
    cfg: DictConfig,
    folder: RunFolder,
    envs: VectorEnvs,
    config: ReplayConfig,
    experience: Experience | None,
) -> Replays:
    """Open the replays of a run, or create them.

    An online run has one in replay/, and with `data.mix` another one in stored/ with the data. A
    run that collects nothing has one in replay/, or one for each source in stored/.

    Args:
        cfg: The configuration.
        folder: The run folder.
        envs: What the run plays in, or the spaces of its data.
        config: Of the replay that the run fills.
        experience: What is to be copied; None: nothing, or what is to be there already.

    Raises:
        OSError: The disk is too small.
        ValueError: A directory holds another replay, or a damaged one.
    """

    def open_replay(directory: Path, env_count: int, number: int, config: ReplayConfig) -> Replay:
        seed = np.random.SeedSequence([cfg.seed, number]) if number else cfg.seed
        return Replay(
            directory,
            obs_shapes=envs.obs_shapes,
            action_size=envs.action_space.size,
            env_count=env_count,
            config=config,
            seed=seed if isinstance(seed, int) else int(seed.generate_state(1)[0]),
        )

    sources, offline = sources_of(cfg), is_offline(cfg)
    parts: list[Replay] = []
    if not offline:
        parts.append(open_replay(folder.replay, envs.count, 0, config))
        if not cfg.data.mix:
            return Replays(parts[0], parts[0], [(parts[0], envs.count)])
    rings: list[Replay] = []
    for number, directory in enumerate(stored_in(cfg, folder)):
        if experience:  # what is there is of an earlier start; the data may have changed since
            shutil.rmtree(directory, ignore_errors=True)
            capacity = sum(experience.parts[number].header.lengths)
        else:
            capacity = _capacity_of(directory)
        ring = replace(config, capacity_policy_steps=capacity)
        rings.append(open_replay(directory, 1, number + (not offline), ring))
    parts += rings
    targets = [(ring, 1) for ring in rings]
    if len(parts) == 1:
        return Replays(parts[0], parts[0], targets)
    weights = [source.weight for source in sources] if offline else [1 - cfg.data.mix, cfg.data.mix]
    return Replays(MixedReplay(parts, weights, seed=cfg.seed), parts[0], targets)


def _capacity_of(directory: Path) -> int:
    """Return the capacity of a replay on disk."""
    stored = peek(directory)
    assert stored is not None  # or `must_copy` is true
    return next(iter(stored.columns.values())).shape[1] - 1


def copy_experience(
    experience: Experience,
    targets: Sequence[tuple[Replay, int]],
    check: Callable[[], None],
) -> dict[str, str]:
    """Copy the episodes into empty replays, and return lines of the start-up summary.

    Args:
        experience: From `plan_experience`.
        targets: Of each part, the replay and its environments. These steps do not count as frames
            or policy steps of the run.
        check: May raise to stop the copy. The next start copies from the beginning.

    Raises:
        ValueError: No episode of a part can be read any more.
        OSError: A place cannot be reached.
    """
    lines = [
        _copy(part, *target, check) for part, target in zip(experience.parts, targets, strict=True)
    ]
    names = ["experience", *(f"and from {n + 2}" for n in range(len(lines) - 1))]
    return dict(zip(names, lines, strict=True))


def copy_again(
    experience: Experience,
    targets: Sequence[tuple[Replay, int]],
    resume: ResumePoint,
    check: Callable[[], None],
) -> dict[str, str]:
    """Copy the data of a resumed run whose copy is lost; see `copy_experience`.

    There is a warning if they are not what they were. Then the run continues with what they are.
    """
    lines = copy_experience(experience, targets, check)
    before = resume.steps[len(resume.steps) - len(targets) :]
    for part, (replay, _), steps in zip(experience.parts, targets, before, strict=True):
        replay.is_refilled = replay.steps != steps
        if replay.is_refilled:
            warnings.warn(
                f"{part.header.address} has {replay.steps:,} steps, and had {steps:,} when the run "
                "began. The run continues with what it has now.",
                stacklevel=2,
            )
    return lines


def _copy(part: Part, replay: Replay, env_count: int, check: Callable[[], None]) -> str:
    header, numbers = part.header, part.numbers
    print(f"Copying {numbers['policy_steps']:,} policy steps from {header.address}", flush=True)
    found = episodes(header, part.fit, part.too_old)
    copied = copy_episodes(found, replay, env_count=env_count, check=check)
    reasons = [f"{name}: {reason}" for name, reason in header.skipped.items()]
    if not copied.episodes:
        raise ValueError(
            f"`{header.key}` must hold episodes that can be read, got {len(reasons)} skipped in "
            f"{header.address}, the first is {(reasons or ['none'])[0]}"
        )
    left_out = [
        f"{part.too_old:,} older episodes (replay.capacity_policy_steps)" * bool(part.too_old),
        f"{copied.lost_steps:,} steps at the ends of episodes" * bool(copied.lost_steps),
        f"{len(reasons):,} skipped, the first is {(reasons or [''])[0]}" * bool(reasons),
    ]
    line = (
        f"{copied.episodes:,} episodes with {copied.policy_steps:,} policy steps from "
        f"{header.address}"
    )
    if any(left_out):
        line += f"; left out: {', '.join(filter(None, left_out))}"
    return line
