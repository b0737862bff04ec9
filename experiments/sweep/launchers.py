"""Hands the jobs of a sweep to one of Hydra's launchers: this process, this machine, a cluster.

`sweep.py` calls it. It knows what each launcher runs at once, and nothing of what the jobs do.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from experiments.sweep.grid import CONF, find
from experiments.sweep.jobs import Outcome, Planned, Share, run

LAUNCHERS = ("basic", "joblib", "submitit_local", "submitit_slurm")
# A job that is out of time, or has to make room, goes on later, as often as it takes.
REQUEUE = (
    "hydra.launcher.max_num_timeout=1000",
    "+hydra.launcher.additional_parameters.requeue=true",
)


def check_launcher(words: Sequence[str]) -> None:
    """Refuse a launcher that does not exist or is not installed.

    Raises:
        ValueError: Hydra never had such a launcher.
        ImportError: the launcher is an extra that is missing; the message says what to install.
    """
    name = find(_name(words), LAUNCHERS, "launcher")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        installed = GlobalHydra.instance().config_loader().get_group_options("hydra/launcher")
    if name not in installed:
        raise ImportError(
            f"hydra/launcher={name} needs `pip install -r requirements-launchers.txt`"
        )


def launch(
    due: Sequence[Planned],
    words: Sequence[str],
    root: Path,
    devices: Sequence[str],
) -> list[Outcome]:
    """Run jobs, and wait for them.

    Args:
        due: the jobs.
        words: what the command line says of Hydra: hydra/launcher=, hydra.launcher.n_jobs=, ...
        root: of all run folders; launchers that need a folder make one in it.
        devices: of CUDA on this machine, shared out among jobs that run beside each other.

    Returns:
        Of every job, whether it was run here, or was another process' already.
    """
    # Workers and clusters import our modules too, wherever they start.
    here = [str(CONF.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(here))
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="sweep"):
        config = _compose(words, root)
        # Hydra's own list of callbacks is private. It has the methods of a callback, and launchers
        # call no others: one that does nothing stands for an empty list.
        no_callbacks = cast(Any, Callback())
        share = _share(config, len(due), devices)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(
                config_loader=GlobalHydra.instance().config_loader(), callbacks=no_callbacks
            ),
            task_function=partial(_run_by_number, due=list(due), share=share),
            config=config,
        )
        # What a job's words mean is train.py's to find out; here its number is enough.
        results = launcher.launch([[] for _ in due], initial_job_idx=0)
    return [_outcome(result) for result in results]


def _run_by_number(cfg: DictConfig, due: list[Planned], share: Share) -> Outcome:
    """What Hydra calls for every job, wherever it runs; the job's number tells which it is."""
    return run(due[HydraConfig.get().job.num], share)


def _compose(words: Sequence[str], root: Path) -> DictConfig:
    """Compose what Hydra needs to know of launchers and folders."""
    defaults = REQUEUE if _name(words) == "submitit_slurm" else ()
    return compose("sweep", overrides=[f"root={root}", *defaults, *words], return_hydra_config=True)


def _share(config: DictConfig, due: int, devices: Sequence[str]) -> Share:
    """How many jobs this machine has to bear at once, and what each may take of it."""
    name = config.hydra.runtime.choices["hydra/launcher"]
    cores = len(os.sched_getaffinity(0))
    if name == "joblib":
        limit = OmegaConf.select(config, "hydra.launcher.n_jobs") or 1
        at_once = min(limit if limit > 0 else cores + 1 + limit, due)
    elif name == "submitit_local":
        at_once = due  # it starts them all
    else:
        return Share()  # one after the other, or on machines that the cluster shares out
    shared = tuple(devices) if len(devices) > 1 else ()
    return Share(at_once, max(cores // at_once, 1), shared)


def _outcome(result: JobReturn) -> Outcome:
    """A job's outcome; one that the launcher itself lost counts as tried."""
    return result.return_value if result.status == JobStatus.COMPLETED else "ran"


def _name(words: Sequence[str]) -> str:
    chosen = [word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")]
    return chosen[-1] if chosen else "basic"
