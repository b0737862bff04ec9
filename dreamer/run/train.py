"""Trains an agent as configured: builds the parts, fits the agent, and writes the summary.

`dreamer.cli.train` and `dreamer.train` call it, the latter with environments of the user's program.
"""

import logging
import math
import random
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from dreamer.agent import DreamerAgent
from dreamer.callbacks.budget import UpdateBudget
from dreamer.callbacks.checkpoint import Checkpoint
from dreamer.callbacks.collect import Collect
from dreamer.callbacks.interrupt import Interrupt, Interrupted
from dreamer.callbacks.metrics import Metrics
from dreamer.callbacks.mirror import Mirror
from dreamer.callbacks.progress import Progress
from dreamer.callbacks.store import Store
from dreamer.collector import Collector
from dreamer.data.holdout import HeldOut
from dreamer.data.uploads import finish_uploads
from dreamer.envs.base import VectorEnvs
from dreamer.envs.codecs import codec_of
from dreamer.evaluation import EVALUATION_SEED
from dreamer.loggers import finish, truncate
from dreamer.policy import PolicyContext, RandomPolicy
from dreamer.replay.dataset import ReplayDataModule
from dreamer.replay.mixture import AnyReplay
from dreamer.run.build import (
    apply_kernels,
    check_device,
    make_actor,
    make_agent,
    make_collect_policy,
    make_envs,
    make_evaluation_policies,
    make_explorer,
    make_loggers,
    make_refresh,
    make_replay_config,
    make_trainer,
    on_cuda,
    with_rendering,
)
from dreamer.run.config import checked, most_updates, reasons
from dreamer.run.cost import estimate_cost
from dreamer.run.experience import (
    Experience,
    copy_again,
    copy_experience,
    make_replays,
    must_copy,
    plan_experience,
    read_headers,
    read_held_out,
    spaces_from,
)
from dreamer.run.folder import FolderInUse, ResumePoint, RunFolder
from dreamer.run.header import print_header
from dreamer.run.initial import check_same_weights, load_initial
from dreamer.run.offline import counter_of, has_no_environment, is_offline
from dreamer.run.places import Places, Refill, find_places, find_refill, refill, restore


class Summary(NamedTuple):
    """The result of a run."""

    run_dir: str
    frames: int
    policy_steps: int
    updates: int
    metrics: dict[str, float]  # the latest value of every key


class EnvsMaker(Protocol):
    """Makes a group of environments; `count` overrides that of the configuration."""

    def __call__(self, cfg: DictConfig, *, seed: int, count: int | None = None) -> VectorEnvs:
        """See `build.make_envs`."""
        ...


def _begin_with(
    cfg: DictConfig,
    folder: RunFolder,
    resume: ResumePoint | None,
    make_envs: EnvsMaker,
    seed: int,
) -> tuple[VectorEnvs, Experience | None]:
    """Make the environments, or what has their spaces, and plan which stored data to copy."""
    copies = must_copy(cfg, folder, resume)
    if has_no_environment(cfg):
        headers = read_headers(cfg, folder, None) if copies else []
        envs = spaces_from(headers, cfg, folder)
        return envs, plan_experience(headers, cfg, envs)
    one = {"count": 1} if is_offline(cfg) else {}  # for its spaces only
    envs = make_envs(cfg, seed=seed, **one)
    try:
        headers = read_headers(cfg, folder, envs) if copies else []
        return envs, plan_experience(headers, cfg, envs)
    except BaseException:
        envs.close()
        raise


