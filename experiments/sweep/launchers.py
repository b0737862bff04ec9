"""Runs the jobs of a sweep with one of Hydra's launchers: in this process, locally, on a cluster.

`sweep.py` calls it. It knows how many jobs each launcher runs at once, but not what they do.
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
from experiments.sweep.jobs import HERE, IN_CHECKOUT, Outcome, Planned, Share, run

LAUNCHERS = ("basic", "joblib", "submitit_local", "submitit_slurm")
# A job that times out or is preempted continues later, as often as needed.
REQUEUE = (
    "hydra.launcher.max_num_timeout=1000",
    "+hydra.launcher.additional_parameters.requeue=true",
)


def check_launcher(words: Sequence[str]) -> None:
    """Check that a launcher exists and is installed.

    Raises:
        ValueError: There is no such launcher.
        ImportError: The launcher is not installed; the message has the command.
    """
    name = find(name_of(words), LAUNCHERS, "launcher")
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
        words: arguments for Hydra: hydra/launcher=, hydra.launcher.n_jobs=, ...
        root: of all run folders; launchers may create a folder in it.
        devices: CUDA devices of this machine, distributed to parallel jobs.

    Returns:
        For every job, whether it ran here or in another process.
    """
    share_checkout()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="sweep"):
        config = _compose(words, root)
        # Hydra's class for a list of callbacks is private. Launchers only call the methods of a
        # callback, so a callback that does nothing replaces an empty list.
        no_callbacks = cast(Any, Callback())
        share = _share(config, len(due), devices)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(
                config_loader=GlobalHydra.instance().config_loader(), callbacks=no_callbacks
            ),
            task_function=partial(_run_by_number, due=list(due), share=share),
            config=config,
        )
        # Hydra gets no overrides: `_run_by_number` passes a job's arguments to train.py.
        results = launcher.launch([[] for _ in due], initial_job_idx=0)
    return [_outcome(result) for result in results]


def share_checkout() -> None:
    """Let workers, cluster jobs and train.py import our modules, from any working directory."""
    if IN_CHECKOUT:
        places = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(places))


def devices_of(words: Sequence[str], *, at_once: int = 1) -> list[str]:
    """Return the CUDA devices to distribute to parallel jobs on this machine.

    Args:
        words: arguments for Hydra.
        at_once: number of jobs that run here in parallel without a launcher.
    """
    if name_of(words) != "joblib" and at_once == 1:
        return []
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(n) for n in range(torch.cuda.device_count())]


def _run_by_number(cfg: DictConfig, due: list[Planned], share: Share) -> Outcome:
    """Run the job with the number that Hydra has assigned."""
    return run(due[HydraConfig.get().job.num], share)


def _compose(words: Sequence[str], root: Path) -> DictConfig:
    """Compose Hydra's configuration of launchers and folders."""
    defaults = REQUEUE if name_of(words) == "submitit_slurm" else ()
    return compose("sweep", overrides=[f"root={root}", *defaults, *words], return_hydra_config=True)


def _share(config: DictConfig, due: int, devices: Sequence[str]) -> Share:
    """Compute the number of parallel jobs on this machine, and the resources of each."""
    name = config.hydra.runtime.choices["hydra/launcher"]
    cores = len(os.sched_getaffinity(0))
    if name == "joblib":
        limit = OmegaConf.select(config, "hydra.launcher.n_jobs") or 1
        at_once = min(limit if limit > 0 else cores + 1 + limit, due)
    elif name == "submitit_local":
        at_once = due  # it starts all jobs
    else:
        return Share()  # one after the other, or on resources that the cluster assigns
    shared = tuple(devices) if len(devices) > 1 else ()
    return Share(at_once, max(cores // at_once, 1), shared)


def _outcome(result: JobReturn) -> Outcome:
    """Return a job's outcome; a job that the launcher lost counts as run."""
    return result.return_value if result.status == JobStatus.COMPLETED else "ran"


def name_of(words: Sequence[str]) -> str:
    """Return the name of the launcher that arguments for Hydra choose."""
    chosen = [word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")]
    return chosen[-1] if chosen else "basic"
