"""What exploration adds to an update: `python -m benchmarks.exploration --size full`.

The parts are timed within the same updates, inside Lightning's Trainer, so that changes of the
machine's speed affect all of them. `second actor-critic` is the rest of the explorer's time.
"""

import argparse
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
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
from benchmarks.measure import (  # noqa: E402
    Spread,
    machine,
    milliseconds,
    now,
    print_table,
    write_json,
)
from benchmarks.peers.sizes import SIZES  # noqa: E402
from dreamer.exploration import EXPLORER, Explorer, explorer_of  # noqa: E402
from dreamer.run.build import apply_kernels  # noqa: E402

WARM_UP = 2  # uncounted updates
PARTS = {  # methods of the explorer, by the name of the part
    "predictors": "learn_predictions",
    "second imagination": "_imagine",
    "intrinsic reward": "intrinsic_reward",
}
REST = "second actor-critic"


class _Timer(pl.Callback):
    """Times whole updates, and the explorer's parts in them."""

    def __init__(self, explorer: Explorer, device: str):
        self.device = device
        self.updates: list[float] = []
        self.parts: dict[str, list[float]] = defaultdict(list)
        for part, method in PARTS.items():
            setattr(explorer, method, self._timed(part, getattr(explorer, method)))
        explorer.learn = self._timed("explorer", explorer.learn)

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = now(self.device)
            result = function(*args)
            self.parts[part].append(now(self.device) - start)
            return result

        return call

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.start = now(self.device)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.updates.append(now(self.device) - self.start)


def measure(
    *,
    size_name: str,
    explore: str,
    precision: str,
    device: str,
    threads: int,
    updates: int,
    settings: Sequence[str],
) -> dict[str, Any]:
    """Time updates with exploration.

    Returns:
        A report: machine, sizes, seconds of all updates and parts, and shares of a plain update.
    """
    torch.set_num_threads(threads)
    size = SIZES[size_name]
    overrides = [f"precision={precision}", f"explore={explore}", *settings]
    cfg = configuration(size, overrides, device=device)
    agent = make_agent(size, cfg)
    apply_kernels(cfg, agent)
    explorer = explorer_of(agent)
    assert explorer is not None, f"the component {EXPLORER}"
    timer = _Timer(explorer, device)
    batches: Any = [random_batch(size)] * (WARM_UP + updates)
    make_trainer(device, precision, timer).fit(agent, DataLoader(batches, batch_size=None))
    parts = {part: seconds[WARM_UP:] for part, seconds in timer.parts.items()}
    whole = timer.updates[WARM_UP:]
    explorers = parts.pop("explorer")
    parts[REST] = [
        total - sum(each) for total, *each in zip(explorers, *parts.values(), strict=True)
    ]
    # Of the same updates: their time without the explorer.
    plain = [a - b for a, b in zip(whole, explorers, strict=True)]
    return {
        "benchmark": "exploration",
        "machine": machine(device, threads),
        "size_name": size_name,
        "size": size.as_dict(),
        "explore": explore,
        "settings": list(settings),
        "precision": precision,
        "seconds": {"with exploration": whole, "plain": plain, **parts},
        "ratio": Spread.of([a / b for a, b in zip(whole, plain, strict=True)])._asdict(),
        "shares": {
            part: Spread.of([a / b for a, b in zip(seconds, plain, strict=True)]).median
            for part, seconds in parts.items()
        },
    }


def show(report: dict[str, Any]) -> None:
    """Print the parts, and the ratio to an update without exploration."""
    shares = report["shares"] | {"plain": 1.0, "with exploration": report["ratio"]["median"]}
    print_table(
        [
            {
                "part": part,
                "time": milliseconds(Spread.of(seconds)),
                "share": f"{shares[part]:.2f}",
            }
            for part, seconds in report["seconds"].items()
        ]
    )


def main() -> None:
    """Measure, print and write, as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exploration", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--explore", choices=("plan2explore", "model_loss"), default="plan2explore")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--updates", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("settings", nargs="*", help="more Hydra overrides of our configuration")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    report = measure(
        size_name=options.size,
        explore=options.explore,
        precision=options.precision,
        device=options.device,
        threads=options.threads,
        updates=options.updates,
        settings=options.settings,
    )
    show(report)
    write_json(options.out, report)


if __name__ == "__main__":
    main()
