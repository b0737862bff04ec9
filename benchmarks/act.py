"""How long acting takes, beside another program: `python -m benchmarks.act --peer sheeprl`.

A policy call is what a run makes at every step: uint8 pixels in NumPy to actions in NumPy, encoder,
one step of the recurrent model and the actor included. Emulation is Pong through our collector with
a random policy, beside ale-py's vector environment alone that is given random actions.
"""

import argparse
from pathlib import Path
from typing import Any

from dreamer.runtime import prepare

prepare()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from hydra.utils import instantiate  # noqa: E402

from benchmarks.agent import configuration, make_agent  # noqa: E402
from benchmarks.measure import (  # noqa: E402
    Spread,
    machine,
    milliseconds,
    print_table,
    repeat,
    write_json,
)
from benchmarks.peers.launch import start_authors, start_sheeprl  # noqa: E402
from benchmarks.peers.sizes import SIZES  # noqa: E402
from dreamer.collector import Collector  # noqa: E402
from dreamer.policy import RandomPolicy  # noqa: E402
from dreamer.run.build import apply_kernels, make_actor  # noqa: E402
from dreamer.types import TimeStep  # noqa: E402

CALLS = 20  # of one measurement, as the peers make
STEPS = 500  # of the emulators in one measurement; turns are short, for the machine drifts


def policy_calls(
    *,
    size_name: str,
    counts: tuple[int, ...],
    device: str,
    repeats: int,
    peers: tuple[str, ...],
    settings: tuple[str, ...] = (),
) -> dict[str, dict[str, Any]]:
    """Seconds of a policy call for E environments, by program and E, measured in turns."""
    size = SIZES[size_name]
    cfg = configuration(size, settings, device=device)
    agent = make_agent(size, cfg)
    apply_kernels(cfg, agent)
    agent.to(device)
    policy = make_actor(cfg, agent)
    threads = torch.get_num_threads()
    running = {
        "sheeprl": lambda: start_sheeprl(
            size=size_name,
            precision="32-true",
            compile_losses=False,
            threads=threads,
            device=device,
        ),
        "authors": lambda: start_authors(size=size_name, threads=threads),
    }
    others = {name: running[name]() for name in peers}
    result: dict[str, dict[str, Any]] = {}
    for count in counts:
        for peer in others.values():
            peer.ask(f"act {count}")  # the authors' is traced for each number of environments
        step = _noise(count, size.channels)
        state = None

        def call(step: TimeStep = step):
            nonlocal state
            for _ in range(CALLS):
                _, state = policy(step, state)

        seconds: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
        call()  # then what CUDA graphs capture is captured
        for _ in range(repeats):
            seconds["ours"] += [x / CALLS for x in repeat(call, 1, device=device, warm_up=0)]
            for name, peer in others.items():
                seconds[name].append(peer.ask(f"act {count}")["seconds"])
        for name, values in seconds.items():
            result.setdefault(name, {})[str(count)] = Spread.of(values)._asdict()
    for peer in others.values():
        peer.close()
    return result


def emulation(count: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of a policy step of E emulators: alone, and through our collector, in turns."""
    cfg = configuration(SIZES["full"])
    envs = instantiate(cfg.env, seed=0, count=count)
    collector, policy = Collector(envs), RandomPolicy(envs.action_space, seed=0)
    alone = instantiate(cfg.env, seed=0, count=count)._emulators[0]
    alone.reset()
    actions = np.random.default_rng(0).integers(envs.action_space.size, size=(STEPS, count))

    def emulate():
        for action in actions:
            alone.step(action)

    seconds: dict[str, list[float]] = {"emulator alone": [], "through the collector": []}
    collector.collect(policy, steps=count)
    emulate()
    for _ in range(repeats):
        took = repeat(emulate, 1, warm_up=0) + repeat(
            lambda: collector.collect(policy, steps=STEPS * count), 1, warm_up=0
        )
        for values, total in zip(seconds.values(), took, strict=True):
            values.append(total / STEPS)
    envs.close()
    return {name: Spread.of(values)._asdict() for name, values in seconds.items()}


def _noise(count: int, channels: int) -> TimeStep:
    image = np.random.default_rng(0).integers(256, size=(count, channels, 64, 64), dtype=np.uint8)
    no = np.zeros(count, bool)
    return TimeStep({"image": image}, np.zeros(count, np.float32), no, no, no)


def show(report: dict[str, Any]) -> None:
    """Print a report as tables."""
    ours = report["policy_calls"]["ours"]
    print_table(
        [
            {
                "program": name,
                "environments": count,
                "policy call, median (range)": milliseconds(Spread(**spread)),
                "ours is faster by": f"{spread['median'] / ours[count]['median']:.2f} x",
            }
            for name, counts in report["policy_calls"].items()
            for count, spread in counts.items()
        ]
    )
    if "emulation" not in report:
        return
    print()
    print_table(
        [
            {
                "emulation": name,
                "environments": count,
                "policy steps a second": f"{int(count) / spread['median']:.0f}",
                "of the emulator's": f"{rates['emulator alone']['median'] / spread['median']:.0%}",
            }
            for count, rates in report["emulation"].items()
            for name, spread in rates.items()
        ]
    )


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.act", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--peer", choices=("sheeprl", "authors"), action="append", default=[], dest="peers"
    )
    parser.add_argument("--emulation", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("settings", nargs="*", help="further Hydra overrides of our configuration")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = {
        "benchmark": "act",
        "machine": machine(options.device, options.threads),
        "size_name": options.size,
        "settings": options.settings,
        "policy_calls": policy_calls(
            size_name=options.size,
            counts=(1, 8),
            device=options.device,
            repeats=options.repeats,
            peers=tuple(options.peers),
            settings=tuple(options.settings),
        ),
    }
    if options.emulation:
        report["emulation"] = {str(count): emulation(count, repeats=20) for count in (1, 8)}
    show(report)
    write_json(options.out, report)


if __name__ == "__main__":
    main()