@reasons()
def train(cfg: DictConfig, make_envs: EnvsMaker = make_envs) -> Summary:
    """Train an agent as configured, or resume its run.

    The same configuration resumes an unfinished run; a finished one is left alone.

    Args:
        cfg: Composed from conf/train.yaml.
        make_envs: Makes the environments of the configuration or of a program.

    Raises:
        ValueError: The configuration is not valid.
        FolderInUse: Another process is using the run folder, or has just used it.
        OSError: The disk is too small, or the run folder is not writable.
        Interrupted: On Ctrl-C or SIGTERM; the run is saved and can be resumed.
        NonFiniteError: A loss is not finite; the run is saved as it was before the update.
    """
    cfg = checked(cfg)
    folder = RunFolder.of(cfg)
    folder.check_no_links()
    places = find_places(cfg, folder)
    restore(cfg, folder, places)
    folder.check_same_run(cfg)
    finished = folder.finished(cfg)
    if finished:
        done = f"{finished[counter_of(cfg)]} {counter_of(cfg)}"
        print(f"{folder.path} is finished: {done}. Nothing to do.")
        known = {key: finished[key] for key in Summary._fields if key != "run_dir"}
        return Summary(str(folder.path), **known)  # the folder may have moved
    check_device(cfg)
    _seed_everything(cfg.seed)
    _silence_lightning()

    replaceable = {"has_store": places.store is not None, "collects": not is_offline(cfg)}
    resume = folder.resume_point(**replaceable)
    if resume is None:
        folder.check_may_begin(cfg)
    # Seeds also depend on the frame, so that a resumed run does not repeat its first episodes.
    stream = np.random.SeedSequence([cfg.seed, resume.frames if resume else 0])
    seed = int(stream.generate_state(1)[0]) % 2**31
    envs, experience = _begin_with(cfg, folder, resume, make_envs, seed)
    try:
        folder.check_same_spaces(codec_of(envs).to_dict())
        agent = make_agent(cfg, envs)
        if resume:
            check_same_weights(resume.path, agent, folder.remedies())
        sources = {} if resume else load_initial(cfg, agent)  # before anything copies the networks
        held_out = read_held_out(cfg, folder, envs)
        lost = None
        if resume and places.store is not None:
            lost = find_refill(
                places.store,
                folder,
                resume,
                env_count=envs.count,
                capacity=cfg.replay.capacity_policy_steps,
            )
        with folder.lock():
            if folder.resume_point(**replaceable) != resume:
                raise FolderInUse(
                    f"Another process has continued {folder.path} while this one was starting. "
                    "Repeat the command if the run is not finished."
                )
            if resume is None:
                folder.check_may_begin(cfg)  # another process may have started and died meanwhile
            try:
                with ExitStack() as at_end:
                    return _fit(
                        cfg,
                        folder,
                        envs,
                        agent,
                        resume,
                        make_envs,
                        seed=seed,
                        sources=sources,
                        experience=experience,
                        places=places,
                        lost=lost,
                        held_out=held_out,
                        at_end=at_end,
                    )
            except Interrupted:
                raise
            except Exception:
                if folder.begun:
                    folder.fail(traceback.format_exc())
                raise
    finally:
        envs.close()


