"""Every so many frames, and at the end: how well does the policy play?

It plays in environments of its own with the mode of the actor, and hands scores to the metrics
and a video to the loggers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytorch_lightning as pl

from dreamer.agent import DreamerAgent
from dreamer.callbacks.frame import FrameCallback
from dreamer.callbacks.interrupt import Interrupt
from dreamer.callbacks.metrics import Metrics
from dreamer.collector import Policy
from dreamer.envs.base import VectorEnvs
from dreamer.evaluation import Camera, play
from dreamer.loggers import log_video
from dreamer.schema.types import Count, PositiveCount, doc
from dreamer.schema.validation import checked_call
from dreamer.types import Batch


class Evaluate(FrameCallback):
    """Plays episodes and reports them."""

    @checked_call
    def __init__(
        self,
        make_envs: Callable[[], VectorEnvs],
        policy: Policy,
        metrics: Metrics,
        interrupt: Interrupt,
        run_dir: Path,
        *,
        every_frames: Annotated[
            PositiveCount, doc("From one evaluation to the next.", unit="frames")
        ],
        episodes: Annotated[
            PositiveCount, doc("Episodes at once, each in an environment of its own.")
        ],
        video_policy_steps: Annotated[
            Count, doc("Length of the film at most; 0: no film.", unit="policy steps")
        ],
        video_fps: Annotated[PositiveCount, doc("Pictures a second.")],
    ):
        """Prepare the evaluation; environments are made when the first is due.

        Args:
            make_envs: makes the environments to play in.
            policy: acts.
            metrics: gets the scores.
            interrupt: asked at every step.
            run_dir: videos land in its folder `videos`.
            every_frames: time between two evaluations.
            episodes: played in each.
            video_policy_steps: filmed at most; 0 for no video.
            video_fps: pictures a second.
        """
        super().__init__(every_frames)
        self._make_envs, self._policy = make_envs, policy
        self._metrics, self._interrupt, self._run_dir = metrics, interrupt, run_dir
        self._episodes = episodes
        self._video_steps, self._fps = video_policy_steps, video_fps
        self._envs: VectorEnvs | None = None
        self._played_at = -1

    def on_due(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        """Play."""
        self._play(trainer, agent)

    def on_end(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Play once more, unless it was just done."""
        if self._played_at != agent.frames:
            self._play(trainer, agent)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the environments."""
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """The same: the Trainer tears nothing down after an exception."""
        self._close()

    def _close(self) -> None:
        if self._envs is not None:
            self._envs.close()
            self._envs = None

    def _play(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        if self._envs is None:
            self._envs = self._make_envs()
            self._camera = Camera(self._envs, self._video_steps)
        result = play(
            self._envs,
            self._policy,
            self._episodes,
            camera=self._camera,
            on_step=self._interrupt.check,
        )
        self._metrics.write(trainer, agent.frames, result.summary())
        if result.images is not None:
            log_video(
                trainer.loggers,
                "video/policy",
                result.images,
                self._run_dir / "videos" / f"policy_{agent.frames:010d}.mp4",
                frames=agent.frames,
                fps=self._fps,
            )
        self._played_at = agent.frames
