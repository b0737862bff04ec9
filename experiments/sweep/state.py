"""How far a run has come, told from its folder alone.

`sweep.py` asks it what is left to do, its table what to show, the report what became of a run. It
reads metrics.jsonl, summary.json, failure.txt and lock; it writes nothing.
"""

import json
import os
import time
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import lock_descriptor

TAIL = 1 << 16  # bytes at the end of metrics.jsonl that hold the newest of every number
LOOKS = 3  # at a lock that is held: somebody else may be looking, too
SECONDS_BETWEEN_LOOKS = 0.01

Phase = Literal["finished", "running", "interrupted", "failed", "empty"]


class State(NamedTuple):
    """A run, as its folder shows it at this moment."""

    phase: Phase
    frames: int = 0
    last_return: float | None = None  # of the training episodes that ended last
    frames_per_second: float | None = None
    detail: str = ""  # running: host and process; failed: the last line of the traceback


def read_state(folder: Path, total_frames: int | None = None) -> State:
    """Tell how far the run in a folder has come.

    Args:
        folder: of the run; it need not exist.
        total_frames: what is asked of the run; None: what was asked of it before.
    """
    newest = _newest_numbers(folder / "metrics.jsonl")
    frames = int(newest.get("frames", 0))
    score, rate = newest.get("collect/return"), newest.get("perf/frames_per_second")
    holder = lock_holder(folder)
    if holder is not None:
        return State("running", frames, score, rate, holder)
    if (folder / "failure.txt").exists():
        return State("failed", frames, score, rate, failure(folder, lines=1))
    try:
        finished = _finished_frames(folder)
    except ValueError:
        return State("failed", frames, score, rate, "summary.json cannot be read")
    if finished is not None and finished >= (total_frames or 0):
        return State("finished", finished, score, rate)
    if newest or (folder / "checkpoints" / "last.ckpt").exists():
        return State("interrupted", frames, score, rate)
    return State("empty")


def lock_holder(folder: Path) -> str | None:
    """Host and process that work in a folder now; None if nobody does.

    The lock is taken for a moment, which never keeps out a run that begins just then: it waits.
    """
    path = folder / "lock"
    mode = "r+" if os.access(path, os.W_OK) else "r"  # NFS locks what is open for writing only
    try:
        with path.open(mode) as file:
            for look in range(LOOKS):
                if look:
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                if lock_descriptor(file.fileno(), blocking=False):
                    return None
            return file.read() or "unknown"
    except OSError:  # there is no lock, or it cannot be tried: a file on NFS that we may only read
        return None


def failure(folder: Path, lines: int = 6) -> str:
    """The last lines of what a failed run left."""
    path = folder / "failure.txt"
    text = path.read_text(errors="replace") if path.exists() else "there is no failure.txt"
    return "\n".join(text.strip().splitlines()[-lines:])


def _finished_frames(folder: Path) -> int | None:
    path = folder / "summary.json"
    if not path.exists():
        return None
    summary = json.loads(path.read_text())
    if not isinstance(summary, dict) or not isinstance(summary.get("frames"), int):
        raise ValueError("no frames")
    return summary["frames"]


def _newest_numbers(path: Path) -> dict[str, float]:
    """The newest value of every key; a line that is not whole is passed over."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - TAIL, 0))
        lines = file.read().decode(errors="replace").splitlines()
    newest: dict[str, float] = {}
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            newest |= {k: x for k, x in record.items() if isinstance(x, int | float)}
    return newest