def _fit(
    cfg: DictConfig,
    folder: RunFolder,
    envs: VectorEnvs,
    agent: DreamerAgent,
    resume: ResumePoint | None,
    make_envs: EnvsMaker,
    *,
    seed: int,
    sources: dict[str, str],
    experience: Experience | None,
    places: Places,
    lost: Refill | None,
    held_out: HeldOut | None,
    at_end: ExitStack,
) -> Summary:
    replay, own, targets = make_replays(cfg, folder, envs, make_replay_config(cfg), experience)
    offline, counter = is_offline(cfg), counter_of(cfg)
    if offline:  # schedules count policy steps: they move as in an online run
        agent.steps_per_update = cfg.train_every_policy_steps
    updates = most_updates(cfg, envs.action_repeat)
    data = ReplayDataModule(
        replay, batch_size=cfg.batch.size, length=cfg.batch.length, updates=updates
    )
    left = updates - (resume.updates if resume else 0)
    cost = None if on_cuda(cfg) else estimate_cost(agent, cfg.batch.size, cfg.batch.length, left)
    kernels = apply_kernels(cfg, agent)
    uniform = RandomPolicy(envs.action_space, seed)
    policies = PolicyContext(  # after the kernels: a snapshot copies the networks
        actor=make_actor(cfg, agent),
        random=uniform,
        explorer=make_explorer(cfg, agent, uniform),
        explore_policy_steps=_explore_policy_steps(cfg, envs.action_repeat),
        obs_shapes=envs.obs_shapes,
        action_space=envs.action_space,
        components=dict(agent.components.items()),
        seed=seed,
    )
    metrics: Metrics = instantiate(cfg.callbacks.metrics)(replay)
    progress: Progress | None = None
    if cfg.callbacks.progress:
        progress = instantiate(cfg.callbacks.progress)(
            metrics,
            total=cfg[f"total_{counter}"],
            prefill_frames=0 if offline else cfg.prefill_policy_steps * envs.action_repeat,
            counter=counter,
        )
    interrupt = Interrupt()
    checkpoint: Checkpoint = instantiate(cfg.callbacks.checkpoint)(folder.checkpoints, metrics)
    store: Store | None = None
    if places.store is not None:
        resumes = resume is not None
        store = Store(places.store, own, folder.replay, metrics, resumes=resumes)
    if places.mirror is not None:
        checkpoint.mirror = Mirror(places.mirror, folder.path, metrics)
    at_end.callback(finish_uploads, [part for part in (checkpoint.mirror, store) if part])
    callbacks = _make_callbacks(
        cfg,
        folder,
        envs,
        agent,
        replay,
        metrics,
        checkpoint,
        progress,
        interrupt,
        policies=policies,
        make_envs=make_envs,
        held_out=held_out,
    )
    if store is not None:
        callbacks.insert(0, store)  # before the prefill
    trainer = make_trainer(cfg, logger=False, callbacks=callbacks, default_root_dir=folder.path)
    with _open_loggers(cfg, folder, envs, resume, metrics) as loggers:
        trainer.loggers = loggers
        # All parts are built without an error; only now change the run folder.
        folder.begin(cfg, codec_of(envs).to_dict())
        if resume is None:
            replay.clear()  # of an earlier start without a checkpoint
            folder.note_copy(experience and experience.numbers)
            if experience:
                with interrupt.listening():
                    copied = copy_experience(experience, targets, interrupt.check)
                sources = sources | copied
        else:
            if lost is not None:
                assert store is not None
                own.clear()
                with interrupt.listening():
                    sources = sources | {"own steps": refill(lost, own, interrupt.check)}
                checkpoint.saves_at_start = True
                store.refilled(lost.steps)
            if experience:
                with interrupt.listening():
                    copied = copy_again(experience, targets, resume, interrupt.check)
                sources = sources | copied
                checkpoint.saves_at_start |= any(target.is_refilled for target, _ in targets)
            truncate(loggers, resume.count(counter))
        print_header(
            *(cfg, folder, envs, agent, replay, trainer, resume),
            cost=cost,
            kernels=kernels,
            sources=sources,
        )
        start = time.time()
        try:
            path = resume.path if resume else None
            with interrupt.listening():
                trainer.fit(agent, datamodule=data, ckpt_path=path, weights_only=True)
        finally:
            if progress:
                progress.close()
            _print_profile(trainer)
    summary = Summary(
        str(folder.path), agent.frames, agent.policy_steps, agent.updates, metrics.latest
    )
    folder.finish(summary._asdict())
    score = metrics.latest.get("eval/return_mean")
    frames = "" if offline else f"{agent.frames} frames, "
    print(
        f"Finished after {time.time() - start:.0f} s: {frames}{agent.updates} "
        f"updates{'' if score is None else f', evaluation return {score:.2f}'}. "
        f"Results: {folder.path}"
    )
    return summary


@contextmanager
def _open_loggers(
    cfg: DictConfig,
    folder: RunFolder,
    envs: VectorEnvs,
    resume: ResumePoint | None,
    metrics: Metrics,
) -> Iterator[list[Logger]]:
    """Open the loggers, and close them with the exit code of the run."""

    def count(name: str, error: BaseException) -> None:
        metrics.fail(name, "logger/failures", error)

    loggers: list[Logger] = [*make_loggers(cfg, folder, envs, resume, count)]
    exit_code = 1
    try:
        yield loggers
        exit_code = 0
    except Interrupted as stop:
        exit_code = 128 + stop.signal_number
        raise
    finally:
        finish(loggers, exit_code=exit_code)


