"""Playing episodes with a trained policy, for a score and for a video.

The evaluation callback and `python -m dreamer.evaluate` share it. It never touches the replay,
and it leaves the random state of the run as it was.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from dreamer.collector import Collector, EpisodeStats, Policy
from dreamer.envs.factory import Envs
from dreamer.types import TimeStep

EVALUATION_SEED = 1_000_003  # added to a run's seed, so that it plays other episodes


class Evaluation(NamedTuple):
    """Scores of some episodes, and what the first environment showed."""

    episodes: list[EpisodeStats]
    images: np.ndarray | None  # (T, H, W, 3) uint8

    def summary(self) -> dict[str, float]:
        """Raw returns, lengths and what else was told, as the metrics name them."""
        returns = np.array([e.episode_return for e in self.episodes])
        told = {name for e in self.episodes for name in e.metrics}
        means = {n: np.mean([e.metrics[n] for e in self.episodes if n in e.metrics]) for n in told}
        return {
            **{f"eval/{name}": float(means[name]) for name in sorted(told)},
            "eval/return_mean": float(returns.mean()),
            "eval/return_std": float(returns.std()),
            "eval/length": float(np.mean([e.length for e in self.episodes])),
            "eval/episodes": float(len(returns)),
        }


def play(
    envs: Envs,
    policy: Policy,
    episodes: int,
    *,
    video_steps: int,
    on_step: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Play whole episodes.

    Args:
        envs: E environments of their own; closed by the caller.
        policy: acts.
        episodes: to be played in all.
        video_steps: at most so many policy steps of the first environment are filmed.
        on_step: called at every step.
    """
    images: list[np.ndarray] = []

    def film(step: TimeStep, prev_action: np.ndarray) -> None:
        if len(images) < video_steps:
            images.append(envs.render()[0])
        on_step()

    drawing = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(drawing):  # torch warns of all where there are several
        stats = Collector(envs).collect(policy, episodes=episodes, on_step=film)
    return Evaluation(stats, np.stack(images) if images else None)
