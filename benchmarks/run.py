"""Time of a whole run, compared with SheepRL's own benchmark: `python -m benchmarks.run`.

SheepRL publishes times of `exp=dreamer_v2_benchmarks`; conf/experiment/sheeprl_benchmark.yaml is
the same work for our `train.py`. Both commands run from start to finish, in turns.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Spread, machine, print_table, write_json
from benchmarks.peers.sheeprl_run import WholeRun, run_ours, run_sheeprl


def measure(*, repeats: int, threads: int, steps: int | None, peer: bool) -> dict[str, Any]:
    """Run both commands in turns; `steps` limits both to this many policy steps."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    ours_settings = [f"total_frames={4 * steps}"] if steps else []
    peer_settings = [f"algo.total_steps={steps}"] if steps else []
    runs: dict[str, list[WholeRun]] = {"ours": []} | ({"sheeprl": []} if peer else {})
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            runs["ours"].append(run_ours(Path(folder) / "ours", ours_settings, environment))
            if peer:
                path = Path(folder) / "sheeprl"
                runs["sheeprl"].append(run_sheeprl(path, peer_settings, environment))
    programs = {
        name: {
            "command": _without_paths(made[0].command),
            "policy_steps": made[0].policy_steps,
            "updates": made[0].updates,
            **Spread.of([run.seconds for run in made])._asdict(),
        }
        for name, made in runs.items()
    }
    for program in programs.values():
        program["ours_is_faster_by"] = program["median"] / programs["ours"]["median"]
    return {"benchmark": "run", "machine": machine("cpu", threads), "programs": programs}


def _without_paths(command: list[str]) -> str:
    """Format a command without the paths of this machine."""
    program, *words = command
    return " ".join([Path(program).name, *(w for w in words if not w.startswith("root="))])


def show(report: dict[str, Any]) -> None:
    """Print a report as a table."""
    print_table(
        [
            {
                "program": name,
                "policy steps": str(program["policy_steps"]),
                "updates": str(program["updates"]),
                "start to finish, median (range)": f"{program['median']:.1f} s "
                f"({program['low']:.1f} to {program['high']:.1f})",
                "ours is faster by": f"{program['ours_is_faster_by']:.2f} x",
            }
            for name, program in report["programs"].items()
        ]
    )


def main() -> None:
    """Measure, print and write, as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--steps", type=int, help="policy steps; 16,384 by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-peer", action="store_true", help="only our program")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    report = measure(
        repeats=options.repeats,
        threads=options.threads,
        steps=options.steps,
        peer=not options.no_peer,
    )
    show(report)
    write_json(options.out, report)


if __name__ == "__main__":
    main()
