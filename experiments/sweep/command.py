"""Runs a grid of experiments, or the rest of it: variants x tasks x seeds.

The same command continues a stopped sweep. Exit status: 0, all jobs are finished; 1, some are not;
2, the command is wrong; 130 and 143, stopped by Ctrl-C and SIGTERM.
"""

import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dreamer.cli.command import HELP, loaded
from dreamer.run.compose import known_keys, register_suites
from dreamer.run.config import check_values, checked, reasons
from dreamer.run.offline import is_offline
from dreamer.run.overrides import explain
from dreamer.run.paths import SWEEP
from dreamer.schema.help import Usage, head, keys, print_lines
from dreamer.schema.keys import keys_of
from experiments.sweep.args import Command, SweepSettings, parse
from experiments.sweep.grid import CONF, Grid, Job
from experiments.sweep.jobs import IN_CHECKOUT, Planned, stop
from experiments.sweep.launchers import check_launcher, launch
from experiments.sweep.record import write_jobs
from experiments.sweep.state import State, failure
from experiments.sweep.status import StatusDisplay, make_console, read_states, summary_line, table

if TYPE_CHECKING:
    from dreamer.run.folder import RunFolder

USAGE = Usage(
    "Run a grid of experiments, or the rest of it: variants x tasks x seeds.",
    "python sweep.py grid=... [key=value ...], or dreamer-sweep where it is installed",
    (
        (
            "python sweep.py grid=ablations task=pong,boxing seeds=3",
            "The paper's ablations on two games.",
        ),
        ("python sweep.py grid=demo", "Tiny models, ten minutes on an idle core."),
        (
            "python sweep.py grid=demo hydra/launcher=joblib hydra.launcher.n_jobs=2",
            "Two jobs at once. Keys that begin with hydra choose where the jobs run.",
        ),
    ),
)
NOTES = (
    "All other keys are for every job, as in train.py: total_frames=1e6 model=tiny.",
    "`python train.py --help` shows these keys.",
)
GIB = 2**30
LINE_SECONDS = 60  # between lines without a terminal


def main(words: Sequence[str]) -> int:
    """Run the missing jobs of a grid, and return the exit status."""
    if not words or HELP & set(words):
        print_lines([*head(USAGE), *keys({}, SweepSettings), "", *NOTES])
        return 0 if words else 2
    try:
        command = parse(words)
        check_launcher(command.launcher)
        plan = make_plan(Grid.read(command.grid, command.choice).jobs(command.root))
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    loaded()
    if command.dry_run:
        describe(plan, command)
        return 0
    os.environ[SWEEP] = f"sweep {Path(command.grid).stem}"  # for loggers that nest its runs
    return carry_out(plan, command)


def make_plan(jobs: Sequence[Job]) -> list[Planned]:
    """Compute the folder and the cost of each job.

    It checks the jobs: keys and values, the existence of the task, and that the folder does not
    hold another run.

    Raises:
        ValueError: The first error in a job.
        ImportError: A package for a task is missing.
    """
    register_suites()
    composed: dict[tuple[str, ...], DictConfig] = {}
    costs: dict[tuple[str, ...], tuple[int, int]] = {}
    plan = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
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
                    costs[job.task, *kind] = _cost(checked(cfg))
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


def describe(plan: Sequence[Planned], command: Command) -> None:
    """Print the jobs to run, and their cost."""
    states = read_states(plan)
    due = [
        (one, state)
        for one, state in zip(plan, states, strict=True)
        if _is_due(state, command.retry)
    ]
    make_console().print(table(plan, states))
    _show_failures(plan, states)
    print()
    program = ["python", "train.py"] if IN_CHECKOUT else ["dreamer-train"]
    for one, _ in due:
        print(shlex.join([*program, *one.job.words]))
    print()
    frames = sum(one.total_frames - state.frames for one, state in due)
    disk = sum(one.disk_bytes for one, _ in due) / GIB
    root = command.root.absolute()
    free = shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free / GIB
    print(summary_line(plan, states))
    print(
        f"To do: {len(due)} jobs, {frames:,} frames; their replay needs {disk:,.2f} GiB on disk "
        f"({free:,.1f} GiB are free)"
    )


def carry_out(plan: Sequence[Planned], command: Command) -> int:
    """Run the jobs, wait for those of other sweeps, print results; returns the exit status."""
    write_jobs(command.root, [one.folder for one in plan])
    if not command.retry:
        _show_failures(plan, read_states(plan))
    tried: set[Path] = set()
    with _saving_jobs(plan), StatusDisplay(plan, make_console(), every_seconds=LINE_SECONDS):
        while True:
            states = read_states(plan)
            due = [
                one
                for one, state in zip(plan, states, strict=True)
                if _is_due(state, command.retry) and one.folder not in tried
            ]
            if due:
                tried |= _launch(due, command)
            elif any(state.phase == "running" for state in states):
                time.sleep(1)  # jobs of another sweep
            else:
                break
    if tried:
        _show_failures(plan, states)
    print(f"Tables and figures: python -m experiments.report {shlex.quote(str(command.root))}")
    unfinished = sum(state.phase != "finished" for state in states)
    if unfinished:
        print(f"{unfinished} of {len(plan)} jobs are not finished.", file=sys.stderr)
    return 1 if unfinished else 0


def _folder(cfg: DictConfig) -> "RunFolder":
    from dreamer.run.folder import RunFolder  # slow: torch

    return RunFolder.of(cfg)


@reasons()
def _cost(cfg: DictConfig) -> tuple[int, int]:
    """Compute the frames or updates of a run, and the bytes of its replay at the end.

    Nobody knows the replay of a run that collects nothing before it has read its data.
    """
    from dreamer.replay.buffer import Replay  # slow: torch
    from dreamer.run.build import make_envs, make_replay_config

    if is_offline(cfg):
        return cfg.total_updates, 0
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


def _is_due(state: State, retry: bool) -> bool:
    return state.phase in ("empty", "interrupted") or (retry and state.phase == "failed")


def _launch(due: list[Planned], command: Command) -> set[Path]:
    """Run jobs, and return the folders of those that must not be tried again."""
    try:
        outcomes = launch(due, command.launcher, command.root, _devices(command.launcher))
    except Exception as error:  # of the launcher, such as a lost cluster job
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return {one.folder for one in due}
    pairs = zip(due, outcomes, strict=True)
    return {one.folder for one, outcome in pairs if outcome == "ran"}


def _devices(launcher: Sequence[str]) -> list[str]:
    """Return the CUDA devices to distribute to parallel jobs on this machine."""
    if "hydra/launcher=joblib" not in launcher:
        return []
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(n) for n in range(torch.cuda.device_count())]


def _show_failures(plan: Sequence[Planned], states: Sequence[State]) -> None:
    for one, state in zip(plan, states, strict=True):
        if state.phase == "failed":
            print(f"\nfailed: {one.job.name} ({one.folder}); retry=true runs it again")
            print("    " + failure(one.folder).replace("\n", "\n    "))


@contextmanager
def _saving_jobs(plan: Sequence[Planned]) -> Iterator[None]:
    """On Ctrl-C and SIGTERM, let the jobs save before the end, with any launcher."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait
        print("\nStopping; jobs on this machine save first ...", file=sys.stderr)
        stop(plan)
        print("The same command continues the sweep.", file=sys.stderr)
        sys.exit(128 + number)

    old = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
