"""Copies what another machine needs to resume a run to an address: `callbacks.checkpoint.mirror`.

`Checkpoint` tells it what was saved, `dreamer.run` fetches the copies. The address has the files of
a run folder, without the replay and the videos.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dreamer.callbacks.metrics import Metrics
from dreamer.checkpoint_file import PREVIOUS
from dreamer.data.address import Place
from dreamer.data.uploads import Uploads

# Small files of a run folder, all that exist; the first says whose copy it is.
FILES = (
    *("config.yaml", "spaces.json", "copied.json", "metrics.jsonl", "metrics.csv"),
    *("wandb_id", "mlflow.json", "evaluation.json", "summary.json"),
)
CHECKPOINTS = "checkpoints"
SNAPSHOT = ".mirror-"  # how names of checkpoints that wait begin


class Job(NamedTuple):
    """A checkpoint to copy, or all small files that have changed."""

    name: str = ""
    snapshot: Path | None = None


class Mirror:
    """Copies a run folder, in the background."""

    def __init__(self, place: Place, run_dir: Path, metrics: Metrics):
        """Copy `run_dir` to a place of its own; `metrics` gets the counts."""
        self._place, self._run_dir = place, run_dir
        self._copied: dict[str, tuple[int, int]] = {}  # size and time of small files, by name
        self._saved = 0
        for path in (run_dir / CHECKPOINTS).glob(f"{SNAPSHOT}*"):  # of a process that was killed
            path.unlink()
        self._uploads: Uploads[Job] = Uploads(
            place.address, "checkpoints", self._upload, capacity=100
        )
        metrics.add_source(self._metrics)

    def saved(self, path: Path) -> None:
        """Copy a checkpoint that was saved; an older one of its name that still waits is not."""
        self._saved += 1
        snapshot = path.with_name(f"{SNAPSHOT}{self._saved}-{path.name}")
        try:
            os.link(path, snapshot)  # it outlives the next save, and takes no time
        except OSError:  # a file system without links
            shutil.copyfile(path, snapshot)
        self._uploads.put("", Job())
        for job in self._uploads.put(path.name, Job(path.name, snapshot)):
            if job.snapshot is not None:
                job.snapshot.unlink(missing_ok=True)

    def close(self) -> None:
        """Copy the small files once more."""
        self._uploads.put("", Job())
        self._uploads.close()

    def join(self, seconds: float) -> None:
        """Wait so long for what is left."""
        self._uploads.join(seconds)
        for path in (self._run_dir / CHECKPOINTS).glob(f"{SNAPSHOT}*"):
            with suppress(OSError):
                path.unlink()

    def _upload(self, job: Job) -> bool | None:
        """Do a job in the background."""
        if job.snapshot is None:
            self._upload_files()
            return None
        if not job.snapshot.exists():
            return False
        name = f"{CHECKPOINTS}/{job.name}"
        if job.name == "last.ckpt":
            self._place.keep(name, f"{CHECKPOINTS}/{PREVIOUS}")
        self._place.upload(name, job.snapshot)
        job.snapshot.unlink(missing_ok=True)
        return True

    def _upload_files(self) -> None:
        for name in FILES:
            path = self._run_dir / name
            try:
                state = path.stat()
            except OSError:  # the run has no such file
                continue
            mark = state.st_size, state.st_mtime_ns
            if self._copied.get(name) != mark:
                self._place.upload(name, path)
                self._copied[name] = mark

    def _metrics(self) -> dict[str, float]:
        counts = self._uploads.counts
        return {
            "mirror/written": counts.written,
            "mirror/waiting": counts.waiting,
            "mirror/dropped": counts.dropped,
            "mirror/failed": counts.failed,
        }
