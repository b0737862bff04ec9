"""Exports the agent of a run: weights, configuration and spaces, with scores of recorded seeds.

`python -m dreamer.export` calls it; `dreamer.load` and `dreamer.evaluate` take what it writes.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from omegaconf import OmegaConf

from dreamer.data.address import check_unused, find, to_write
from dreamer.exploration import ACTOR
from dreamer.files import write_text
from dreamer.inference import TrainedAgent
from dreamer.run.config import reasons
from dreamer.run.export_settings import ExportSettings
from dreamer.run.folder import RunFolder
from dreamer.run.load import COUNTERS, load_from
from dreamer.run.migrate import FORMAT
from dreamer.run.paths import WEIGHTS
from dreamer.run.pretrained import SCORES
from dreamer.run.remote import local_folder
from dreamer.tensor_file import save_tensors

RESAMPLES = 10_000  # of the bootstrap
CONFIDENCE = 0.95
OPTIONS: Any = {"policy": ACTOR, "sample_actions": False}


class Episode(NamedTuple):
    """An episode that can be played again."""

    seed: int
    score: float  # raw return
    policy_steps: int


@reasons()
def export(run_dir: Path | str, settings: ExportSettings) -> dict[str, Any]:
    """Write the agent of a run to a folder of its own, and play episodes with what was written.

    Raises:
        FileNotFoundError: There is no such run or checkpoint.
        ValueError: `to` is missing or in use, or the agent cannot be loaded or played.
        ImportError: The environment's package is not installed.

    Returns:
        What `scores.json` holds.
    """
    if settings.to is None:
        raise ValueError("`to` is missing: it must be the folder to write to, as in to=my_agent")
    place = find(settings.to)
    check_unused(place)
    folder = RunFolder(local_folder(run_dir))
    allow = settings.allow.split(",") if settings.allow else []
    loaded = load_from(folder, settings.checkpoint, **OPTIONS, allow=allow)
    with tempfile.TemporaryDirectory() as name:
        draft = Path(name)
        _write_agent(draft, folder, loaded.agent, settings.weights)
        agent = load_from(RunFolder(draft), "best", **OPTIONS, allow=allow).agent
        scores = {
            **{key: getattr(agent, key) for key in ("frames", "updates")},
            "command": settings.command,
            **play(agent, settings),
        }
        write_text(draft / SCORES, _formatted(scores))
        with to_write(place) as target:
            for path in draft.iterdir():
                shutil.copyfile(path, target / path.name)
    return scores


def play(agent: TrainedAgent, settings: ExportSettings) -> dict[str, Any]:
    """Play episodes, each with its own seed; return their scores."""
    env = agent.make_env()
    try:
        episodes = []
        for seed in range(settings.seed, settings.seed + settings.episodes):
            episodes.append(play_episode(agent, env, seed, settings.max_episode_policy_steps))
            print(f"seed {seed}: return {episodes[-1].score:.2f}", file=sys.stderr, flush=True)
    finally:
        env.close()
    returns = [episode.score for episode in episodes]
    return {
        "episodes": len(episodes),
        "mean": float(np.mean(returns)),
        "interval": interval_of_mean(returns),
        "confidence": CONFIDENCE,
        "returns": [
            {"seed": x.seed, "return": x.score, "policy_steps": x.policy_steps} for x in episodes
        ],
    }


def play_episode(
    agent: TrainedAgent, env: gymnasium.Env, seed: int, max_policy_steps: int = 30_000
) -> Episode:
    """Play one episode of the agent's own environment, as its seed determines it.

    The seed is that of the environment and of the latent samples; torch's random state is restored.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        observation, _ = env.reset(seed=seed)
        state, score, steps, ended, reward = None, 0.0, 0, False, 0.0
        while not ended and steps < max_policy_steps:
            action, state = agent.policy(observation, state, reward=reward)
            observation, reward, terminated, truncated, _ = env.step(action)
            score, steps, ended = score + float(reward), steps + 1, terminated or truncated
    return Episode(seed, score, steps)


def interval_of_mean(returns: list[float]) -> list[float]:
    """Return the 95 % interval of the mean over episodes, by percentile bootstrap."""
    values, rng = np.array(returns), np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    tail = (1 - CONFIDENCE) / 2
    return [float(x) for x in np.quantile(means, [tail, 1 - tail])]


def _write_agent(place: Path, folder: RunFolder, agent: TrainedAgent, dtype: str) -> None:
    """Write weights, configuration and spaces; of the logs, what reports read."""
    notes = {key: str(getattr(agent.networks, key)) for key in COUNTERS}
    weights = agent.networks.state_dict()
    if dtype == "float16":
        weights = {name: _halved(value) for name, value in weights.items()}
    save_tensors(place / WEIGHTS, weights, notes)
    cfg = OmegaConf.merge(folder.config(), {"root": "runs", "run_dir": None})
    write_text(place / "config.yaml", f"format: {FORMAT}\n{OmegaConf.to_yaml(cfg)}")
    write_text(place / "spaces.json", json.dumps(agent.codec.to_dict(), indent=2) + "\n")
    if (folder.path / "metrics.jsonl").is_file():
        shutil.copyfile(folder.path / "metrics.jsonl", place / "metrics.jsonl")
    if summary := folder.summary():
        summary.pop("run_dir", None)
        write_text(place / "summary.json", json.dumps(summary, indent=2) + "\n")


def _formatted(scores: dict[str, Any]) -> str:
    """Write scores as JSON, an episode per line."""
    rows = ",\n".join(f"    {json.dumps(row)}" for row in scores["returns"])
    plain = {key: value for key, value in scores.items() if key != "returns"}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in plain.items()]
    lines.append(f'  "returns": [\n{rows}\n  ]')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _halved(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float16 if it holds its values, else as it is."""
    if value.dtype != torch.float32:
        return value
    half = value.half()
    return half if bool(half.isfinite().all()) else value
