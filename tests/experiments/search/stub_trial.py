"""Stands in for train.py in a search: evaluations whose values follow from a searched key.

The value rises with `model.horizon` in every evaluation. `SLOW` is the number of seconds between
two; a horizon in `FAIL` fails, one in `KILL` is killed at the first start. SIGTERM ends it as it
ends a run. Every start is noted in <root>/starts, every such end in <root>/stopped.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from filelock import lock_descriptor

words = dict(word.split("=", 1) for word in sys.argv[1:])
root = Path(words["root"])
name = "{env}/{task}/{variant}/seed{seed}".format(**words)
folder = root / name
horizon = int(words["model.horizon"])
fates = json.loads(os.environ.get("STUB", "{}"))


def note(file: str) -> bool:
    """Note this run in a file; returns whether it was there before."""
    path = root / file
    known = path.exists() and name in path.read_text().splitlines()
    with path.open("a") as lines:
        lines.write(name + "\n")
    return known


def save(number, frame):
    note("stopped")
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, save)
folder.mkdir(parents=True, exist_ok=True)
with (folder / "lock").open("a+") as lock:
    if not lock_descriptor(lock.fileno(), blocking=False):
        sys.exit(os.EX_TEMPFAIL)
    lock.truncate(0)
    lock.write(f"{os.uname().nodename} {os.getpid()}")
    lock.flush()
    is_known = note("starts")
    if horizon in fates.get("FAIL", []):
        (folder / "failure.txt").write_text("Traceback ...\nRuntimeError: the door is stuck\n")
        sys.exit(1)
    for evaluation in range(1, 6):
        record = {"frames": 100 * evaluation, "eval/return_mean": horizon * evaluation}
        with (folder / "metrics.jsonl").open("a") as metrics:
            metrics.write(json.dumps(record) + "\n")
        if horizon in fates.get("KILL", []) and not is_known:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(fates.get("SLOW", 0))
    (folder / "summary.json").write_text(json.dumps({"frames": int(float(words["total_frames"]))}))
