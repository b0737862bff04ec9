"""Trained agents: loaded from a run folder, to act or to be evaluated.

`python -m dreamer.evaluate` and users' own programs call it. It changes nothing of the run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from dreamer.build import make_agent, make_envs
from dreamer.config import reasons
from dreamer.envs.terms import Terms, read_terms, terms_of
from dreamer.evaluation import EVALUATION_SEED, Camera, play
from dreamer.paths import expanded
from dreamer.run_folder import RunFolder
from dreamer.schema.words import shown
from dreamer.trained import TrainedAgent
from dreamer.video import write_mp4


@reasons()
def load(
    run_dir: Path | str,
    checkpoint: str = "best",
    *,
    sample_actions: bool = False,
    device: str = "cpu",
) -> TrainedAgent:
    """Load the agent of a run folder; its environment need not be installed.

    A run folder is code: its configuration says what is built. Load none that you do not trust.
    Weights are read as tensors and plain types.

    Args:
        run_dir: of a finished or running run.
        checkpoint: `best`, or `last` where there is none; or `last`.
        sample_actions: act as in training, not with the actor's mode.
        device: where the networks work, as torch names it.

    Raises:
        FileNotFoundError: there is no such run or checkpoint.
        ValueError: the checkpoint is damaged or not of this agent.
    """
    if checkpoint not in ("best", "last"):
        raise ValueError(f"`checkpoint` must be best or last, got {shown(checkpoint)}")
    folder = RunFolder(expanded(run_dir))
    cfg = folder.config()
    path = folder.checkpoints / f"{checkpoint}.ckpt"
    path = path if path.exists() else folder.checkpoints / "last.ckpt"
    state = folder.read_checkpoint(path)
    spaces = folder.spaces()
    terms = read_terms(spaces) if spaces else _ask_environment(cfg)
    networks = make_agent(cfg, terms)
    try:
        networks.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{path} is not a checkpoint of the agent in config.yaml") from error
    networks.on_load_checkpoint(state)
    return TrainedAgent(networks.to(device), terms, sample_actions=sample_actions)


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


def _ask_environment(cfg: DictConfig) -> Terms:
    """The terms of a run whose folder does not hold them: an older program wrote it."""
    envs = make_envs(cfg, seed=cfg.seed, count=1)
    envs.close()
    return terms_of(envs)
