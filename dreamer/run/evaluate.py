"""Evaluates the agent of a run folder: plays episodes and writes their scores.

`python -m dreamer.evaluate` calls it. The run may still be active.
"""

import json
from pathlib import Path
from typing import Any

import torch

from dreamer.evaluation import EVALUATION_SEED, VideoRecorder, play
from dreamer.exploration import ACTOR
from dreamer.run.build import make_envs, with_rendering
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
    policy: str = ACTOR,
    seed: int,
    sample_actions: bool,
    video_policy_steps: int,
    video_fps: int,
) -> dict[str, Any]:
    """Play whole episodes with the agent of a run folder.

    Args:
        run_dir: Of a finished or active run.
        episodes: Number of episodes; up to 10 environments play at once.
        checkpoint: See `load`.
        policy: See `load`.
        seed: Of the environments and the latent samples.
        sample_actions: See `load`.
        video_policy_steps: Maximum length of the video; 0: no video.
        video_fps: Images per second.

    Returns:
        Scores, all raw returns, and the path of the video.
    """
    if episodes < 1:
        raise ValueError(f"`episodes` must be at least 1, got {episodes}")
    agent = load(run_dir, checkpoint, policy=policy, sample_actions=sample_actions)
    torch.manual_seed(seed)
    cfg = RunFolder(run_dir).config()
    envs = make_envs(
        with_rendering(cfg) if video_policy_steps else cfg,
        seed=seed + EVALUATION_SEED,
        count=min(episodes, 10),
    )
    try:
        recorder = VideoRecorder(envs, video_policy_steps)
        result = play(envs, agent.step_policy, episodes, recorder=recorder)
    finally:
        envs.close()
    frames = agent.frames
    suffix = "" if policy == ACTOR else f"_{policy}"
    scores: dict[str, Any] = {"frames": frames, "checkpoint": checkpoint, "policy": policy}
    scores |= result.summary()
    scores["returns"] = [e.episode_return for e in result.episodes]
    if result.images is not None:
        path = Path(run_dir) / "videos" / f"evaluation{suffix}_{frames:010d}.mp4"
        write_mp4(path, result.images, fps=video_fps)
        scores["video"] = str(path)
    (Path(run_dir) / f"evaluation{suffix}.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores
