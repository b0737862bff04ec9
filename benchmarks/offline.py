"""Learning from stored data alone: `python -m benchmarks.offline cartpole`.

For each task it trains an agent online and records two sets of data:

- medium: episodes of the half-trained agent, whose actions are sampled;
- mixed: the replay of the whole run, that is random, medium and good episodes.

From each set it trains a behaviour clone and the offline agent, without and with pessimism, three
seeds each, and plays episodes with their modes. The table compares their returns with those of the
data. Parts that exist in the folder are not made again.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dreamer.runtime import prepare

prepare()

import numpy as np  # noqa: E402

from benchmarks.cloning import clone  # noqa: E402
from benchmarks.measure import machine, print_table, write_json  # noqa: E402
from dreamer.collector import Collector, Policy  # noqa: E402
from dreamer.data.formats import Pass, convert  # noqa: E402
from dreamer.data.settings import DataSettings  # noqa: E402
from dreamer.envs.base import VectorEnvs  # noqa: E402
from dreamer.envs.codecs import codec_of  # noqa: E402
from dreamer.evaluation import EVALUATION_SEED, VideoRecorder, play  # noqa: E402
from dreamer.replay.buffer import Replay, ReplayConfig  # noqa: E402
from dreamer.run.build import make_envs  # noqa: E402
from dreamer.run.compose import compose  # noqa: E402
from dreamer.run.config import checked  # noqa: E402
from dreamer.run.load import load  # noqa: E402
from dreamer.run.train import train  # noqa: E402

QUIET = {"logger": ["jsonl"], "callbacks.video": None, "callbacks.progress.every_seconds": 600}
DATA = ("medium", "mixed")
RESAMPLES = 10_000  # of the bootstrap


class Task(NamedTuple):
    """A task, and how long its agents learn."""

    settings: dict[str, Any]
    medium_frames: int  # of the half-trained agent
    total_frames: int  # of the whole online run
    updates: int  # of the offline agent
    pessimism: float


TASKS = {
    "vector_memory": Task({"env": "dummy", "task": "vector_memory"}, 1500, 4000, 1000, 1.0),
    "point": Task({"env": "dummy", "task": "point"}, 1500, 4000, 1000, 1.0),
    "cartpole": Task(
        {"env": "gym", "task": "CartPole-v1", "experiment": "cartpole"}, 5000, 6000, 1000, 1.0
    ),
}


class Estimate(NamedTuple):
    """A mean return with a 95 % interval."""

    mean: float
    low: float
    high: float
    returns: list[list[float]]  # of the episodes, by seed

    @classmethod
    def of(cls, returns: Sequence[Sequence[float]]) -> "Estimate":
        """Resample seeds, and the episodes of each, from returns by seed."""
        rng = np.random.default_rng(0)
        means = []
        for _ in range(RESAMPLES):
            drawn = [returns[n] for n in rng.integers(len(returns), size=len(returns))]
            means.append(np.mean([np.mean(rng.choice(x, len(x))) for x in drawn]))
        low, high = np.percentile(means, [2.5, 97.5])
        mean = float(np.mean([np.mean(x) for x in returns]))
        return cls(mean, float(low), float(high), [list(map(float, x)) for x in returns])

    def __str__(self) -> str:
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


def composed(task: Task, **changes: Any) -> Any:
    """Return the checked configuration of a run of a task."""
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    return checked(compose({}, QUIET | task.settings | settings))


def record(task: Task, folder: Path, episodes: int) -> dict[str, str]:
    """Train online and record the data; returns the address of each set by name."""
    online = str(folder / "online")
    sets = {name: folder / name for name in DATA}
    if not (sets["medium"] / "spaces.json").exists():
        train(composed(task, run_dir=online, total_frames=task.medium_frames))
        agent = load(online, "last", sample_actions=True)
        envs = make_envs(composed(task), seed=0, count=1)
        try:
            record_episodes(envs, agent.step_policy, episodes, sets["medium"])
        finally:
            envs.close()
    if not sets["mixed"].exists():
        train(composed(task, run_dir=online, total_frames=task.total_frames))
        convert(online, DataSettings(to=str(sets["mixed"]), format="run"))
    return {name: str(path) for name, path in sets.items()}


def record_episodes(envs: VectorEnvs, policy: Policy, episodes: int, folder: Path) -> None:
    """Play episodes in one environment and keep them as the replay of a run."""
    replay = Replay(
        folder / "replay",
        obs_shapes=envs.obs_shapes,
        action_size=envs.action_space.size,
        env_count=1,
        config=ReplayConfig(1_000_000, "episodes", False),
        seed=0,
    )
    replay.clear()  # of an interrupted recording
    Collector(envs).collect(policy, episodes=episodes, on_step=replay.add)
    spaces = json.dumps(codec_of(envs).to_dict())
    (folder / "spaces.json").write_text(spaces)  # last: it marks a complete recording


def returns_of(address: str) -> list[float]:
    """Return the returns of the stored episodes."""
    return [float(episode.flags.reward.sum()) for episode in Pass.of(address).headers()]


def score(task: Task, policy: Policy, episodes: int, seed: int) -> list[float]:
    """Play episodes and return their returns."""
    envs = make_envs(composed(task), seed=seed + EVALUATION_SEED, count=10)
    try:
        result = play(envs, policy, episodes, recorder=VideoRecorder(envs, 0))
    finally:
        envs.close()
    return [episode.episode_return for episode in result.episodes]


def agent_of(task: Task, address: str, folder: Path, seed: int, pessimism: float) -> Policy:
    """Train the offline agent, or load it, and return its policy."""
    changes = {"explore": "ensemble", "data.pessimism": pessimism} if pessimism else {}
    cfg = composed(
        task,
        **changes,
        collect="none",
        data__train=address,
        total_updates=task.updates,
        run_dir=str(folder),
        seed=seed,
        callbacks__evaluate=None,
    )
    train(cfg)
    return load(folder, "last").step_policy


def cached(path: Path, make: Callable[[], list[float]]) -> list[float]:
    """Return the numbers in a file, made first if it does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def compare(task: Task, args: argparse.Namespace, folder: Path) -> dict[str, dict[str, Estimate]]:
    """Return the estimates of every method by the name of the data."""
    addresses = record(task, folder, args.recorded)
    found: dict[str, dict[str, Estimate]] = {}
    for name in args.data:
        address, place = addresses[name], folder / f"from_{name}"
        found[name] = {"data": Estimate.of([returns_of(address)])}

        def cloned(seed: int, address: str = address) -> list[float]:
            return score(task, clone(address, seed=seed), args.episodes, seed)

        def learned(seed: int, scale: float, address: str = address, place: Path = place):
            run = place / f"agent_{scale:g}_{seed}"
            return score(task, agent_of(task, address, run, seed, scale), args.episodes, seed)

        makers: dict[str, Callable[[int], list[float]]] = {"clone": cloned}
        for scale in args.pessimism or (0.0, task.pessimism):
            makers[f"agent, pessimism {scale:g}"] = lambda seed, scale=scale: learned(seed, scale)
        for method, make in makers.items():
            if args.methods and not method.startswith(tuple(args.methods)):
                continue
            key = method.replace(", pessimism ", "_")
            found[name][method] = Estimate.of(
                [
                    cached(place / f"{key}_{seed}.json", lambda seed=seed, make=make: make(seed))
                    for seed in range(args.seeds)
                ]
            )
            print(f"{folder.name}, {name}, {method}: {found[name][method]}", flush=True)
    return found


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, or these words."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline", description=__doc__)
    parser.add_argument("tasks", nargs="*", help=f"default: all, {', '.join(TASKS)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/offline_benchmark"))
    parser.add_argument("--data", nargs="*", choices=DATA, default=list(DATA))
    parser.add_argument("--methods", nargs="*", choices=("clone", "agent"), help="default: both")
    parser.add_argument("--pessimism", nargs="*", type=float, help="scales of the agents")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=30, help="of each evaluation")
    parser.add_argument("--recorded", type=int, default=100, help="episodes of the medium data")
    parser.add_argument("--out", type=Path, help="write a JSON report")
    args = parser.parse_args(words)
    args.tasks = args.tasks or list(TASKS)
    if unknown := [name for name in args.tasks if name not in TASKS]:
        parser.error(f"`tasks` must be among {', '.join(TASKS)}, got {', '.join(unknown)}.")
    return args


def main(words: Sequence[str] | None = None) -> None:
    """Record, train, play and print."""
    args = parse(words)
    found = {name: compare(TASKS[name], args, args.folder / name) for name in args.tasks}
    methods = list(
        dict.fromkeys(m for sets in found.values() for one in sets.values() for m in one)
    )
    print_table(
        [
            {"task": task, "data set": name} | {x: str(one.get(x, "")) for x in methods}
            for task, sets in found.items()
            for name, one in sets.items()
        ]
    )
    if args.out:
        report = {
            task: {
                name: {method: estimate._asdict() for method, estimate in one.items()}
                for name, one in sets.items()
            }
            for task, sets in found.items()
        }
        write_json(args.out, {"machine": machine("cpu", 1), "tasks": report})


if __name__ == "__main__":
    main()
