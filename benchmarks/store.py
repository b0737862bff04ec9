"""What `replay.store` and a mirror cost a run: `python -m benchmarks.store`.

Runs of the dummy task copy their episodes and checkpoints nowhere, to a folder, to an address that
takes its time, and to one that cannot be reached, in turns and in one process. The time is that of
the processor and of all threads, from the first to the last update, collection and checkpoints
included. A ratio is that to the run without copies of the same turn; its median and range are
reported, and by how much the memory that is not of files grew.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from dreamer.runtime import prepare

prepare()

import fsspec  # noqa: E402
import torch  # noqa: E402
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

from benchmarks.agent import configuration  # noqa: E402
from benchmarks.measure import machine, print_table, write_json  # noqa: E402
from benchmarks.peers.sizes import SIZES  # noqa: E402
from dreamer.agent import DreamerAgent  # noqa: E402
from dreamer.data.uploads import finish_uploads  # noqa: E402
from dreamer.run.train import train  # noqa: E402

SECONDS = 0.5  # that the slow address takes for a file
WARM_UP = 3  # uncounted updates
PREFILL = 200  # policy steps
TARGETS = {"none": "null", "folder": "{}/store", "slow": "slow://store", "unreachable": "away://x"}
WORDS = (
    *("env=dummy", "task=memory", "logger=none", "explore=none", "callbacks.evaluate=null"),
    *("callbacks.video=null", "callbacks.progress=null", "replay.across_episodes=true"),
    *("replay.capacity_policy_steps=100000", f"prefill_policy_steps={PREFILL}"),
    *("train_every_policy_steps=16", "callbacks.checkpoint.every_frames=160"),
)


class Slow(MemoryFileSystem):
    """Keeps nothing, slowly."""

    protocol = "slow"

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Deny everything."""
        return False

    def find(self, path: str, **kwargs: Any) -> list[str]:  # pyright: ignore
        """Find nothing."""
        return []

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        """Have nothing."""
        raise FileNotFoundError(rpath)

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:  # pyright: ignore
        """Take a file."""
        time.sleep(SECONDS)

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        """Take a file."""
        time.sleep(SECONDS)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing."""

    def mv(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Do nothing."""


class Away(Slow):
    """Cannot be reached by writers."""

    protocol = "away"

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:  # pyright: ignore
        """Fail."""
        raise ConnectionError("no answer")

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        """Fail."""
        raise ConnectionError("no answer")


def run(target: str, size_name: str, updates: int) -> tuple[float, int]:
    """Train a new agent.

    Returns:
        Seconds of the processor for the updates that count, and by how many bytes memory grew.
    """
    marks: list[tuple[float, int]] = []
    step = DreamerAgent.training_step

    def training_step(agent: DreamerAgent, batch: Any, batch_idx: int) -> Any:
        if agent.updates in (WARM_UP, WARM_UP + updates):
            marks.append((time.process_time(), anonymous_bytes()))
        return step(agent, batch, batch_idx)

    with TemporaryDirectory() as root:
        address = TARGETS[target].format(root)
        frames = PREFILL + 16 * (WARM_UP + updates + 1)
        words = [*WORDS, f"root={root}/runs", f"total_frames={frames}", f"replay.store={address}"]
        words.append(f"callbacks.checkpoint.mirror={address}")
        cfg = configuration(SIZES[size_name], words)
        with (
            patch.object(DreamerAgent, "training_step", training_step),
            patch("dreamer.run.train.finish_uploads", lambda parts: finish_uploads(parts, 1.0)),
        ):
            train(cfg)
    (start, before), (stop, after) = marks
    return stop - start, after - before


def anonymous_bytes() -> int:
    """Return the memory of this process that is not of files; the replay's is."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/smaps_rollup has no line `Anonymous:`")


def measure(*, size_name: str, updates: int, repeats: int, threads: int) -> dict[str, Any]:
    """Train with all targets in turns; returns the report."""
    torch.set_num_threads(threads)
    for kind in (Slow, Away):
        fsspec.register_implementation(str(kind.protocol), kind, clobber=True)
    seconds: dict[str, list[float]] = {name: [] for name in TARGETS}
    growth: dict[str, list[int]] = {name: [] for name in TARGETS}
    for turn in range(repeats + 1):
        for name in TARGETS:
            taken, grown = run(name, size_name, updates)
            if turn:  # the first warms up
                seconds[name].append(taken)
                growth[name].append(grown)
    ratios = {
        name: [a / b for a, b in zip(seconds[name], seconds["none"], strict=True)]
        for name in TARGETS
    }
    return {
        "benchmark": "store",
        "machine": machine("cpu", threads),
        "size_name": size_name,
        "updates": updates,
        "ratios": ratios,
        "seconds": seconds,
        "grown_bytes": growth,
    }


def show(report: dict[str, Any]) -> None:
    """Print median and range of the ratios, and the growth."""
    rows = [
        {
            "copies to": name,
            "ratio": f"{statistics.median(ratios):.3f}",
            "range": f"{min(ratios):.3f} to {max(ratios):.3f}",
            "grown": f"{statistics.median(report['grown_bytes'][name]) / 1e6:.1f} MB",
        }
        for name, ratios in report["ratios"].items()
    ]
    print_table(rows)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write, as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(words)
    warnings.filterwarnings("ignore")
    report = measure(
        size_name=options.size,
        updates=options.updates,
        repeats=options.repeats,
        threads=options.threads,
    )
    show(report)
    write_json(options.out, report)


if __name__ == "__main__":
    main()
