"""Runs a grid of experiments, or the rest of it: variants x tasks x seeds.

The same command continues a stopped sweep. Exit status: 0, all jobs are finished; 1, some are not;
2, the command is wrong; 130 and 143, stopped by Ctrl-C and SIGTERM.
"""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dreamer.cli.command import HELP, loaded
from dreamer.run.paths import SWEEP
from dreamer.schema.help import Usage, head, keys, print_lines
from experiments.search import command as search
from experiments.sweep.args import Command, SweepSettings, parse
from experiments.sweep.grid import Grid
from experiments.sweep.jobs import IN_CHECKOUT, Planned, saving_jobs
from experiments.sweep.launchers import check_launcher, devices_of, launch
from experiments.sweep.plan import make_plan
from experiments.sweep.record import write_jobs
from experiments.sweep.state import State, failure
from experiments.sweep.status import (
    StatusDisplay,
    make_console,
    one_line,
    read_states,
    summary_line,
    table,
    with_summary,
)

USAGE = Usage(
    "Run a grid of experiments, variants x tasks x seeds, or a search; or the rest of it.",
    "python sweep.py grid=...|search=... [key=value ...], or dreamer-sweep where it is installed",
    (
        (
            "python sweep.py grid=ablations task=pong,boxing seeds=3",
            "The paper's ablations on two games.",
        ),
        ("python sweep.py grid=demo", "Tiny models, ten minutes on an idle core."),
        (
            "python sweep.py search=cartpole trials=40",
            "A search for good values, by Optuna; docs/search.md explains it.",
        ),
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


def main(words: Sequence[str]) -> int:
    """Run the missing jobs of a grid, and return the exit status."""
    if not words or HELP & set(words):
        print_lines([*head(USAGE), *keys({}, SweepSettings), "", *NOTES])
        return 0 if words else 2
    try:
        command = parse(words)
        if command.search:
            return search.main(command)
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
    display = StatusDisplay(partial(with_summary, plan), partial(one_line, plan), make_console())
    with saving_jobs(plan, "sweep"), display:
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


def _is_due(state: State, retry: bool) -> bool:
    return state.phase in ("empty", "interrupted") or (retry and state.phase == "failed")


def _launch(due: list[Planned], command: Command) -> set[Path]:
    """Run jobs, and return the folders of those that must not be tried again."""
    try:
        outcomes = launch(due, command.launcher, command.root, devices_of(command.launcher))
    except Exception as error:  # of the launcher, such as a lost cluster job
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return {one.folder for one in due}
    pairs = zip(due, outcomes, strict=True)
    return {one.folder for one, outcome in pairs if outcome == "ran"}


def _show_failures(plan: Sequence[Planned], states: Sequence[State]) -> None:
    for one, state in zip(plan, states, strict=True):
        if state.phase == "failed":
            print(f"\nfailed: {one.job.name} ({one.folder}); retry=true runs it again")
            print("    " + failure(one.folder).replace("\n", "\n    "))
