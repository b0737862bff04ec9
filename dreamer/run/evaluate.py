"""Evaluate the agent of a run folder: play whole episodes, and write their scores.

`python -m dreamer.evaluate` and `dreamer.train`'s results call it. The run may still go on.
"""

import json
from pathlib import Path
from typing import Any

import torch

from dreamer.evaluation import EVALUATION_SEED, Camera, play
from dreamer.run.build import make_envs
from dreamer.run.config import reasons
from dreamer.run.folder import RunFolder
from dreamer.run.load import load
from dreamer.video import write_mp4


@reasons()
def evaluate(
    run_dir: Path,
    *,
    episodes: int,
    checkpoint: str,
    seed: int,
    sample_actions: bool,
    video_policy_steps: int,
    video_fps: int,
) -> dict[str, Any]:
    """Play whole episodes with the agent of a run folder.

    Args:
        run_dir: of a finished or running run.
        episodes: played in all, up to 10 at once.
        checkpoint: see `load`.
        seed: of the environments and the latent samples.
        sample_actions: see `load`.
        video_policy_steps: filmed at most; 0: no video.
        video_fps: pictures a second.

    Returns:
        Scores, every raw return, and where they and the video were written.
    """
    if episodes < 1:
        raise ValueError(f"`episodes` must be at least 1, got {episodes}")
    agent = load(run_dir, checkpoint, sample_actions=sample_actions)
    torch.manual_seed(seed)
    envs = make_envs(
        RunFolder(run_dir).config(), seed=seed + EVALUATION_SEED, count=min(episodes, 10)
    )
    try:
        camera = Camera(envs, video_policy_steps)
        result = play(envs, agent.step_policy, episodes, camera=camera)
    finally:
        envs.close()
    frames = agent.frames
    scores: dict[str, Any] = {"frames": frames, "checkpoint": checkpoint} | result.summary()
    scores["returns"] = [e.episode_return for e in result.episodes]
    if result.images is not None:
        path = Path(run_dir) / "videos" / f"evaluation_{frames:010d}.mp4"
        write_mp4(path, result.images, fps=video_fps)
        scores["video"] = str(path)
    (Path(run_dir) / "evaluation.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores
