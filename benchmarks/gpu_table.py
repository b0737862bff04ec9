"""Prints a table of the results of `benchmarks/gpu.sh`, and writes it as results.json.

`python -m benchmarks.gpu_table OUT`

It reads reports of the other benchmarks and metrics of runs in the folder OUT. Parts without
results are listed, too.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import print_table, write_json

RATES = ("perf/updates_per_second", "perf/frames_per_second")


def rows(folder: Path) -> Iterator[dict[str, str]]:
    """Yield a row per part, in the order of execution; several for parts with several numbers."""
    for line in (folder / "parts.txt").read_text().splitlines():
        name, code, seconds = line.split()
        part = {"part": name, "took": f"{seconds} s", "ended": _ending(int(code))}
        results = list(_results(folder, name)) or [("", "")]
        for what, value in results:
            yield {**part, "what": what, "result": value}
            part = dict.fromkeys(part, "")


def _ending(code: int) -> str:
    return {0: "ok", 124: "timed out", 137: "timed out"}.get(code, f"failed ({code})")


def _results(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    report, metrics = folder / f"{name}.json", folder / f"{name}.jsonl"
    if report.exists():
        yield from _of_report(json.loads(report.read_text()))
    elif metrics.exists():
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        # The first line includes the prefill and the capture of CUDA graphs.
        speeds = [line for line in lines if RATES[0] in line][1:]
        for key in RATES:
            values = sorted(line[key] for line in speeds if key in line)
            if values:
                yield key, f"{values[len(values) // 2]:.4g}"
    elif (folder / f"{name}.log").exists():
        yield "last line", (folder / f"{name}.log").read_text().strip().rpartition("\n")[-1]


def _of_report(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "busy_seconds" in report:
        times = f"{1e3 * report['seconds']:.4g} ms, {1e3 * report['busy_seconds']:.4g} ms busy"
        yield "update, profiled", f"{times} in {report['calls']:.0f} calls"
    for program, numbers in report.get("programs", {}).items():
        value = f"{1e3 * numbers['median']:.4g} ms, {1 / numbers['median']:.4g} a second"
        yield f"update, {program}, {numbers.get('precision', '')}", value
    for program, counts in report.get("policy_calls", {}).items():
        for count, numbers in counts.items():
            yield f"policy call, {program}, E = {count}", f"{1e3 * numbers['median']:.4g} ms"
    for count, rates in report.get("emulation", {}).items():
        for what, numbers in rates.items():
            rate = int(count) / numbers["median"]
            yield f"emulation, {what}, E = {count}", f"{rate:.4g} policy steps a second"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    table = list(rows(folder))
    print_table(table)
    write_json(folder / "results.json", {"rows": table})
