"""Runs one job of a sweep: `dreamer.cli.train` in its own process.

`launchers.py` passes it to Hydra's launchers, which call it here, in a worker or on a cluster. A
separate process isolates memory, threads and crashes. It knows no agent.
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
from threading import Event
from types import FrameType
from typing import IO, Literal, NamedTuple

from filelock import FileLock, Timeout

from experiments.sweep.grid import CONF, Job
from experiments.sweep.state import read_state

HERE = Path(__file__).parents[2]  # a checkout, or the folder of installed packages
IN_CHECKOUT = CONF.parent == HERE
# The module of `python train.py`, which an installed copy lacks. With -P, no module in the current
# folder replaces an installed one of the same name.
TRAIN = ("-P", "-m", "dreamer.cli.train")
LOG_LINES = 30  # kept of a failed process without a failure.txt
# A file in the folder of a run. While a sweep runs the job, on any machine, it asks the job to save
# and end.
STOP_REQUEST = "stop_request"
SECONDS_BETWEEN_LOOKS = 1.0  # for a stop request

Outcome = Literal["ran", "elsewhere"]


class Planned(NamedTuple):
    """A job, its run folder, and its cost."""

    job: Job
    folder: Path
    total_frames: int
    disk_bytes: int  # of the full replay


class Share(NamedTuple):
    """The resources of one job."""

    at_once: int = 1  # number of parallel jobs
    threads: int | None = None  # for computation; None: one per core
    devices: tuple[str, ...] = ()  # CUDA devices to distribute; empty: do not choose


def run(planned: Planned, share: Share) -> Outcome:
    """Run or resume a job, unless another process runs it.

    Its folder records the result. If the process died without a failure.txt, this writes one. A
    process that was stopped or killed from outside has not failed: it can be resumed.
    """
    folder = planned.folder
    if read_state(folder, planned.total_frames).phase in ("running", "finished"):
        return "elsewhere"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("failure.txt", STOP_REQUEST):
        (folder / name).unlink(missing_ok=True)
    if (folder / "log.txt").is_symlink():  # it would lead out of the folder
        (folder / "log.txt").unlink()
    with (folder / "log.txt").open("ab") as log, _environment(share) as environment:
        start = log.tell()
        process = _start([sys.executable, *TRAIN, *planned.job.words], log, environment)
        code = _wait(process, folder / STOP_REQUEST)
    (folder / STOP_REQUEST).unlink(missing_ok=True)
    if code == os.EX_TEMPFAIL:
        return "elsewhere"
    if not _was_stopped(code) and not (folder / "failure.txt").exists():
        text = (folder / "log.txt").read_bytes()[start:].decode(errors="replace")
        last = "\n".join(text.splitlines()[-LOG_LINES:])
        (folder / "failure.txt").write_text(f"{last}\n{_describe(code)}\n")
    return "ran"


def stop(planned: Sequence[Planned], patience: float = 60, *, only_own: bool = True) -> None:
    """Stop the jobs of this process and its workers, and wait until they are saved.

    They are identified by their process group, which child processes inherit.

    Args:
        planned: the jobs.
        patience: how long to wait, seconds.
        only_own: false: also those that another process on this machine has started.
    """
    host, group = os.uname().nodename, os.getpgid(0)
    stopped = []
    for one in planned:
        state = read_state(one.folder)
        job_host, _, process = state.detail.partition(" ")
        if state.phase == "running" and job_host == host and process.isdigit():
            try:
                if not only_own or os.getpgid(int(process)) == group:
                    os.kill(int(process), signal.SIGTERM)
                    stopped.append(one)
            except ProcessLookupError:
                continue
    deadline = time.monotonic() + patience
    while any(read_state(one.folder).phase == "running" for one in stopped):
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)


def request_stop(planned: Planned) -> None:
    """Ask a job to save and end, on whatever machine a sweep runs it."""
    if planned.folder.is_dir():
        (planned.folder / STOP_REQUEST).touch()


@contextmanager
def saving_jobs(plan: Sequence[Planned], what: str, leaving: Event | None = None) -> Iterator[None]:
    """On Ctrl-C and SIGTERM, let the jobs save before the end, with any launcher.

    Args:
        plan: the jobs; a list may change meanwhile.
        what: is stopped, such as "sweep".
        leaving: is set first.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait
        print("\nStopping; jobs on this machine save first ...", file=sys.stderr)
        if leaving is not None:
            leaving.set()
        stop(plan)
        print(f"The same command continues the {what}.", file=sys.stderr)
        sys.exit(128 + number)

    old = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _start(command: list[str], log: IO[bytes], environment: dict[str, str]) -> subprocess.Popen:
    """Start a process that ignores the signals by which a cluster announces its time limit.

    Every process of a job gets them, and they would end it. The waiting parent handles them, and
    sends SIGTERM.
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


def _wait(process: subprocess.Popen, stop_request: Path) -> int:
    """Wait for the end; if interrupted or asked to, stop the process and let it save first."""
    try:
        while True:
            try:
                return process.wait(SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                if stop_request.exists():
                    process.terminate()
                    return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


@contextmanager
def _environment(share: Share) -> Iterator[dict[str, str]]:
    """Yield the variables that limit a job to its share, and reserve its device meanwhile."""
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
    """Reserve a slot on the first free device until the job ends.

    Slots are locked files, so that several sweeps on one machine share the devices.
    """
    slots = -(-share.at_once // len(share.devices))
    folder = Path(tempfile.gettempdir()) / f"dreamer-devices-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for slot in range(slots):
        for device in share.devices:
            try:
                held = FileLock(folder / f"{device}.{slot}").acquire(blocking=False)
            except Timeout:
                continue
            with held:
                yield device
            return
    yield share.devices[os.getpid() % len(share.devices)]  # all are used: share one


def _was_stopped(code: int) -> bool:
    """Whether a process succeeded, or was stopped from outside."""
    outside = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP)
    return code == 0 or code in (code for s in outside for code in (-s, 128 + s))


def _describe(code: int) -> str:
    if code < 0:
        return f"The process was killed by {signal.Signals(-code).name}."
    return f"The process ended with exit code {code}."
