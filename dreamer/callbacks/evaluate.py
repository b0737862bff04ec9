"""Evaluates the agent's actors every so many frames, and at the end.

It plays in separate environments with the mode of each actor, and passes scores to the metrics and
videos to the loggers.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import pytorch_lightning as pl

from dreamer.agent import DreamerAgent
from dreamer.callbacks.frame import EveryUpdates, FrameCallback, during
from dreamer.callbacks.interrupt import Interrupt
from dreamer.callbacks.metrics import Metrics
from dreamer.collector import Policy
from dreamer.envs.base import VectorEnvs
from dreamer.evaluation import VideoRecorder, play
from dreamer.exploration import ACTOR
from dreamer.loggers import log_video
from dreamer.schema.types import Count, PositiveCount, doc
from dreamer.schema.validation import checked_call
from dreamer.types import Batch

MaxEpisodePolicySteps = Annotated[
    PositiveCount,
    doc("Maximum length of an evaluation episode; a longer one is cut.", unit="policy steps"),
]


class Evaluate(FrameCallback):
    """Plays episodes and reports their scores; a failure does not end the run."""

    @checked_call
    def __init__(
        self,
        make_envs: Callable[[], VectorEnvs],
        policies: Mapping[str, Policy],
        metrics: Metrics,
        interrupt: Interrupt,
        run_dir: Path,
        *,
        every_frames: Annotated[PositiveCount, doc("Interval between evaluations.", unit="frames")],
        episodes: Annotated[
            PositiveCount, doc("Number of episodes, played in parallel environments.")
        ],
        video_policy_steps: Annotated[
            Count, doc("Maximum length of the video; 0: no video.", unit="policy steps")
        ],
        video_fps: Annotated[PositiveCount, doc("Frames per second of the video.")],
        max_episode_policy_steps: MaxEpisodePolicySteps,
        every_updates: EveryUpdates = None,
    ):
        """Prepare the evaluation; environments are made at the first one.

        Args:
            make_envs: makes the environments to play in.
            policies: by name, `actor` and maybe others; each plays its own episodes. The metrics of
                the actor are `eval/...`, those of another are `eval_<name>/...`.
            metrics: writes the scores.
            interrupt: checked at every step.
            run_dir: videos go to its folder `videos`.
            every_frames: interval between evaluations.
            episodes: number of episodes.
            video_policy_steps: maximum length of the video; 0 for none.
            video_fps: frames per second of the video.
            max_episode_policy_steps: maximum length of an episode.
            every_updates: the interval in a run that collects nothing.
        """
        super().__init__(every_frames, every_updates)
        self._make_envs, self._policies = make_envs, policies
        self._metrics, self._interrupt, self._run_dir = metrics, interrupt, run_dir
        self._episodes = episodes
        self._video_steps, self._fps = video_policy_steps, video_fps
        self._max_length = max_episode_policy_steps
        self._envs: VectorEnvs | None = None
        self._played_at = -1

    def on_due(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        """Evaluate."""
        self._play(trainer, agent)

    def on_end(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Evaluate, unless this was just done."""
        if self._played_at != self.now(agent):
            self._play(trainer, agent)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the environments."""
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the environments: the Trainer calls no `teardown` after an exception."""
        self._close()

    def _close(self) -> None:
        if self._envs is not None:
            envs, self._envs = self._envs, None
            with self._metrics.tolerating("the end of the evaluation", "eval/failures"):
                envs.close()

    @during("evaluating")
    def _play(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        try:
            self._play_all(trainer, agent)
        except Exception as error:
            self._metrics.fail("the evaluation", "eval/failures", error)
            self._close()  # the next one begins with new environments
        self._played_at = self.now(agent)

    def _play_all(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        if self._envs is None:
            self._envs = self._make_envs()
            self._recorder = VideoRecorder(self._envs, self._video_steps)
        for name, policy in self._policies.items():
            result = play(
                self._envs,
                policy,
                self._episodes,
                recorder=self._recorder,
                max_length=self._max_length,
                on_step=self._interrupt.check,
            )
            is_actor = name == ACTOR
            area = "eval" if is_actor else f"eval_{name}"
            scores = {f"{area}/{k.removeprefix('eval/')}": x for k, x in result.summary().items()}
            self._metrics.write(trainer, self.now(agent), scores)
            if result.images is not None:
                video = "policy" if is_actor else f"policy_{name}"
                with self._metrics.tolerating("the video", "video/failures"):
                    log_video(
                        trainer.loggers,
                        f"video/{video}",
                        result.images,
                        self._run_dir / "videos" / f"{video}_{self.now(agent):010d}.mp4",
                        frames=self.now(agent),
                        fps=self._fps,
                    )
