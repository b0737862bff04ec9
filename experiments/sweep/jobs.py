"""Runs one job of a sweep: `train.py` as a process of its own.

`launchers.py` hands it to Hydra's launchers, which call it here, in a worker or on a cluster.
A process of its own takes its memory, its threads and its crashes with it. It knows no agent.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple

from filelock import FileLock, Timeout

from experiments.sweep.grid import Job
from experiments.sweep.state import read_state

TRAIN = Path(__file__).parents[2] / "train.py"
LOG_LINES = 30  # kept of a process that could not say itself why it failed

Outcome = Literal["ran", "elsewhere"]


class Planned(NamedTuple):
    """A job, where its run lies, and what it costs."""

    job: Job
    folder: Path
    total_frames: int
    disk_bytes: int  # of the replay when it is as full as it gets


class Share(NamedTuple):
    """What one job may take of the machine."""

    at_once: int = 1  # jobs that run beside each other
    threads: int | None = None  # of the arithmetic; None: as many as there are cores
    devices: tuple[str, ...] = ()  # of CUDA, to be shared out; empty: left as it is


def run(planned: Planned, share: Share) -> Outcome:
    """Run a job, or what is left of it, unless another process has it.

    How it ended stands in its folder. A process that died without a word is given one there; one
    that was stopped or killed from outside has not failed: it can go on.
    """
    folder = planned.folder
    if read_state(folder, planned.total_frames).phase in ("running", "finished"):
        return "elsewhere"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.txt").unlink(missing_ok=True)
    with (folder / "log.txt").open("ab") as log, _environment(share) as environment:
        start = log.tell()
        code = _wait(_start([sys.executable, str(TRAIN), *planned.job.words], log, environment))
    if code == os.EX_TEMPFAIL:
        return "elsewhere"
    if not _was_stopped(code) and not (folder / "failure.txt").exists():
        text = (folder / "log.txt").read_bytes()[start:].decode(errors="replace")
        last = "\n".join(text.splitlines()[-LOG_LINES:])
        (folder / "failure.txt").write_text(f"{last}\n{_describe(code)}\n")
    return "ran"


def stop(planned: Sequence[Planned], patience: float = 60) -> None:
    """Ask the jobs that this process started, or its workers did, to save and end; wait for them.

    They are told from those of others by their process group, which children inherit.
    """
    host, group = os.uname().nodename, os.getpgid(0)
    stopped = []
    for one in planned:
        state = read_state(one.folder)
        there, _, process = state.detail.partition(" ")
        if state.phase == "running" and there == host and process.isdigit():
            try:
                if os.getpgid(int(process)) == group:
                    os.kill(int(process), signal.SIGTERM)
                    stopped.append(one)
            except ProcessLookupError:
                continue
    deadline = time.monotonic() + patience
    while any(read_state(one.folder).phase == "running" for one in stopped):
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _start(command: list[str], log: IO[bytes], environment: dict[str, str]) -> subprocess.Popen:
    """Start a process that does not hear the signal by which a cluster announces its time limit.

    It goes to every process of a job, and would end one that does not expect it; whoever waits for
    the process hears it, and passes it on as SIGTERM.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _wait(process: subprocess.Popen) -> int:
    """Wait for the end; who is torn away from it lets the process save first."""
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


@contextmanager
def _environment(share: Share) -> Iterator[dict[str, str]]:
    """The variables that keep a job to its share, and hold its device while it runs."""
    variables = {}
    if share.threads is not None and "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(share.threads)
    if not share.devices:
        yield variables
        return
    with _device(share) as device:
        yield variables | {"CUDA_VISIBLE_DEVICES": device}


@contextmanager
def _device(share: Share) -> Iterator[str]:
    """Hold a place on a device until the job ends, or dies; the first device that has one.

    Places are locked files, so that jobs of two sweeps on one machine spread out as well.
    """
    places = -(-share.at_once // len(share.devices))
    folder = Path(tempfile.gettempdir()) / f"dreamer-devices-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for place in range(places):
        for device in share.devices:
            try:
                held = FileLock(folder / f"{device}.{place}").acquire(blocking=False)
            except Timeout:
                continue
            with held:
                yield device
            return
    yield share.devices[os.getpid() % len(share.devices)]  # all are taken: share one


def _was_stopped(code: int) -> bool:
    """Whether a process ended well, or because somebody outside wanted it to end."""
    outside = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP)
    return code == 0 or code in (code for s in outside for code in (-s, 128 + s))


def _describe(code: int) -> str:
    if code < 0:
        return f"The process was ended by {signal.Signals(-code).name}."
    return f"The process ended with code {code}."
