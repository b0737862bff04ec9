"""Shared by all benchmarks: description of the machine, medians with ranges, tables, JSON.

The commands of this package use it. It does not know what is measured.
"""

import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

PACKAGES = ("torch", "pytorch-lightning", "numpy", "gymnasium", "ale-py")
MATRIX = 2048  # rows and columns of the products that measure the rate of the machine


class Spread(NamedTuple):
    """Summary of repeated measurements, seconds."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        """Summarise at least one measurement."""
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def machine(device: str, threads: int) -> dict[str, Any]:
    """Return hardware, versions and date, for a report."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_name(),
        "threads": threads,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Measure floating-point operations per second of a product of square matrices."""
    left = torch.randn(MATRIX, MATRIX, device=device, dtype=dtype)
    product = torch.empty_like(left)
    (seconds,) = repeat(lambda: torch.mm(left, left, out=product), 1, device=device)
    return 2 * MATRIX**3 / seconds


def repeat(
    function: Callable[[], object], repeats: int, *, device: str = "cpu", warm_up: int = 1
) -> list[float]:
    """Measure seconds of each call, after `warm_up` calls that do not count."""
    seconds = []
    for _ in range(warm_up + repeats):
        start = now(device)
        function()
        seconds.append(now(device) - start)
    return seconds[warm_up:]


def now(device: str) -> float:
    """Return the clock in seconds, after the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory(device: str) -> int:
    """Return the peak memory of this process, or on a GPU that of its tensors, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows with the same keys as an aligned table."""
    columns = list(rows[0])
    widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]
    for row in ({column: column for column in columns}, *rows):
        cells = (row[column].ljust(width) for column, width in zip(columns, widths, strict=True))
        print("  ".join(cells).rstrip())


def milliseconds(spread: Spread) -> str:
    """Format median and range for a table."""
    low, high = f"{1e3 * spread.low:.4g}", f"{1e3 * spread.high:.4g}"
    return f"{1e3 * spread.median:.4g} ms ({low} to {high})"


def write_json(path: Path | None, report: Mapping[str, Any]) -> None:
    """Write a report, if there is a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n")
        print(f"written: {path}")


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
