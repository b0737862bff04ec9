"""Evaluates the agent of a run folder: plays episodes and writes their scores.

`python -m dreamer.evaluate` calls it. The run may still be active.
"""

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamer.envs.base import VectorEnvs
from dreamer.envs.codecs import SpaceCodec
from dreamer.envs.faults import describe
from dreamer.evaluation import EVALUATION_SEED, VideoRecorder, play
from dreamer.exploration import ACTOR
from dreamer.files import check_no_link, move_aside, warn_once, write_text
from dreamer.run.build import make_envs, with_rendering
from dreamer.run.config import reasons
from dreamer.run.folder import RunFolder
from dreamer.run.load import load_from
from dreamer.run.offline import is_offline
from dreamer.run.permission import check_permitted
from dreamer.types import TimeStep
from dreamer.video import write_mp4


class EpisodeLines:
    """Prints a line for each episode that ends, so that a long evaluation shows how far it is."""

    def __init__(self, environments: int, episodes: int):
        """As in `Collector.collect`, each environment plays a fixed share of the episodes."""
        self._total, self._ended = episodes, list[float]()
        self._due = [len(range(env, episodes, environments)) for env in range(environments)]
        self._returns = np.zeros(environments)  # (E,) of the running episodes
        self._lengths = np.zeros(environments, int)  # (E,) in policy steps

    def __call__(self, step: TimeStep) -> None:
        """Add a step of all environments."""
        self._returns = np.where(step.is_first, 0, self._returns + step.reward)
        self._lengths = np.where(step.is_first, 0, self._lengths + 1)
        for env in np.flatnonzero(step.is_last).tolist():
            if self._due[env]:
                self._due[env] -= 1
                self._print(float(self._returns[env]), int(self._lengths[env]))

    def _print(self, episode_return: float, length: int) -> None:
        self._ended.append(episode_return)
        print(
            f"episode {len(self._ended)} of {self._total}: return {episode_return:.2f}, "
            f"{length} policy steps; mean so far {np.mean(self._ended):.2f}",
            file=sys.stderr,
            flush=True,
        )


@reasons()
def evaluate(
    run_dir: Path,
    *,
    out: Path | None = None,
    episodes: int,
    checkpoint: str,
    policy: str = ACTOR,
    seed: int,
    sample_actions: bool,
    video_policy_steps: int,
    video_fps: int,
    max_episode_policy_steps: int = 30_000,
    allow: Sequence[str] = (),
) -> dict[str, Any]:
    """Play whole episodes with the agent of a run folder, and print a line for each.

    Args:
        run_dir: Of a finished or active run, or of an exported agent.
        out: Where scores and video are written; None: to the run folder.
        episodes: Number of episodes; up to 10 environments play at once.
        checkpoint: See `load`.
        policy: See `load`.
        seed: Of the environments and the latent samples.
        sample_actions: See `load`.
        video_policy_steps: Maximum length of the video; 0: no video.
        video_fps: Images per second.
        max_episode_policy_steps: Maximum length of an episode; a longer one is cut.
        allow: See `load`; here it applies to the environment as well.

    Returns:
        Scores, all raw returns, and the path of the video.
    """
    if episodes < 1:
        raise ValueError(f"`episodes` must be at least 1, got {episodes}")
    folder = RunFolder(run_dir)
    out = folder.path if out is None else Path(os.path.abspath(out))
    cfg = folder.config()
    check_permitted(cfg, folder.path, allow, ("env",))  # before any code is imported
    if video_policy_steps:
        check_no_link(out / "videos")
    agent, source = load_from(
        folder, checkpoint, policy=policy, sample_actions=sample_actions, allow=allow
    )
    torch.manual_seed(seed)
    envs = make_envs(
        with_rendering(cfg) if video_policy_steps else cfg,
        seed=seed + EVALUATION_SEED,
        count=min(episodes, 10),
    )
    try:
        _check_same_spaces(folder, envs, agent.codec)
        recorder = VideoRecorder(envs, video_policy_steps)
        result = play(
            envs,
            agent.step_policy,
            episodes,
            recorder=recorder,
            max_length=max_episode_policy_steps,
            on_step=EpisodeLines(envs.count, episodes),
        )
    finally:
        envs.close()
    suffix = "" if policy == ACTOR else f"_{policy}"
    scores: dict[str, Any] = {"frames": agent.frames, "updates": agent.updates}
    scores |= {"checkpoint": source.stem, "policy": policy}
    scores |= result.summary()
    scores["returns"] = [e.episode_return for e in result.episodes]
    if result.images is not None:
        time = scores["updates" if is_offline(cfg) else "frames"]
        video = Path("videos", f"evaluation{suffix}_{time:010d}.mp4")
        try:
            write_mp4(out / video, result.images, fps=video_fps)
            scores["video"] = str(video)  # within the folder, which may move
        except Exception as error:
            warnings.warn(f"There is no video: {describe(error)}", stacklevel=2)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"evaluation{suffix}.json"
    if path.is_dir():
        warn_once(f"{path} is a folder; it is now {move_aside(path).name}.")
    write_text(path, json.dumps(scores, indent=2) + "\n")
    return scores | ({"video": str(out / scores["video"])} if "video" in scores else {})


def _check_same_spaces(folder: RunFolder, envs: VectorEnvs, codec: SpaceCodec) -> None:
    """Check that the agent can play in the environments of config.yaml.

    Raises:
        ValueError: Their observations or actions have other shapes; a file is of another run.
    """
    there, here = ((x.obs_shapes, x.action_space) for x in (codec, envs))
    if there != here:
        raise ValueError(
            f"The environment in {folder.path / 'config.yaml'} must have the observations and "
            f"actions of the agent, {there[0]} and {there[1].size} actions, got {here[0]} and "
            f"{here[1].size} actions. Restore the file."
        )
