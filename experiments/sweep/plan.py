"""Plans jobs: checks their configurations, and computes folders and costs, before any job runs.

`command.py` plans grids with it, `experiments/search` plans trials. It starts no job.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dreamer.run.compose import known_keys, register_suites
from dreamer.run.config import check_values, checked, reasons
from dreamer.run.offline import is_offline
from dreamer.run.overrides import explain
from dreamer.schema.keys import keys_of
from experiments.sweep.args import SweepSettings
from experiments.sweep.grid import CONF, Job
from experiments.sweep.jobs import Planned

if TYPE_CHECKING:
    from dreamer.run.folder import RunFolder


def make_plan(jobs: Sequence[Job], disk_bytes: int | None = None) -> list[Planned]:
    """Compute the folder and the cost of each job.

    It checks the jobs: keys and values, the existence of the task, and that the folder does not
    hold another run.

    Args:
        jobs: to plan.
        disk_bytes: of the full replay of each job, if it is known; None makes the environments to
            compute it.

    Raises:
        ValueError: The first error in a job.
        ImportError: A package for a task is missing.
    """
    register_suites()
    composed: dict[tuple[str, ...], DictConfig] = {}
    costs: dict[tuple[str, ...], tuple[int, int]] = {}
    plan = []
    with _conf():
        for job in jobs:
            # Composing is slow; task and seed can be set afterwards.
            kind = tuple(w for w in job.words if not w.startswith(("task=", "seed=")))
            try:
                if kind not in composed:
                    composed[kind] = compose("train", overrides=list(job.words))
                cfg = composed[kind].copy()
                cfg.task, cfg.seed = job.task, job.seed
                if (job.task, *kind) not in costs:
                    check_values(cfg)  # before slow imports
                    cfg = checked(cfg)
                    costs[job.task, *kind] = _cost(cfg, disk_bytes)
                folder = _folder(cfg)
                if folder.path.exists():
                    cfg = checked(cfg)
                    folder.check_same_run(cfg)
                    if not folder.finished(cfg):
                        folder.check_may_begin(cfg)
            except (ValueError, HydraException, OmegaConfBaseException) as error:
                message = explain(error, partial(_known, kind))
                raise ValueError(f"{job.name}: {message}") from error
            plan.append(Planned(job, folder.path, *costs[job.task, *kind]))
    return plan


def compose_job(words: Sequence[str]) -> DictConfig:
    """Compose the configuration of a job, and check its keys and values.

    Raises:
        ValueError: A key is unknown, or a value is not allowed.
    """
    register_suites()
    with _conf():
        try:
            cfg = compose("train", overrides=list(words))
            check_values(cfg)
        except (ValueError, HydraException, OmegaConfBaseException) as error:
            raise ValueError(explain(error, partial(_known, words))) from error
    return cfg


def _conf() -> AbstractContextManager:
    return initialize_config_dir(str(CONF), version_base="1.3")


def _folder(cfg: DictConfig) -> "RunFolder":
    from dreamer.run.folder import RunFolder  # slow: torch

    return RunFolder.of(cfg)


@reasons()
def _cost(cfg: DictConfig, disk_bytes: int | None) -> tuple[int, int]:
    """Compute the frames or updates of a run, and the bytes of its replay at the end.

    Nobody knows the replay of a run that collects nothing before it has read its data.
    """
    from dreamer.replay.buffer import Replay  # slow: torch
    from dreamer.run.build import make_envs, make_replay_config

    if is_offline(cfg):
        return cfg.total_updates, 0
    if disk_bytes is not None:
        return cfg.total_frames, disk_bytes
    envs = make_envs(cfg, seed=0)
    try:
        config = make_replay_config(cfg)
        steps = min(config.capacity_policy_steps, cfg.total_frames // envs.action_repeat)
        config = replace(config, capacity_policy_steps=max(steps, envs.count))
        size = Replay.size_on_disk(envs.obs_shapes, envs.action_space.size, envs.count, config)
    finally:
        envs.close()
    return cfg.total_frames, size


def _known(words: Sequence[str]) -> list[str]:
    """Return the keys that the command line may have."""
    return [*keys_of(SweepSettings).named, *known_keys(words)]
