"""Run folders as a run leaves them, made in no time."""

import json
from pathlib import Path
from typing import Any

import yaml


def make_run(
    root: Path,
    *,
    env: str = "dummy",
    task: str = "memory",
    variant: str = "tiny",
    seed: int = 0,
    scores: dict[int, float] | None = None,
    finished: bool = True,
    action_repeat: int = 1,
    **settings: Any,
) -> Path:
    """Write a run folder; `scores` are returns by frames, one episode each."""
    path = root / env / task / variant / f"seed{seed}"
    (path / "checkpoints").mkdir(parents=True)
    config = {
        "env_name": env,
        "task": task,
        "seed": seed,
        "total_frames": 3000,
        "experiment_name": variant,
        "env": {"task": task, "action_repeat": action_repeat},
        "model": {"horizon": 15},
        "root": str(root),
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config | settings))
    (path / "checkpoints" / "last.ckpt").touch()
    scores = {1000: 1.0, 2000: 2.0, 3000: 3.0} if scores is None else scores
    lines = []
    for number, (frames, score) in enumerate(scores.items(), 1):
        line = {"frames": frames, "collect/return": score, "collect/episodes": number}
        lines.append(json.dumps(line | {"updates": frames // 100, "actor/loss": 0.5}) + "\n")
    (path / "metrics.jsonl").write_text("".join(lines))
    if finished:
        (path / "summary.json").write_text(json.dumps({"frames": max(scores, default=0)}))
    return path


def make_offline_run(root: Path, *, scores: dict[int, float], **settings: Any) -> Path:
    """Write the folder of a run that collects nothing; `scores` are of evaluations, by updates."""
    path = make_run(root, collect={"where": "none"}, total_updates=40, scores={}, **settings)
    lines = [{"updates": n, "eval/return_mean": score} for n, score in scores.items()]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
