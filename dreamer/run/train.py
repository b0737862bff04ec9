"""Runs what a configuration says: puts the parts together, trains, and says how it ended.

`train.py` calls it, and `dreamer.train`, with environments of the user's program.
"""

import logging
import random
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from dreamer.agent import DreamerAgent
from dreamer.callbacks.collect import Collect
from dreamer.callbacks.interrupt import Interrupt, Interrupted
from dreamer.callbacks.metrics import Metrics
from dreamer.callbacks.progress import Progress
from dreamer.collector import Collector
from dreamer.envs.base import VectorEnvs
from dreamer.envs.codecs import codec_of
from dreamer.evaluation import EVALUATION_SEED
from dreamer.loggers import finish, go_on_from
from dreamer.policy import PolicyContext, RandomPolicy
from dreamer.replay.buffer import Replay
from dreamer.replay.dataset import ReplayDataModule
from dreamer.run.build import (
    apply_kernels,
    check_device,
    choose_precision,
    make_actor,
    make_agent,
    make_collect_policy,
    make_envs,
    make_evaluation_policy,
    make_loggers,
    make_refresh,
    make_replay_config,
    on_cuda,
)
from dreamer.run.config import checked, most_updates, reasons
from dreamer.run.cost import estimate_cost
from dreamer.run.folder import FolderInUse, ResumePoint, RunFolder
from dreamer.run.header import print_header


class Summary(NamedTuple):
    """How a run ended."""

    run_dir: str
    frames: int
    policy_steps: int
    updates: int
    metrics: dict[str, float]  # the newest value of every key


class EnvsMaker(Protocol):
    """Makes a group of environments; `count` replaces that of the configuration."""

    def __call__(self, cfg: DictConfig, *, seed: int, count: int | None = None) -> VectorEnvs:
        """See `build.make_envs`."""
        ...


@reasons()
def train(cfg: DictConfig, make_envs: EnvsMaker = make_envs) -> Summary:
    """Run what the configuration says, or what is left of it.

    The same configuration again resumes an unfinished run, and leaves a finished one alone.

    Args:
        cfg: Composed of conf/train.yaml.
        make_envs: Makes what the configuration names, or the environments of a program.

    Raises:
        ValueError: the configuration asks for something that cannot be.
        FolderInUse: another process has the run, or went on with it meanwhile.
        OSError: the disk is too small, or the run folder cannot be written.
        Interrupted: Ctrl-C or SIGTERM; the run is saved and can go on.
        NonFiniteError: a loss is no longer a number; the run is saved as it was before.
    """
    cfg = checked(cfg)
    folder = RunFolder.of(cfg)
    folder.check_same_run(cfg)
    finished = folder.finished(cfg)
    if finished:
        print(f"{folder.path} is finished: {finished['frames']} frames. Nothing to do.")
        return Summary(**finished)
    check_device(cfg)
    _seed_everything(cfg.seed)
    _quiet_lightning()

    resume = folder.resume_point()
    if resume is None:
        folder.check_may_begin(cfg)
    # A resumed run begins new episodes, and not those of its start again.
    stream = np.random.SeedSequence([cfg.seed, resume.frames if resume else 0])
    seed = int(stream.generate_state(1)[0]) % 2**31
    envs = make_envs(cfg, seed=seed)
    try:
        folder.check_same_spaces(codec_of(envs).as_plain())
        agent = make_agent(cfg, envs)
        with folder.lock():
            if folder.resume_point() != resume:
                raise FolderInUse(
                    f"Another process went on with {folder.path} while this one got ready. Start "
                    "this one again, if there is still something to do."
                )
            if resume is None:
                folder.check_may_begin(cfg)  # another process may have begun meanwhile, and died
            try:
                return _fit(cfg, folder, envs, agent, resume, make_envs, seed=seed)
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
) -> Summary:
    replay = Replay(
        folder.replay,
        obs_shapes=envs.obs_shapes,
        action_size=envs.action_space.size,
        env_count=envs.count,
        config=make_replay_config(cfg),
        seed=cfg.seed,
    )
    updates = most_updates(cfg, envs.action_repeat)
    data = ReplayDataModule(
        replay, batch_size=cfg.batch.size, length=cfg.batch.length, updates=updates
    )
    left = updates - (resume.updates if resume else 0)
    cost = None if on_cuda(cfg) else estimate_cost(agent, cfg.batch.size, cfg.batch.length, left)
    kernels = apply_kernels(cfg, agent)
    policies = PolicyContext(  # after the kernels: a snapshot copies the networks
        actor=make_actor(cfg, agent),
        random=RandomPolicy(envs.action_space, seed),
        obs_shapes=envs.obs_shapes,
        action_space=envs.action_space,
        components=dict(agent.components.items()),
        seed=seed,
    )
    metrics: Metrics = instantiate(cfg.callbacks.metrics)(replay)
    progress: Progress | None = None
    if cfg.callbacks.progress:
        progress = instantiate(cfg.callbacks.progress)(metrics, total_frames=cfg.total_frames)
    interrupt = Interrupt()
    callbacks = _make_callbacks(
        cfg,
        folder,
        envs,
        agent,
        replay,
        metrics,
        progress,
        interrupt,
        policies=policies,
        make_envs=make_envs,
    )
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        precision=choose_precision(cfg),
        logger=False,
        callbacks=callbacks,
        default_root_dir=folder.path,
    )
    with _open_loggers(cfg, folder, envs, resume) as loggers:
        trainer.loggers = loggers
        # All is built: what is wrong with the configuration has been told, and nothing changed.
        folder.begin(cfg, codec_of(envs).as_plain())
        if resume is None:
            replay.clear()  # of a start that never came to a checkpoint
        else:
            go_on_from(loggers, resume.frames)
        print_header(
            *(cfg, folder, envs, agent, replay, trainer, resume), cost=cost, kernels=kernels
        )
        start = time.time()
        try:
            path = resume.path if resume else None
            with interrupt.listening():
                trainer.fit(agent, datamodule=data, ckpt_path=path, weights_only=True)
        finally:
            if progress:
                progress.close()
    summary = Summary(
        str(folder.path), agent.frames, agent.policy_steps, agent.updates, metrics.latest
    )
    folder.finish(summary._asdict())
    score = metrics.latest.get("eval/return_mean")
    print(
        f"Finished after {time.time() - start:.0f} s: {agent.frames} frames, {agent.updates} "
        f"updates{'' if score is None else f', evaluation return {score:.2f}'}. "
        f"Results: {folder.path}"
    )
    return summary


