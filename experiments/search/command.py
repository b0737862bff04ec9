"""Runs a search, or the rest of it: asks for trials, runs their jobs, prunes, tells the values.

`experiments/sweep/command.py` calls it. The same command continues a stopped search.
"""

import os
import shlex
import sys
import time
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from dreamer.cli.command import loaded
from dreamer.run.paths import SWEEP
from experiments.search import study as studies
from experiments.search.objective import EVALUATION, Part, read_values, running_values
from experiments.search.settings import Search
from experiments.search.space import words_of
from experiments.search.status import Board
from experiments.search.trials import RunningTrial, Start, run_here, run_with_launcher
from experiments.sweep.args import Command
from experiments.sweep.jobs import Planned, Share, saving_jobs
from experiments.sweep.launchers import check_launcher, devices_of, name_of, share_checkout
from experiments.sweep.plan import compose_job, make_plan
from experiments.sweep.status import StatusDisplay, make_console

if TYPE_CHECKING:
    from optuna import Study, Trial

SECONDS_BETWEEN_LOOKS = 1.0
GIB = 2**30


def main(command: Command) -> int:
    """Run the missing trials of a search, and return the exit status."""
    try:
        studies.check_optuna()
        check_launcher(command.launcher)
        search = Search.read(command)
        plan = check_jobs(search, command.root)
        studies.check_same_search(search, command.root)
        if command.dry_run:
            loaded()
            describe(search, command, plan)
            return 0
        with studies.open_study(search, command.root) as study:
            loaded()
            os.environ[SWEEP] = f"search {search.name}"  # for loggers that nest its runs
            share_checkout()
            return SearchRun(search, command, study, plan[0].disk_bytes).carry_out()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def check_jobs(search: Search, root: Path) -> list[Planned]:
    """Check the jobs of a search at the edges of its space, one key at a time.

    Returns:
        The jobs of a trial with the values that the configuration has without the search.

    Raises:
        ValueError: A job is not valid, or would not log what the search needs.
        ImportError: A package for a task is missing.
    """
    base = search.jobs("check", {}, root)
    plan = make_plan(base)
    for task, job in {job.task: job for job in base}.items():
        cfg = compose_job(job.words)
        if "jsonl" not in (cfg.logger or ()):
            raise ValueError(
                f"`logger` must include jsonl, from which a search reads its metric, got "
                f"{list(cfg.logger or [])}"
            )
        if search.objective.metric.startswith(EVALUATION) and not cfg.callbacks.evaluate:
            raise ValueError(
                f"`callbacks.evaluate` must not be null with objective.metric: "
                f"{search.objective.metric} (task {task})"
            )
    for key, one in search.space.items():
        for value in one.edges:
            compose_job([*base[0].words, *words_of({key: value})])
    return plan


def describe(search: Search, command: Command, plan: list[Planned]) -> None:
    """Print the trials so far, the best value with its command, and the cost of the rest."""
    study = studies.read_study(command.root)
    board = Board(study, search.trials, list(search.space))
    make_console().print(board.table())
    show_end(board, study)
    ended = [trial for trial in studies.begun(study) if trial.state.is_finished()] if study else []
    left = max(search.trials - len(ended), 0)
    frames = left * sum(one.total_frames for one in plan)
    disk = left * sum(one.disk_bytes for one in plan) / GIB
    print(
        f"To do: {left} trials of {len(plan)} job(s), at most {frames:,} frames; their replay "
        f"needs {disk:,.2f} GiB on disk"
    )


def show_end(board: Board, study: "Study | None") -> None:
    """Print the commands with the best values, and the reasons of failed trials."""
    for command in board.best_commands():
        print(f"best: {command}")
    for trial in studies.begun(study) if study else []:
        if reason := trial.user_attrs.get(studies.REASON):
            print(f"failed: trial {trial.number}: {reason}")


