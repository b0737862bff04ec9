"""Reads the state of a run from its folder.

`sweep.py`, its table and the report use it. It reads metrics.jsonl, summary.json, failure.txt and
lock; it writes nothing.
"""

import json
import os
import time
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import lock_descriptor

TAIL = 1 << 16  # bytes at the end of metrics.jsonl with the latest values
LOOKS = 3  # attempts, as another process may be testing the lock, too
SECONDS_BETWEEN_LOOKS = 0.01

Phase = Literal["finished", "running", "interrupted", "failed", "empty"]


class State(NamedTuple):
    """The current state of a run."""

    phase: Phase
    frames: int = 0  # updates of a run that collects nothing
    last_return: float | None = None  # of the latest training episodes
    frames_per_second: float | None = None
    detail: str = ""  # running: host and process; failed: the last line of the traceback


def read_state(folder: Path, total_frames: int | None = None) -> State:
    """Read the state of the run in a folder.

    Args:
        folder: of the run; it may be missing.
        total_frames: length of the run, in updates if it collects nothing; None: the length of
            its last start.
    """
    latest = _latest_numbers(folder / "metrics.jsonl")
    frames = int(latest.get("frames", latest.get("updates", 0)))
    score, rate = latest.get("collect/return"), latest.get("perf/frames_per_second")
    holder = lock_holder(folder)
    if holder is not None:
        return State("running", frames, score, rate, holder)
    if (folder / "failure.txt").exists():
        return State("failed", frames, score, rate, failure(folder, lines=1))
    try:
        finished = _finished_frames(folder)
    except (ValueError, OSError):
        return State("failed", frames, score, rate, "summary.json cannot be read")
    if finished is not None and finished >= (total_frames or 0):
        return State("finished", finished, score, rate)
    if latest or (folder / "checkpoints" / "last.ckpt").exists():
        return State("interrupted", frames, score, rate)
    return State("empty")


def lock_holder(folder: Path) -> str | None:
    """Return the host and process that run in a folder now; None if there is none.

    The lock is held for a moment. A run that starts just then is not refused: it waits.
    """
    path = folder / "lock"
    mode = "r+" if os.access(path, os.W_OK) else "r"  # NFS locks files open for writing only
    try:
        with path.open(mode, errors="replace") as file:
            for look in range(LOOKS):
                if look:
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                if lock_descriptor(file.fileno(), blocking=False):
                    return None
            return file.read() or "unknown"
    except OSError:  # no lock, or one that cannot be tested: a read-only file on NFS
        return None


def failure(folder: Path, lines: int = 6) -> str:
    """Return the last lines of a failed run's failure.txt."""
    path = folder / "failure.txt"
    text = path.read_text(errors="replace") if path.is_file() else "there is no failure.txt"
    return "\n".join(text.strip().splitlines()[-lines:])


def _finished_frames(folder: Path) -> int | None:
    path = folder / "summary.json"
    if not path.exists():
        return None
    summary = json.loads(path.read_text())
    if not isinstance(summary, dict) or not isinstance(summary.get("frames"), int):
        raise ValueError("no frames")
    return summary["frames"] or summary.get("updates", 0)  # no frames: it collects nothing


def _latest_numbers(path: Path) -> dict[str, float]:
    """Return the latest value of every key; incomplete lines are skipped."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - TAIL, 0))
        lines = file.read().decode(errors="replace").splitlines()
    latest: dict[str, float] = {}
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            latest |= {k: x for k, x in record.items() if isinstance(x, int | float)}
    return latest
