"""What features add to an update: `python -m benchmarks.features iwae_samples=3 probe=map`.

A plain agent and one with each feature make updates in turns, in one process and inside
Lightning's Trainer, so that changes of the machine's speed affect all. A ratio is that to the plain
update of the same turn; median and quartiles of all turns are reported. On a CPU the time is that
of the processor, which other processes affect least.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

from dreamer.runtime import prepare

prepare()

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from benchmarks.agent import (  # noqa: E402
    configuration,
    make_agent,
    make_trainer,
    random_batch,
)
from benchmarks.measure import Spread, machine, milliseconds, now, print_table, write_json  # noqa: E402
from benchmarks.peers.sizes import SIZES, Size  # noqa: E402
from dreamer.run.build import apply_kernels  # noqa: E402
from dreamer.types import HIDDEN, Batch  # noqa: E402

WARM_UP = 3  # uncounted updates
FEATURES = (  # settings
    "returns=gae",
    "replay.carry_state=true",
    "iwae_samples=3",
    "iwae_samples=5",
    "experiment=categorical_reward",
    "experiment=terminal_head",
    "reward_input=true",
    "experiment=auxiliary_critic",
    "cell=gru",
    "cell=gru_layernorm",
    "cell=gru_layernorm_dv2 cell.layers=2",
    "latents=binary",
    "probe=map",
    "probe=goals",
    "probe=map_goals probe_gradients=true",
    "experiment=all_schedules",
    "experiment=pydreamer",
)
STREAMS = "replay/sampling=sequential replay.across_episodes=false replay.sampling.reset_interval=0"
NEEDED = {"replay.carry_state=true": STREAMS}  # more settings of a feature
HIDDEN_SHAPES = {"map": (9, 9, 9), "agent_pos": (2,), "agent_dir": (2,)}  # MiniGrid's
HIDDEN_SHAPES |= {"target_vec": (2,), "targets_vec": (2,)}


class _Turns(pl.Callback):
    """Lets the agents update one after the other, and times their updates."""

    def __init__(self, place: int, barrier: Barrier, device: str):
        self.place, self.barrier, self.device = place, barrier, device
        self.seconds: list[float] = []

    def _wait(self, turns: int) -> None:
        for _ in range(turns):
            self.barrier.wait()

    def _now(self) -> float:
        return time.process_time() if self.device == "cpu" else now(self.device)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._wait(self.place)
        self.start = self._now()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seconds.append(self._now() - self.start)
        self._wait(self.barrier.parties - self.place)


def batch_with_truth(size: Size) -> Batch:
    """A batch (T, B, ...) with what probes predict, too."""
    batch = random_batch(size)
    steps = batch.reward.shape
    truth = {HIDDEN + key: torch.rand(*steps, *shape) for key, shape in HIDDEN_SHAPES.items()}
    classes, *edges = HIDDEN_SHAPES["map"]
    cells = torch.nn.functional.one_hot(torch.randint(classes, (*steps, *edges)), classes)
    truth[f"{HIDDEN}map"] = cells.movedim(-1, 2).to(torch.uint8)
    return batch._replace(obs=batch.obs | truth)


def seconds_of_updates(
    size: Size, variants: Sequence[Sequence[str]], *, precision: str, device: str, updates: int
) -> list[list[float]]:
    """Time as many updates of every variant of the configuration, in turns.

    Raises:
        Exception: What an agent raised.
    """
    barrier = Barrier(len(variants))
    batches: Any = [batch_with_truth(size)] * (WARM_UP + updates)
    hidden = {HIDDEN + key: shape for key, shape in HIDDEN_SHAPES.items()}
    configs = [
        configuration(size, [f"precision={precision}", *settings], device=device)
        for settings in variants
    ]

    def train(place: int) -> list[float]:
        turns = _Turns(place, barrier, device)
        try:
            agent = make_agent(size, configs[place], hidden)
            apply_kernels(configs[place], agent)
            loader = DataLoader(batches, batch_size=None)
            make_trainer(device, precision, turns).fit(agent, loader)
        except BaseException:
            barrier.abort()  # the others wait no longer
            raise
        return turns.seconds[WARM_UP:]

    with ThreadPoolExecutor(len(variants)) as pool:
        runs = [pool.submit(train, place) for place in range(len(variants))]
    for run in runs:
        error = run.exception()
        if error is not None and not isinstance(error, BrokenBarrierError):
            raise error
    return [run.result() for run in runs]


def measure(
    *,
    names: Sequence[str],
    size_name: str,
    precision: str,
    device: str,
    threads: int,
    updates: int,
    settings: Sequence[str],
) -> dict[str, Any]:
    """Time updates with each feature and without.

    Returns:
        A report: machine, sizes, seconds of all updates and, by feature, quartiles of the ratio.
    """
    torch.set_num_threads(threads)
    size = SIZES[size_name]
    variants = [list(settings)]
    variants += [[*settings, *NEEDED.get(name, "").split(), *name.split()] for name in names]
    plain, *others = seconds_of_updates(
        size, variants, precision=precision, device=device, updates=updates
    )
    features = {}
    for name, seconds in zip(names, others, strict=True):
        ratios = [a / b for a, b in zip(seconds, plain, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        ratio = {"median": median, "low": low, "high": high, "pairs": len(ratios)}
        features[name] = {"ratio": ratio, "seconds": seconds}
    return {
        "benchmark": "features",
        "machine": machine(device, threads),
        "size_name": size_name,
        "size": size.as_dict(),
        "settings": list(settings),
        "precision": precision,
        "plain_seconds": plain,
        "features": features,
    }


def show(report: dict[str, Any]) -> None:
    """Print the ratio and its quartiles of every feature."""
    rows = [
        {
            "feature": name,
            "ratio": f"{feature['ratio']['median']:.2f}",
            "quartiles": f"{feature['ratio']['low']:.2f} to {feature['ratio']['high']:.2f}",
        }
        for name, feature in report["features"].items()
    ]
    print_table(rows)
    print(f"a plain update: {milliseconds(Spread.of(report['plain_seconds']))}")


def main() -> None:
    """Measure, print and write, as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--setting", action="append", default=[], help="Hydra override of both")
    help_text = f"settings; without any: {', '.join(FEATURES)}"
    parser.add_argument("features", nargs="*", help=help_text)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    report = measure(
        names=options.features or FEATURES,
        size_name=options.size,
        precision=options.precision,
        device=options.device,
        threads=options.threads,
        updates=options.updates,
        settings=options.setting,
    )
    show(report)
    write_json(options.out, report)


if __name__ == "__main__":
    main()
