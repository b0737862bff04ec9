"""How long an update takes, beside other programs: `python -m benchmarks.update --peer sheeprl`.

Ours runs inside Lightning's Trainer, as in a run: precision, hooks, metrics, clipping, optimisers
and the slow critic included; drawing the batch, collecting and logging are not. Before each of our
updates every peer makes one, and a product of matrices tells the rate of the machine, so that one
that slows down slows all of them.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dreamer.runtime import prepare

prepare()

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.data import DataLoader, IterableDataset  # noqa: E402
from torch.utils.flop_counter import flop_registry  # noqa: E402

from benchmarks.agent import (  # noqa: E402
    configuration,
    make_agent,
    make_trainer,
    random_batch,
)
from benchmarks.measure import (  # noqa: E402
    Spread,
    machine,
    matrix_rate,
    milliseconds,
    now,
    peak_memory,
    print_table,
    write_json,
)
from benchmarks.peers.launch import start_authors, start_sheeprl  # noqa: E402
from benchmarks.peers.protocol import Peer  # noqa: E402
from benchmarks.peers.sizes import SIZES  # noqa: E402
from dreamer.run.build import apply_kernels  # noqa: E402
from dreamer.types import Batch  # noqa: E402

WARM_UP = {"cpu": 3, "cuda": 6}  # updates of everybody that do not count, recordings included
PAUSE = 0.02  # seconds between turns, in which the threads of the last one stop to spin
PEERS = ("sheeprl", "sheeprl-compiled", "sheeprl-bf16", "authors")
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}


class _Turns(IterableDataset):
    """The same batch over and over; before each, the rate is measured and every peer updates."""

    def __init__(self, batch: Batch, peers: dict[str, Peer], updates: int, device: str):
        self.batch, self.peers, self.updates, self.device = batch, peers, updates, device
        self.seconds: dict[str, list[float]] = {name: [] for name in peers}
        self.rates: dict[str, list[float]] = {precision: [] for precision in DTYPES}

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.updates):
            for precision, dtype in DTYPES.items():
                self.rates[precision].append(matrix_rate(self.device, dtype))
            for name, peer in self.peers.items():
                time.sleep(PAUSE)
                self.seconds[name].append(peer.ask("update")["seconds"])
            time.sleep(PAUSE)
            yield self.batch

    def __len__(self) -> int:
        return self.updates


class _Flops(TorchDispatchMode):
    """Counts as torch's own counter does, which cannot follow `kernels/chunked.py`.

    It fails where a backward pass runs inside a forward one.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


class _Clock(pl.Callback):
    """Seconds of every update, and the floating-point operations of one more."""

    def __init__(self, device: str, updates: int):
        self.device, self.updates = device, updates
        self.seconds: list[float] = []
        self.counter = _Flops()
        self.memory = 0  # bytes, at most, before the update that is counted

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.updates:
            self.memory = peak_memory(self.device)
            self.counter.__enter__()
        self.start = now(self.device)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == self.updates:
            self.counter.__exit__(None, None, None)
        else:
            self.seconds.append(now(self.device) - self.start)


def measure(
    *,
    size_name: str,
    precision: str,
    device: str,
    repeats: int,
    threads: int,
    peer_names: Sequence[str],
    settings: Sequence[str],
) -> dict[str, Any]:
    """Measure our update and those of the peers, in turns.

    Returns:
        A report: the machine, sizes, and for every program seconds, memory, operations and ratio.
    """
    torch.set_num_threads(threads)
    size = SIZES[size_name]
    cfg = configuration(size, [f"precision={precision}", *settings], device=device)
    peers = {name: _start(name, size_name, threads, device) for name in peer_names}
    updates = WARM_UP[device] + repeats
    turns = _Turns(random_batch(size), peers, updates + 1, device)
    clock = _Clock(device, updates)
    agent = make_agent(size, cfg)
    kernels = apply_kernels(cfg, agent)
    make_trainer(device, precision, clock).fit(agent, DataLoader(turns, batch_size=None))
    memory = {name: peer.ask("memory")["rss_bytes"] for name, peer in peers.items()}
    programs = {
        "ours": {
            "precision": precision,
            "kernels": kernels,
            **Spread.of(clock.seconds[WARM_UP[device] :])._asdict(),
            "memory_bytes": clock.memory,
            "flops": clock.counter.total,
        }
    }
    for name, peer in peers.items():
        programs[name] = {
            "precision": "bf16-mixed" if name == "sheeprl-bf16" else "32-true",
            # The last of theirs is beside our update that is counted, not timed.
            **Spread.of(turns.seconds[name][WARM_UP[device] : -1])._asdict(),
            "memory_bytes": memory[name],
            "flops": peer.ask("flops")["flops"] if name != "authors" else None,
        }
        peer.close()
    ours = programs["ours"]["median"]
    for program in programs.values():
        program["ours_is_faster_by"] = program["median"] / ours
    return {
        "benchmark": "update",
        "machine": machine(device, threads),
        "size_name": size_name,
        "size": size.as_dict(),
        "settings": list(settings),
        "matrix_flops_per_second": {k: statistics.median(x) for k, x in turns.rates.items()},
        "programs": programs,
    }


def _start(name: str, size: str, threads: int, device: str) -> Peer:
    if name == "authors":
        return start_authors(size=size, threads=threads)
    return start_sheeprl(
        size=size,
        precision="bf16-mixed" if name == "sheeprl-bf16" else "32-true",
        compile_losses=name == "sheeprl-compiled",
        threads=threads,
        device=device,
    )


def show(report: dict[str, Any]) -> None:
    """Print a report as a table."""
    rates = report["matrix_flops_per_second"]
    rows = []
    for name, program in report["programs"].items():
        spread = Spread(*(program[key] for key in Spread._fields))
        flops, rate = program["flops"], rates[program["precision"]]
        share = f"{flops / spread.median / rate:.0%}" if flops else "?"
        rows.append(
            {
                "program": name,
                "precision": program["precision"],
                "update, median (range)": milliseconds(spread),
                "ours is faster by": f"{program['ours_is_faster_by']:.2f} x",
                "GFLOP": f"{flops / 1e9:.4g}" if flops else "?",
                "of the matrix rate": share,
                "peak memory": f"{program['memory_bytes'] / 1e9:.2f} GB",
            }
        )
    print(f"{report['size_name']}: {report['size']}")
    print_table(rows)
    print("matrix rate:", ", ".join(f"{k} {x / 1e9:.0f} GFLOP/s" for k, x in rates.items()))


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.update", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--precision", choices=DTYPES, default="32-true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peer", choices=PEERS, action="append", default=[], dest="peers")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("settings", nargs="*", help="further Hydra overrides of our configuration")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    report = measure(
        size_name=options.size,
        precision=options.precision,
        device=options.device,
        repeats=options.repeats,
        threads=options.threads,
        peer_names=options.peers,
        settings=options.settings,
    )
    show(report)
    write_json(options.out, report)


if __name__ == "__main__":
    main()
