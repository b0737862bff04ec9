"""metrics.jsonl: one JSON object per line, for `pandas.read_json(path, lines=True)`."""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamer.loggers.base import RunLogger


class JsonLinesLogger(RunLogger):
    """Writes one JSON object per line.

    A resumed run appends to the same file, after dropping the lines beyond its checkpoint, so that
    every frame count occurs once.
    """

    def __init__(self, run_dir: Path):
        super().__init__()
        self.path = Path(run_dir) / "metrics.jsonl"

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "jsonl"

    @property
    def version(self) -> str:
        """Always empty: the run folder identifies the run."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any):
        """Do nothing: the run folder holds the configuration."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line; `step` is the frame count. Non-finite numbers become null."""
        values = {k: float(x) if np.isfinite(x) else None for k, x in metrics.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"frames": step, **values}) + "\n")

    def truncate(self, frames: int) -> None:
        """Drop the lines after a frame count, and incomplete lines of a killed process."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["frames"] <= frames:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(self.path)
