"""Playing episodes with a trained policy, for a score and for a video.

The evaluation callback and `python -m dreamer.evaluate` share it. It never touches the replay,
and it leaves the random state of the run as it was.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from dreamer.collector import Collector, EpisodeStats, Policy
from dreamer.envs.base import VectorEnvs
from dreamer.envs.rendering import RenderingFault, draw, resize, take_picture
from dreamer.types import TimeStep

EVALUATION_SEED = 1_000_003  # added to a run's seed, so that it plays other episodes
LARGEST_EDGE = 1024  # pixels, of a film; larger pictures are shrunk


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


class Camera:
    """Films the first environment of a group; whatever its `render` does, the run goes on.

    The first picture that cannot be had costs a warning. From then on, observations are drawn;
    where that cannot be done either, there is no film.
    """

    def __init__(self, envs: VectorEnvs, policy_steps: int):
        """`policy_steps` are filmed at most in each evaluation; 0: no film."""
        self._envs, self._policy_steps = envs, policy_steps
        self._renders = True  # as far as is known

    def film(self, step: TimeStep, images: list[np.ndarray]) -> None:
        """Append a picture (H, W, 3) uint8 of the latest step; all take the size of the first."""
        if len(images) == self._policy_steps:
            return
        picture = self._take(step)
        if picture is None:
            return
        if images:
            size = images[0].shape[:2]
        else:
            shrinking = min(1, LARGEST_EDGE / max(picture.shape))
            size = [max(1, int(edge * shrinking)) for edge in picture.shape[:2]]
        images.append(resize(picture, *size))

    def _take(self, step: TimeStep) -> np.ndarray | None:
        if not self._renders:
            return _draw(step)
        try:
            return take_picture(lambda: self._envs.render()[0], type(self._envs).__name__)
        except RenderingFault as fault:
            self._renders = False
            drawn = _draw(step)
            follows = (
                "There are no videos, for its observation cannot be drawn either."
                if drawn is None
                else "Videos show observations instead."
            )
            warnings.warn(f"{fault}. {follows}", stacklevel=2)
            return drawn


def _draw(step: TimeStep) -> np.ndarray | None:
    """The observation of the first environment as a picture, or None where that cannot be."""
    try:
        return take_picture(lambda: draw({k: x[0] for k, x in step.obs.items()}), "observation")
    except RenderingFault:
        return None


def play(
    envs: VectorEnvs,
    policy: Policy,
    episodes: int,
    *,
    camera: Camera,
    on_step: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Play whole episodes.

    Args:
        envs: E environments of their own; closed by the caller.
        policy: acts.
        episodes: to be played in all.
        camera: films the first of them.
        on_step: called at every step.
    """
    images: list[np.ndarray] = []

    def film(step: TimeStep, prev_action: np.ndarray) -> None:
        camera.film(step, images)
        on_step()

    drawing = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(drawing):  # torch warns of all where there are several
        stats = Collector(envs).collect(policy, episodes=episodes, on_step=film)
    return Evaluation(stats, np.stack(images) if images else None)
