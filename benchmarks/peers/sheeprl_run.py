"""SheepRL's own benchmark of a whole run: its command, and ours with the same work.

SheepRL publishes times of `exp=dreamer_v2_benchmarks`: MsPacman, 16,384 policy steps, a tiny model
on 16 x 50 colour frames. `benchmarks/run.py` calls both; README.md lists the differences.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.peers.launch import ROOT, venv

EXPERIMENT = "dreamer_v2_benchmarks"  # of SheepRL
OUR_EXPERIMENT = "sheeprl_benchmark"


class WholeRun(NamedTuple):
    """The time and the work of a command."""

    command: list[str]
    seconds: float  # wall clock of the whole process
    policy_steps: int
    updates: int


class RunError(RuntimeError):
    """A command ended with an error."""


def run_sheeprl(
    folder: Path, settings: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> WholeRun:
    """Run SheepRL's command in an empty folder.

    Args:
        folder: for logs, replay and checkpoints.
        settings: more Hydra overrides, such as "algo.total_steps=2048" or
            "algo.compile.enabled=true".
        environment: variables beyond those of this process.

    Raises:
        FileNotFoundError: Its virtual environment is missing.
        FileExistsError: The folder is not empty.
        RunError: It failed; its output is in `<folder>/output.txt`.
    """
    # Without the videos of its default, it does the same work as ours, and is faster.
    command = [str(venv("sheeprl") / "bin" / "sheeprl"), f"exp={EXPERIMENT}"]
    command += ["env.capture_video=false", *settings]
    seconds = _time(command, folder, folder, environment)
    policy_steps, updates = _sheeprl_counts(folder)
    return WholeRun(command, seconds, policy_steps, updates)


def run_ours(
    folder: Path, settings: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> WholeRun:
    """Run our command with the same sizes and schedule; arguments and errors are the same."""
    folder = folder.absolute()
    command = [sys.executable, "train.py", "task=ms_pacman", f"experiment={OUR_EXPERIMENT}"]
    command += [f"root={folder / 'runs'}", *settings]
    seconds = _time(command, folder, ROOT, environment)
    (path,) = (folder / "runs").rglob("summary.json")
    summary = json.loads(path.read_text())
    return WholeRun(command, seconds, summary["policy_steps"], summary["updates"])


def _time(
    command: list[str], folder: Path, where: Path, environment: Mapping[str, str] | None
) -> float:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"`folder` must be empty, got {folder} with files")
    output = folder / "output.txt"
    with output.open("w") as file:
        start = time.perf_counter()
        code = subprocess.run(
            command,
            cwd=where,
            env={**os.environ, **(environment or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
        ).returncode
        seconds = time.perf_counter() - start
    if code:
        raise RunError(f"{command} ended with exit code {code}:\n{output.read_text()[-2000:]}")
    return seconds


def _sheeprl_counts(folder: Path) -> tuple[int, int]:
    """Read policy steps and updates from its last metrics, which include their ratio."""
    (path,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(path))
    events.Reload()
    last = events.Scalars("Params/replay_ratio")[-1]
    return last.step, round(last.value * last.step)