def _make_callbacks(
    cfg: DictConfig,
    folder: RunFolder,
    envs: VectorEnvs,
    agent: DreamerAgent,
    replay: AnyReplay,
    metrics: Metrics,
    checkpoint: Checkpoint,
    progress: Progress | None,
    interrupt: Interrupt,
    *,
    policies: PolicyContext,
    make_envs: EnvsMaker,
    held_out: HeldOut | None,
) -> list[pl.Callback]:
    """Make the callbacks, in the order in which they act: collect first, save before stopping."""
    callbacks: list[pl.Callback] = [
        _make_collect(cfg, envs, replay, metrics, progress, interrupt, policies),
        metrics,
    ]
    if cfg.callbacks.evaluate:
        count, seed = cfg.callbacks.evaluate.episodes, cfg.seed + EVALUATION_SEED
        has_video = cfg.callbacks.evaluate.get("video_policy_steps", 0) > 0
        played = with_rendering(cfg) if has_video else cfg
        callbacks.append(
            instantiate(cfg.callbacks.evaluate)(
                lambda: make_envs(played, seed=seed, count=count),
                make_evaluation_policies(cfg, agent),
                metrics,
                interrupt,
                folder.path,
            )
        )
    if cfg.callbacks.video:
        callbacks.append(instantiate(cfg.callbacks.video)(folder.path, metrics))
    if held_out is not None:
        intervals = _holdout_intervals(cfg)
        callbacks.append(
            instantiate(cfg.callbacks.holdout)(held_out, metrics, folder.path, **intervals)
        )
    return [*callbacks, checkpoint, *([progress] if progress else []), interrupt]


def _holdout_intervals(cfg: DictConfig) -> dict[str, int | None]:
    """Return the intervals of held-out scores: by default those of the evaluation."""
    other = cfg.callbacks.evaluate or cfg.callbacks.checkpoint
    keys = ("every_frames", "every_updates")
    return {key: cfg.callbacks.holdout.get(key) or other.get(key) for key in keys}


def _make_collect(
    cfg: DictConfig,
    envs: VectorEnvs,
    replay: AnyReplay,
    metrics: Metrics,
    progress: Progress | None,
    interrupt: Interrupt,
    policies: PolicyContext,
) -> Collect | UpdateBudget:
    """Make the callback that collects, or without collection the one that ends the run."""
    if is_offline(cfg):
        return UpdateBudget(
            replay, interrupt, total_updates=cfg.total_updates, batch_length=cfg.batch.length
        )
    collect_policy = make_collect_policy(cfg, policies)
    return Collect(
        Collector(envs),
        replay,
        metrics,
        interrupt,
        random_policy=policies.random,
        policy=collect_policy,
        action_repeat=envs.action_repeat,
        batch_length=cfg.batch.length,
        total_frames=cfg.total_frames,
        prefill_policy_steps=cfg.prefill_policy_steps,
        pretrain_updates=cfg.pretrain_updates,
        train_every_policy_steps=cfg.train_every_policy_steps,
        on_frames=progress.advance if progress else lambda frames: None,
        refresh=make_refresh(policies, collect_policy),
    )


def _explore_policy_steps(cfg: DictConfig, action_repeat: int) -> int | None:
    """Return when the explorer ends, in policy steps."""
    until = cfg.explore.get("until_frames")
    return None if until is None else math.ceil(until / action_repeat)


def _seed_everything(seed: int) -> None:
    """Seed the global generators, only here; the agent draws from torch's."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _print_profile(trainer: pl.Trainer) -> None:
    """Print what `trainer.profiler` has measured, unless it writes to a file.

    Lightning prints it while the progress line is still there, and only if its messages are shown.
    """
    profiler: Any = getattr(trainer, "profiler")  # noqa: B009 -- not declared
    if not getattr(profiler, "filename", None) and (text := profiler.summary()):
        print(text.strip())


def _silence_lightning() -> None:
    """Suppress the Trainer's standard messages; `header.py` describes the run."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*is inside the.*",
        ".*is smaller than the logging interval.*",
        ".*Your `IterableDataset` has `__len__` defined.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*callbacks used to create the checkpoint need to be provided.*",  # replay.store, once
    ):
        warnings.filterwarnings("ignore", message)
