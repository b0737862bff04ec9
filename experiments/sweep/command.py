"""Run a grid of experiments, or what is left of it: variants x tasks x seeds.

The same command again goes on where it was stopped. Exit status: 0, all jobs are finished; 1, some
are not; 2, the command is wrong; 130 and 143, stopped by Ctrl-C and SIGTERM.
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

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dreamer.replay.buffer import Replay
from dreamer.run.build import make_envs, make_replay_config
from dreamer.run.compose import known_keys, register_suites
from dreamer.run.config import checked, reasons
from dreamer.run.folder import RunFolder
from dreamer.run.overrides import explain
from dreamer.runtime import prepare
from dreamer.schema.help import Usage, head, keys, print_lines
from dreamer.schema.keys import keys_of
from experiments.sweep.args import Command, SweepSettings, parse
from experiments.sweep.grid import CONF, Grid, Job
from experiments.sweep.jobs import Planned, stop
from experiments.sweep.launchers import check_launcher, launch
from experiments.sweep.state import State, failure
from experiments.sweep.status import StatusDisplay, make_console, read_states, summary_line, table

USAGE = Usage(
    "Run a grid of experiments, or what is left of it: variants x tasks x seeds.",
    "python sweep.py grid=... [key=value ...]",
    (
        (
            "python sweep.py grid=ablations task=pong,boxing seeds=3",
            "The paper's ablations on two games.",
        ),
        ("python sweep.py grid=demo", "Tiny models, ten minutes on a quiet core."),
        (
            "python sweep.py grid=demo hydra/launcher=joblib hydra.launcher.n_jobs=2",
            "Two jobs at once. Words that begin with hydra choose where the jobs run.",
        ),
    ),
)
NOTES = (
    "Any other word is for every job, as on train.py's command line: total_frames=1e6 model=tiny.",
    "`python train.py --help` shows these keys.",
)
GIB = 2**30
LINE_SECONDS = 60  # between two lines where there is no terminal


def main(words: Sequence[str]) -> int:
    """Run what is missing of a grid; returns the exit status."""
    if not words or set(words) & {"-h", "--help"}:
        print_lines([*head(USAGE), *keys({}, SweepSettings), "", *NOTES])
        return 0 if words else 2
    try:
        command = parse(words)
        check_launcher(command.launcher)
        plan = make_plan(Grid.read(command.grid, command.choice).jobs(command.root))
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if command.dry_run:
        describe(plan, command)
        return 0
    return carry_out(plan, command)


def make_plan(jobs: Sequence[Job]) -> list[Planned]:
    """Ask the agent's own code where each job's run lies, and what it costs.

    What can be wrong with a job before it runs comes out here: a key or a value that cannot be, a
    task that does not exist, a folder that holds another run.

    Raises:
        ValueError: of the first job that is wrong.
        ImportError: a package that its task needs is missing.
    """
    register_suites()
    composed: dict[tuple[str, ...], DictConfig] = {}
    costs: dict[tuple[str, ...], tuple[int, int]] = {}
    plan = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for job in jobs:
            # Composing is slow; task and seed are plain values, which can be set afterwards.
            kind = tuple(w for w in job.words if not w.startswith(("task=", "seed=")))
            try:
                if kind not in composed:
                    composed[kind] = compose("train", overrides=list(job.words))
                cfg = composed[kind].copy()
                cfg.task, cfg.seed = job.task, job.seed
                if (job.task, *kind) not in costs:
                    costs[job.task, *kind] = _cost(checked(cfg))
                folder = RunFolder.of(cfg)
                if folder.path.exists():
                    cfg = checked(cfg)
                    folder.check_same_run(cfg)
                    if not folder.finished(cfg):
                        folder.check_may_begin(cfg)
            except (ValueError, HydraException, OmegaConfBaseException) as error:
                told = explain(error, partial(_known, kind))
                raise ValueError(f"{job.name}: {told}") from error
            plan.append(Planned(job, folder.path, *costs[job.task, *kind]))
    return plan


def describe(plan: Sequence[Planned], command: Command) -> None:
    """Say what would be done, and what it costs."""
    states = read_states(plan)
    due = [
        (one, state)
        for one, state in zip(plan, states, strict=True)
        if _is_due(state, command.retry)
    ]
    make_console().print(table(plan, states))
    _show_failures(plan, states)
    print()
    for one, _ in due:
        print(shlex.join(["python", "train.py", *one.job.words]))
    print()
    frames = sum(one.total_frames - state.frames for one, state in due)
    disk = sum(one.disk_bytes for one, _ in due) / GIB
    root = command.root.absolute()
    free = shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free / GIB
    print(summary_line(plan, states))
    print(
        f"To do: {len(due)} jobs, {frames:,} frames; their experience takes {disk:,.2f} GiB on "
        f"disk in the end ({free:,.1f} GiB are free)"
    )


def carry_out(plan: Sequence[Planned], command: Command) -> int:
    """Run what is due, wait for what others run, and say how it ended; returns the exit status."""
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
                time.sleep(1)  # another sweep's
            else:
                break
    if tried:
        _show_failures(plan, states)
    print(f"Tables and figures: python -m experiments.report {shlex.quote(str(command.root))}")
    unfinished = sum(state.phase != "finished" for state in states)
    if unfinished:
        print(f"{unfinished} of {len(plan)} jobs are not finished.", file=sys.stderr)
    return 1 if unfinished else 0


@reasons()
def _cost(cfg: DictConfig) -> tuple[int, int]:
    """Frames of a run, and bytes of its replay when it is as full as the run makes it."""
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
    """The keys that a word of the command line may have."""
    return [*keys_of(SweepSettings).named, *known_keys(words)]


def _is_due(state: State, retry: bool) -> bool:
    return state.phase in ("empty", "interrupted") or (retry and state.phase == "failed")


def _launch(due: list[Planned], command: Command) -> set[Path]:
    """Run jobs; returns the folders of those that are not to be tried again."""
    try:
        outcomes = launch(due, command.launcher, command.root, _devices(command.launcher))
    except Exception as error:  # the launcher's own, such as a job that its cluster has lost
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return {one.folder for one in due}
    pairs = zip(due, outcomes, strict=True)
    return {one.folder for one, outcome in pairs if outcome == "ran"}


def _devices(launcher: Sequence[str]) -> list[str]:
    """The CUDA devices that jobs beside each other on this machine share out."""
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
    """On Ctrl-C and SIGTERM let the jobs save, whatever launcher they run in, before the end."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one does not wait
        print("\nStopping; the jobs that run here save first ...", file=sys.stderr)
        stop(plan)
        sys.exit(128 + number)

    old = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def run() -> None:
    """Do what the words of this process's command line say; the process ends with it."""
    prepare()
    sys.path.append(os.getcwd())  # a class of the user's own may lie where the command is typed
    os.environ["HYDRA_FULL_ERROR"] = "1"  # what is wrong with a job comes to us
    sys.exit(main(sys.argv[1:]))