@contextmanager
def _open_loggers(
    cfg: DictConfig, folder: RunFolder, envs: VectorEnvs, resume: ResumePoint | None
) -> Iterator[list[Logger]]:
    """The loggers; told at the end how the run ended, whatever ends it."""
    loggers = make_loggers(cfg, folder, envs, resume)
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
    replay: Replay,
    metrics: Metrics,
    progress: Progress | None,
    interrupt: Interrupt,
    *,
    policies: PolicyContext,
    make_envs: EnvsMaker,
) -> list[pl.Callback]:
    """In the order in which they act after an update: collect first, save before stopping."""
    collect_policy = make_collect_policy(cfg, policies)
    collect = Collect(
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
        refresh=make_refresh(policies.actor, collect_policy),
    )
    callbacks: list[pl.Callback] = [collect, metrics]
    if cfg.callbacks.evaluate:
        count, seed = cfg.callbacks.evaluate.episodes, cfg.seed + EVALUATION_SEED
        callbacks.append(
            instantiate(cfg.callbacks.evaluate)(
                lambda: make_envs(cfg, seed=seed, count=count),
                make_evaluation_policy(cfg, agent),
                metrics,
                interrupt,
                folder.path,
            )
        )
    if cfg.callbacks.video:
        callbacks.append(instantiate(cfg.callbacks.video)(folder.path))
    checkpoint = instantiate(cfg.callbacks.checkpoint)(folder.checkpoints, metrics)
    return [*callbacks, checkpoint, *([progress] if progress else []), interrupt]


def _seed_everything(seed: int) -> None:
    """The one place that touches global generators; torch's decides all of the agent's draws."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _quiet_lightning() -> None:
    """Hush what the Trainer says to everybody; our own lines say what is being built."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*is inside the.*",
        ".*is smaller than the logging interval.*",
        ".*Your `IterableDataset` has `__len__` defined.*",
        ".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", message)
