"""Runs the jobs of a trial in a thread, with one of Hydra's launchers, and stops them if asked.

`command.py` starts trials. It knows no value and no study: run folders say how the jobs ended.
"""

import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

from experiments.sweep.jobs import Planned, Share, request_stop, run, stop
from experiments.sweep.state import State, failure
from experiments.sweep.status import read_states

SECONDS_BETWEEN_LOOKS = 1.0
LAUNCH = ("-P", "-m", "experiments.search.launch")

# Runs some or all of the given jobs; returns those that must not be started again.
Start = Callable[[Sequence[Planned]], Sequence[Planned]]


class RunningTrial:
    """The jobs of a trial, while a thread runs them."""

    def __init__(self, plan: Sequence[Planned], start: Start, leaving: Event):
        """Begin.

        Args:
            plan: the jobs.
            start: runs jobs.
            leaving: once it is set, no further job starts.
        """
        self.plan = plan
        self.is_stopped = self._waits = False
        self._start, self._leaving = start, leaving
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether no job runs any more."""
        return not self._thread.is_alive()

    def states(self) -> list[State]:
        """Read the current states of the jobs."""
        return read_states(self.plan)

    def stop(self) -> None:
        """Let the running jobs save and end, and start no other; to be repeated until it is over.

        A job that is just starting forgets earlier requests.
        """
        if self._waits and not self.is_stopped:  # nobody reads the request of such a job
            stop(self.plan, patience=0, only_own=False)
        self.is_stopped = True
        for one, state in zip(self.plan, self.states(), strict=True):
            if state.phase == "running":
                request_stop(one)

    def failure(self) -> str | None:
        """Return the first failed job and its error in one line; None if none failed."""
        for one, state in zip(self.plan, self.states(), strict=True):
            if state.phase == "failed":
                text = failure(one.folder, lines=1)
                if text.startswith("The process "):  # says how it ended, the line before why
                    text = " ".join(failure(one.folder, lines=2).split("\n"))
                return f"{one.job.name}: {text}"
        return None

    def _run(self) -> None:
        tried: set[Path] = set()
        while not (self.is_stopped or self._leaving.is_set()):
            pairs = list(zip(self.plan, self.states(), strict=True))
            if any(state.phase == "failed" for _, state in pairs):
                return
            due = [
                one
                for one, state in pairs
                if state.phase in ("empty", "interrupted") and one.folder not in tried
            ]
            if due:
                self._waits = False
                tried |= {one.folder for one in self._start(due)}
            elif any(state.phase == "running" for _, state in pairs):
                self._waits = True  # for a job of an earlier process
                time.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                return


def run_here(share: Share) -> Start:
    """Return what runs the first job on this machine."""
    return lambda due: due[:1] if run(due[0], share) == "ran" else []


def run_with_launcher(words: Sequence[str], root: Path, devices: Sequence[str]) -> Start:
    """Return what passes all jobs of a trial to one of Hydra's launchers."""

    def start(due: Sequence[Planned]) -> Sequence[Planned]:
        arguments = pickle.dumps((list(due), tuple(words), root, list(devices)))
        subprocess.run([sys.executable, *LAUNCH], input=arguments, check=False)
        return due

    return start
