"""Plays evaluation episodes and records a video of them.

The evaluation callback and `python -m dreamer.evaluate` share it. It does not touch the replay, and
restores torch's random state.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from dreamer.captions import episode_lines, with_caption
from dreamer.collector import Collector, EpisodeStats, Policy
from dreamer.envs.base import VectorEnvs
from dreamer.envs.rendering import RenderingFault, call_render, draw, resize
from dreamer.types import TimeStep

EVALUATION_SEED = 1_000_003  # added to a run's seed, for other episodes than in training
MIN_EDGE, MAX_EDGE = 256, 1024  # pixels, of a video's longer edge; other images are resized


class Evaluation(NamedTuple):
    """Scores of evaluation episodes, and a video of the first environment."""

    episodes: list[EpisodeStats]
    images: np.ndarray | None  # (T, H, W, 3) uint8

    def summary(self) -> dict[str, float]:
        """Return raw returns, lengths and further episode metrics, by metric name."""
        returns = np.array([e.episode_return for e in self.episodes])
        keys = {name for e in self.episodes for name in e.metrics}
        means = {n: np.mean([e.metrics[n] for e in self.episodes if n in e.metrics]) for n in keys}
        cut = sum(e.is_cut for e in self.episodes)
        return {
            **{f"eval/{name}": float(means[name]) for name in sorted(keys)},
            **({"eval/cut_episodes": float(cut)} if cut else {}),
            "eval/return_mean": float(returns.mean()),
            "eval/return_std": float(returns.std()),
            "eval/length": float(np.mean([e.length for e in self.episodes])),
            "eval/episodes": float(len(returns)),
        }


class VideoRecorder:
    """Records videos of the first environment of a group; a failing `render` does not end the run.

    After the first failure, it warns and draws observations instead. If they cannot be drawn
    either, it records no video.
    """

    def __init__(self, envs: VectorEnvs, policy_steps: int):
        """Record at most `policy_steps` of each evaluation; 0: no video."""
        self._envs, self._policy_steps = envs, policy_steps
        self._can_render = True  # until it fails
        self._size = (0, 0)  # of the first picture, without its margin
        self._episode = self._step = 0
        self._return = 0.0

    def record(self, step: TimeStep, images: list[np.ndarray]) -> None:
        """Append an image (H, W, 3) uint8 of the latest step, in the size of the first one.

        A margin has the number of the episode, the step, its reward and the return so far.
        """
        if len(images) == self._policy_steps:
            return
        self._count(step, is_new=not images)
        image = self._render(step)
        if image is None:
            return
        if not images:
            self._size = _size(image)
        lines = episode_lines(
            episode=self._episode,
            step=self._step,
            reward=float(step.reward[0]),
            total=self._return,
        )
        images.append(with_caption(resize(image, *self._size), lines))

    def _count(self, step: TimeStep, *, is_new: bool) -> None:
        """Follow the episodes of a video, which begins with a reset."""
        if is_new:
            self._episode = 0
        if step.is_first[0]:
            self._episode, self._step, self._return = self._episode + 1, 0, 0.0
        else:
            self._step, self._return = self._step + 1, self._return + float(step.reward[0])

    def _render(self, step: TimeStep) -> np.ndarray | None:
        if not self._can_render:
            return _draw(step)
        try:
            return call_render(lambda: self._envs.render()[0], type(self._envs).__name__)
        except RenderingFault as fault:
            self._can_render = False
            drawn = _draw(step)
            consequence = (
                "There are no videos, because its observations cannot be drawn either."
                if drawn is None
                else "Videos show observations instead."
            )
            warnings.warn(f"{fault}. {consequence}", stacklevel=2)
            return drawn


def _size(image: np.ndarray) -> tuple[int, int]:
    """Choose the height and width of a video: small images are enlarged, large ones shrunk."""
    edge = max(image.shape[:2])
    scale = min(1.0, MAX_EDGE / edge) if edge >= MIN_EDGE else -(-MIN_EDGE // edge)
    height, width = image.shape[:2]
    return max(1, int(height * scale)), max(1, int(width * scale))


def _draw(step: TimeStep) -> np.ndarray | None:
    """Draw the observation of the first environment; None if that fails."""
    try:
        return call_render(lambda: draw({k: x[0] for k, x in step.obs.items()}), "observation")
    except RenderingFault:
        return None


def play(
    envs: VectorEnvs,
    policy: Policy,
    episodes: int,
    *,
    recorder: VideoRecorder,
    max_length: int | None = None,
    on_step: Callable[[TimeStep], None] = lambda step: None,
) -> Evaluation:
    """Play whole episodes; a warning says if some were cut.

    Args:
        envs: E environments, used by nothing else; the caller closes them.
        policy: Chooses actions.
        episodes: Number of episodes over all environments.
        recorder: Records a video of the first environment.
        max_length: Maximum length of an episode, in policy steps; None: no maximum.
        on_step: Called with every step, resets included.
    """
    images: list[np.ndarray] = []

    def record(step: TimeStep, prev_action: np.ndarray) -> None:
        recorder.record(step, images)
        on_step(step)

    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):  # fork only the current device; forking all warns
        stats = Collector(envs).collect(
            policy, episodes=episodes, max_length=max_length, on_step=record
        )
    if cut := sum(episode.is_cut for episode in stats):
        warnings.warn(
            f"{cut} of {len(stats)} evaluation episodes were cut after {max_length} policy steps "
            "(`max_episode_policy_steps`). Set a time limit, such as env.time_limit_frames, if "
            "episodes do not end.",
            stacklevel=2,
        )
    return Evaluation(stats, np.stack(images) if images else None)
