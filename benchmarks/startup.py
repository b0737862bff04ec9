"""Time until commands answer, and until the first update: `python -m benchmarks.startup`.

With `--other CHECKOUT`, another version takes turns with this one. Each measurement is a process of
its own. Seconds are those of the clock, and those of the processor, which a busy machine changes
less.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Spread, machine, print_table, write_json

ROOT = Path(__file__).parents[1]
COMMANDS = {  # from the start to the end
    "train.py --help": ("train.py", "--help"),
    "sweep.py --help": ("sweep.py", "--help"),
    "dreamer.check --help": ("-m", "dreamer.check", "--help"),
    "dreamer.evaluate --help": ("-m", "dreamer.evaluate", "--help"),
    "experiments.report --help": ("-m", "experiments.report", "--help"),
    "a wrong value for train.py": ("train.py", "env=dummy", "task=memory", "env.rounds=0"),
    "a missing folder for dreamer.evaluate": ("-m", "dreamer.evaluate", "run_dir=nowhere"),
}
# Hardly any prefill; a line of metrics follows the first update.
AT_ONCE = ("pretrain_updates=0", "callbacks.metrics.every_frames=1", "replay.sampling=steps")
RUNS = {  # from the start to the end of the first update
    "first update, debug=fast": (
        *("env=dummy", "task=memory", "debug=fast", "prefill_policy_steps=60"),
        "logger=[jsonl,tensorboard]",
    ),
    "first update, full agent": (
        *("env=atari", "task=pong", "prefill_policy_steps=60", "replay.across_episodes=true"),
        *("logger=[jsonl,tensorboard]", "replay.capacity_policy_steps=100_000"),
    ),
}
PATIENCE = 600  # seconds


class Times(NamedTuple):
    """The seconds of one process."""

    answer: float  # until the first output
    total: float
    processor: float  # user and system time until then


def time_command(words: Sequence[str], checkout: Path, environment: Mapping[str, str]) -> Times:
    """Run a command of a checkout to its end."""
    start = time.perf_counter()
    process = _start(words, checkout, environment)
    assert process.stdout is not None
    process.stdout.read(1)
    answer = time.perf_counter() - start
    process.stdout.read()
    processor = _wait(process)
    return Times(answer, time.perf_counter() - start, processor)


def time_first_update(
    words: Sequence[str], checkout: Path, environment: Mapping[str, str]
) -> Times:
    """Start a run of a checkout, and kill it after its first update."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = _start(
            ("train.py", *words, *AT_ONCE, f"run_dir={folder}/run"), checkout, environment
        )
        assert process.stdout is not None
        text = process.stdout.read(1)
        answer = time.perf_counter() - start
        os.set_blocking(process.stdout.fileno(), False)
        metrics = Path(folder, "run", "metrics.jsonl")
        while not (metrics.exists() and "world_model/" in metrics.read_text()):
            text += process.stdout.read() or b""
            if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                process.kill()
                raise RuntimeError(f"The run must make an update, got {text.decode()}")
            time.sleep(0.01)
        total = time.perf_counter() - start
        process.kill()
        return Times(answer, total, _wait(process))


def _start(
    words: Sequence[str], checkout: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=checkout,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )


def _wait(process: subprocess.Popen[bytes]) -> float:
    """Wait for the end, and return the seconds of the processor."""
    usage = os.wait4(process.pid, 0)[2]
    process.returncode = 0
    assert process.stdout is not None
    process.stdout.close()
    return usage.ru_utime + usage.ru_stime


def measure(
    *, checkouts: Mapping[str, Path], repeats: int, threads: int, only: str = ""
) -> dict[str, Any]:
    """Measure all checkouts in turns; `only` is a part of the names to measure."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    jobs = {name: (time_command, words) for name, words in COMMANDS.items()}
    jobs |= {name: (time_first_update, words) for name, words in RUNS.items()}
    results = {}
    for name, (timed, words) in jobs.items():
        if only not in name:
            continue
        taken: dict[str, list[Times]] = {checkout: [] for checkout in checkouts}
        for _ in range(repeats):
            for checkout, path in checkouts.items():
                taken[checkout].append(timed(words, path, environment))
        results[name] = {
            checkout: {
                part: Spread.of([getattr(one, part) for one in times])._asdict()
                for part in Times._fields
            }
            for checkout, times in taken.items()
        }
    return {"benchmark": "startup", "machine": machine("cpu", threads), "programs": results}


def show(report: Mapping[str, Any]) -> None:
    """Print a report as a table."""
    print_table(
        [
            {"": name, "checkout": checkout}
            | {
                title: f"{spread[part]['median']:.2f} s"
                f" ({spread[part]['low']:.2f} to {spread[part]['high']:.2f})"
                for part, title in (
                    ("answer", "first output"),
                    ("total", "all"),
                    ("processor", "of the processor"),
                )
            }
            for name, programs in report["programs"].items()
            for checkout, spread in programs.items()
        ]
    )


def main() -> None:
    """Measure, print and write, as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--other", type=Path, help="another checkout, to compare with")
    parser.add_argument("--only", default="", help="a part of the names to measure")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    checkouts = {"ours": ROOT} | ({"other": options.other} if options.other else {})
    report = measure(
        checkouts=checkouts,
        repeats=options.repeats,
        threads=options.threads,
        only=options.only,
    )
    show(report)
    write_json(options.out, report)


if __name__ == "__main__":
    main()
