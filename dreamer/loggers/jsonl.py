"""metrics.jsonl: one JSON object per line, for `pandas.read_json(path, lines=True)`."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dreamer.files import read_lines, warn_once, write_text
from dreamer.loggers.base import FileLogger, RunDescription


class JsonLinesLogger(FileLogger):
    """Writes one JSON object per line.

    A resumed run appends to the same file, after dropping the lines beyond its checkpoint, so that
    every count occurs once.
    """

    def __init__(self, run_dir: Path, *, run: RunDescription | None = None):
        super().__init__(run_dir, "metrics.jsonl", run)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line at a count of frames or updates. Non-finite numbers become null."""
        values = {k: float(x) if np.isfinite(x) else None for k, x in metrics.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({self.counter: step, **values, self.counter: step}) + "\n")

    def truncate(self, frames: int) -> None:
        """Drop the lines after a count, and lines that a killed process or a disk damaged."""
        if not self.path.is_file():
            return
        lines, damaged = read_lines(self.path)
        kept = []
        for line in lines:
            count = json.loads(line).get(self.counter)
            if not isinstance(count, int | float):
                damaged += 1
            elif count <= frames:
                kept.append(line + "\n")
        if damaged > 1:  # the last line of a killed process is incomplete
            warn_once(f"{self.path}: {damaged} damaged lines are dropped.")
        write_text(self.path, "".join(kept))