class SearchRun:
    """A search while this process runs it."""

    def __init__(self, search: Search, command: Command, study: "Study", disk_bytes: int):
        """`disk_bytes` is the size of a job's full replay."""
        self._search, self._command, self._study = search, command, study
        self._disk_bytes = disk_bytes
        self._board = Board(study, search.trials, list(search.space))
        self._running: dict[int, tuple[Trial, RunningTrial]] = {}
        self._jobs: list[Planned] = []  # of the running trials
        self._interrupted: list[int] = []
        self._leaving = Event()
        self._start = self._choose_start()

    def carry_out(self) -> int:
        """Run the missing trials, and return the exit status."""
        begun = studies.unfinished(self._study)
        display = StatusDisplay(self._board.table, self._board.line, make_console())
        with saving_jobs(self._jobs, "search", self._leaving), display:
            while True:
                while len(self._running) < self._command.workers:
                    if begun:
                        self._begin(begun.pop(0))
                    elif len(studies.begun(self._study)) < self._search.trials:
                        self._begin(studies.ask(self._study, self._search))
                    else:
                        break
                if not self._running:
                    break
                self._look()
                time.sleep(SECONDS_BETWEEN_LOOKS)
        show_end(self._board, self._study)
        report = f"python -m experiments.report {shlex.quote(str(self._command.root))}"
        print(f"Tables and figures: {report}")
        if self._interrupted:
            print(
                f"{len(self._interrupted)} trial(s) were killed from outside; the same command "
                "continues them.",
                file=sys.stderr,
            )
        return 1 if self._interrupted or studies.best(self._study) is None else 0

    def _choose_start(self) -> Start:
        words, root, workers = self._command.launcher, self._command.root, self._command.workers
        devices = devices_of(words, at_once=workers)
        if name_of(words) != "basic":
            return run_with_launcher(words, root, devices)
        threads = max(len(os.sched_getaffinity(0)) // workers, 1) if workers > 1 else None
        return run_here(Share(workers, threads, tuple(devices) if len(devices) > 1 else ()))

    def _begin(self, trial: "Trial") -> None:
        """Start the jobs of a trial; values that the jobs do not allow are a failure."""
        values, root = studies.values_of(trial), self._command.root
        if values.keys() != self._search.space.keys():
            studies.tell_failed(self._study, trial, "The search was killed as it chose the values.")
            return
        jobs = self._search.jobs(f"trial{trial.number:03}", values, root)
        trial.set_user_attr(studies.JOBS, [job.words for job in jobs])
        try:
            plan = make_plan(jobs, self._disk_bytes)
        except (ValueError, OSError, ImportError) as error:
            studies.tell_failed(self._study, trial, str(error))
            return
        self._jobs += plan
        self._running[trial.number] = trial, RunningTrial(plan, self._start, self._leaving)

    def _look(self) -> None:
        """Report evaluations, stop trials that are worse than others, and tell ended ones."""
        for number, (trial, running) in list(self._running.items()):
            is_over = running.is_over  # before reading what it has left
            self._report(trial, running)
            if is_over:
                self._tell(trial, running)
                del self._running[number]
                self._jobs[:] = [one for one in self._jobs if one not in running.plan]
        self._board.states = {n: running.states() for n, (_, running) in self._running.items()}

    def _report(self, trial: "Trial", running: RunningTrial) -> None:
        if running.is_stopped:
            running.stop()
            return
        values = running_values(self._search.objective, self._parts(running))
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for step in range(len(known), len(values)):
            trial.report(values[step], step)
        if len(values) > len(known) and trial.should_prune():
            running.stop()

    def _tell(self, trial: "Trial", running: RunningTrial) -> None:
        parts = self._parts(running)
        if all(part.is_finished for part in parts):
            values = running_values(self._search.objective, parts)
            metric = self._search.objective.metric
            if all(read_values(part.folder, metric) for part in parts):
                studies.tell_value(self._study, trial, values[-1])
            else:
                studies.tell_failed(self._study, trial, f"A job has not logged {metric}.")
        elif (failure := running.failure()) is not None:
            studies.tell_failed(self._study, trial, failure)
        elif running.is_stopped:
            studies.tell_pruned(self._study, trial)
        else:
            self._interrupted.append(trial.number)

    def _parts(self, running: RunningTrial) -> list[Part]:
        return [
            Part(
                one.folder,
                state.phase == "finished",
                self._search.scales[one.job.env, one.job.task],
            )
            for one, state in zip(running.plan, running.states(), strict=True)
        ]
