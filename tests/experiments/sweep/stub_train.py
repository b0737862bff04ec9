"""Stands in for train.py: leaves what a run leaves in its folder, in milliseconds.

STUB, a JSON object, says what is to happen to which job, by its name. Every start is noted in
<root>/starts.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from filelock import lock_descriptor

words = dict(word.split("=", 1) for word in sys.argv[1:])
name = "{env}/{task}/{variant}/seed{seed}".format(**words)
folder = Path(words["root"]) / name
fate = json.loads(os.environ.get("STUB", "{}")).get(name)
folder.mkdir(parents=True, exist_ok=True)
with (folder / "lock").open("a+") as lock:
    if not lock_descriptor(lock.fileno(), blocking=False):
        sys.exit(os.EX_TEMPFAIL)
    with (Path(words["root"]) / "starts").open("a") as starts:
        starts.write(name + "\n")
    (folder / "config.yaml").write_text("total_frames: 100\n")
    if fate:
        (folder / "metrics.jsonl").write_text(json.dumps({"frames": 5}) + "\n")
    if fate == "fail":
        (folder / "failure.txt").write_text("Traceback ...\nRuntimeError: the door is stuck\n")
        sys.exit(1)
    if fate == "reject":
        sys.exit("error: this value cannot be")
    if fate in ("SIGKILL", "SIGSEGV", "SIGTERM"):
        print("about to go", flush=True)
        os.kill(os.getpid(), getattr(signal, fate))
    if fate == "slow":
        time.sleep(0.3)
    variables = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    (folder / "variables.json").write_text(json.dumps(variables))
    frames = float(words["total_frames"])
    record = {"frames": int(frames), "collect/return": 1.5, "perf/frames_per_second": 50.0}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "summary.json").write_text(json.dumps({"frames": int(frames)}))
