"""Where the time of an update goes: `python -m benchmarks.profile --size small`.

Ours alone, inside Lightning's Trainer, as `benchmarks.update` times it. On a CPU, torch's
operations by the shapes that they meet; on a GPU, its kernels: what they leave of the time, it had
nothing to do. What is profiled takes longer than what is not.
"""

import argparse
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamer.runtime import prepare

prepare()

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from torch.autograd import DeviceType  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from benchmarks.agent import (  # noqa: E402
    configuration,
    make_agent,
    make_trainer,
    random_batch,
)
from benchmarks.measure import machine, now, print_table, write_json  # noqa: E402
from benchmarks.peers.sizes import SIZES  # noqa: E402
from dreamer.run.build import apply_kernels  # noqa: E402

WARM_UP = 6  # updates before, recordings included
UPDATES = 3  # that are profiled


class _Profiler(pl.Callback):
    """Profiles the updates after the first ones."""

    def __init__(self, device: str):
        self.device = device
        activities = [ProfilerActivity.CPU]
        if device == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.profile = profile(activities=activities, record_shapes=device == "cpu")
        self.seconds = 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == WARM_UP:
            self.profile.start()
            self.start = now(self.device)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == WARM_UP + UPDATES - 1:
            self.seconds = now(self.device) - self.start
            self.profile.stop()

    def operations(self) -> list[dict[str, Any]]:
        """Of one update: names, shapes, calls and seconds, the longest first."""
        seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        for event in self.profile.events() or ():
            if self.device == "cpu":
                key = event.name, str(event.input_shapes)
                seconds[key].append(event.self_cpu_time_total / 1e6)
            elif event.device_type == DeviceType.CUDA and not event.is_user_annotation:
                seconds[event.name, ""].append(event.time_range.elapsed_us() / 1e6)
        rows = [
            {"name": name, "shapes": shapes, "calls": len(x) / UPDATES, "seconds": sum(x) / UPDATES}
            for (name, shapes), x in seconds.items()
        ]
        return sorted(rows, key=lambda row: -row["seconds"])


def measure(
    *, size_name: str, precision: str, device: str, threads: int, settings: Sequence[str]
) -> dict[str, Any]:
    """Profile our update.

    Returns:
        A report: the machine, sizes, seconds of an update and of everything in it.
    """
    torch.set_num_threads(threads)
    size = SIZES[size_name]
    cfg = configuration(size, [f"precision={precision}", *settings], device=device)
    agent = make_agent(size, cfg)
    kernels = apply_kernels(cfg, agent)
    profiler = _Profiler(device)
    batches: Any = [random_batch(size)] * (WARM_UP + UPDATES)
    make_trainer(device, precision, profiler).fit(agent, DataLoader(batches, batch_size=None))
    operations = profiler.operations()
    return {
        "benchmark": "profile",
        "machine": machine(device, threads),
        "size_name": size_name,
        "size": size.as_dict(),
        "settings": list(settings),
        "precision": precision,
        "kernels": kernels,
        "seconds": profiler.seconds / UPDATES,
        "busy_seconds": sum(row["seconds"] for row in operations),
        "calls": sum(row["calls"] for row in operations),
        "operations": operations,
    }


def show(report: dict[str, Any], top: int) -> None:
    """Print what took longest."""
    on_gpu = report["machine"]["device"] != "cpu"
    rows = [
        {
            "ms": f"{1e3 * row['seconds']:.3f}",
            "calls": f"{row['calls']:.4g}",
            "us each": f"{1e6 * row['seconds'] / row['calls']:.1f}",
            "what": f"{row['name'][:80]} {row['shapes'][:100]}",
        }
        for row in report["operations"][:top]
    ]
    print_table(rows)
    print(
        f"an update, {report['size_name']} size, {report['precision']}: "
        f"{1e3 * report['seconds']:.4g} ms, of which {1e3 * report['busy_seconds']:.4g} ms in "
        f"{report['calls']:.0f} {'kernels' if on_gpu else 'operations'}"
    )


def main() -> None:
    """Read the command line, profile, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--top", type=int, default=30, help="rows to print")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("settings", nargs="*", help="further Hydra overrides of our configuration")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    report = measure(
        size_name=options.size,
        precision=options.precision,
        device=options.device,
        threads=options.threads,
        settings=options.settings,
    )
    show(report, options.top)
    write_json(options.out, report)


if __name__ == "__main__":
    main()
