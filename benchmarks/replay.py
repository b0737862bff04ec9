"""How long the replay takes, and that its memory stays flat: `python -m benchmarks.replay`.

Steps of noise in Atari's shape fill a ring and wrap round it; on the way, adding a step and
sampling a batch of 16 x 50 are timed at growing numbers of held steps.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from dreamer.runtime import prepare

prepare()

import numpy as np  # noqa: E402

from benchmarks.measure import (  # noqa: E402
    Spread,
    machine,
    print_table,
    repeat,
    write_json,
)
from dreamer.replay.buffer import Replay, ReplayConfig  # noqa: E402
from dreamer.types import TimeStep  # noqa: E402

ACTIONS = 18
EPISODE = 1000  # steps
SAMPLES = 50  # batches of one measurement


def fill(folder: Path, *, capacity: int, steps: int) -> list[dict[str, Any]]:
    """Add `steps` steps to a ring of `capacity`; measure at powers of ten, when full, and after.

    Returns:
        A row for every stop: steps added, steps held, seconds to add one since the last stop,
        seconds to sample a batch, and the process's private memory in bytes.
    """
    shapes = {"image": (1, 64, 64)}
    config = ReplayConfig(capacity, sampling="episodes", across_episodes=False)
    replay = Replay(
        folder, obs_shapes=shapes, action_size=ACTIONS, env_count=1, config=config, seed=0
    )
    images = np.random.default_rng(0).integers(256, size=(64, 1, 1, 64, 64), dtype=np.uint8)
    action, reward = np.eye(ACTIONS, dtype=np.float32)[:1], np.ones(1, np.float32)
    yes, no = np.ones(1, bool), np.zeros(1, bool)
    stops = sorted({10_000, 100_000, 1_000_000, capacity, steps} & set(range(steps + 1)))
    rows, added = [], 0
    for stop in stops:
        start = time.perf_counter()
        for number in range(added, stop):
            position = number % EPISODE
            is_first, is_last = yes if position == 0 else no, yes if position == EPISODE - 1 else no
            obs = {"image": images[number % len(images)]}
            replay.add(TimeStep(obs, reward, is_first, is_last, is_last), action)
        add_seconds = (time.perf_counter() - start) / (stop - added)
        added = stop
        samples = repeat(lambda: replay.sample(16, 50), SAMPLES, warm_up=SAMPLES)
        rows.append(
            {
                "steps_added": stop,
                "steps_held": replay.policy_steps,
                "add_seconds": add_seconds,
                "sample": Spread.of(samples)._asdict(),
                "private_bytes": _private_memory(),
            }
        )
        _show(rows[-1], first=len(rows) == 1)
    return rows


def _private_memory() -> int:
    """Bytes of this process without the pages of files, which the system may drop at any time."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("Expect RssAnon in /proc/self/status; this benchmark needs Linux.")


def _show(row: dict[str, Any], *, first: bool) -> None:
    sample = Spread(**row["sample"])
    cells = {
        "steps added": f"{row['steps_added']:,}".rjust(11),
        "steps held": f"{row['steps_held']:,}".rjust(10),
        "add a step": f"{1e6 * row['add_seconds']:.1f} us".rjust(10),
        "sample 16 x 50, median (range)": f"{1e3 * sample.median:.2f} ms "
        f"({1e3 * sample.low:.2f} to {1e3 * sample.high:.2f})",
        "private memory": f"{row['private_bytes'] / 1e6:.0f} MB",
    }
    if first:
        print_table([cells])
    else:
        print("  ".join(cell.ljust(len(name)) for name, cell in cells.items()))


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("--capacity", type=int, default=2_000_000, help="steps; 8.6 GB at most")
    parser.add_argument("--steps", type=int, default=2_200_000, help="steps to add")
    parser.add_argument("--folder", type=Path, help="of the ring, on the disk to be measured")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = fill(Path(folder) / "replay", capacity=options.capacity, steps=options.steps)
    write_json(
        options.out, {"benchmark": "replay", "machine": machine("cpu", 1), "measurements": rows}
    )


if __name__ == "__main__":
    main()
