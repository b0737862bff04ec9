"""Records open-loop predictions of the world model every so many frames.

The videos show sequences from the replay, the predictions of the model from a few steps of context
and the actions, and the error.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.callbacks.frame import FrameCallback
from dreamer.callbacks.metrics import Metrics
from dreamer.loggers import log_video
from dreamer.schema.types import PositiveCount, doc
from dreamer.schema.validation import checked_call
from dreamer.types import Batch
from dreamer.video import open_loop_grid


class OpenLoopVideo(FrameCallback):
    """Records videos of truth, model and error; without image observations, none."""

    @checked_call
    def __init__(
        self,
        run_dir: Path,
        metrics: Metrics,
        *,
        every_frames: Annotated[PositiveCount, doc("Interval between videos.", unit="frames")],
        sequences: Annotated[PositiveCount, doc("Sequences side by side.")],
        context: Annotated[PositiveCount, doc("Steps with observations.", unit="policy steps")],
        fps: Annotated[PositiveCount, doc("Frames per second of the video.")],
    ):
        """Prepare the videos.

        Args:
            run_dir: videos go to its folder `videos`.
            metrics: counts videos that fail; they do not end the run.
            every_frames: interval between videos.
            sequences: number of sequences, side by side.
            context: steps whose observations the model gets.
            fps: frames per second of the video.
        """
        super().__init__(every_frames)
        self._run_dir, self._metrics = run_dir, metrics
        self._sequences, self._context, self._fps = sequences, context, fps
        self._batch: Batch | None = None

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Keep the batch, and record it when it is due."""
        self._batch = batch
        super().on_update(trainer, agent, metrics, batch)

    def on_due(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        """Record the batch of the last update."""
        self._record_or_warn(trainer, agent, batch)

    def on_end(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Record the last batch."""
        if self._batch is not None:
            self._record_or_warn(trainer, agent, self._batch)

    def _record_or_warn(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        with self._metrics.tolerating("the video", "video/failures"):
            self._record(trainer, agent, batch)

    def _record(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        if self._context >= len(batch.reward):
            return
        batch = Batch(
            {k: x[:, : self._sequences] for k, x in batch.obs.items()},
            *(x[:, : self._sequences] for x in batch[1:]),
        )
        devices = [agent.device] if agent.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # with all devices, torch warns
            predictions = agent.world_model.open_loop(batch, self._context)
        for key, prediction in predictions.items():
            truth = batch.obs[key].float() / 255
            grid = open_loop_grid(
                truth.cpu().numpy(), prediction.float().cpu().numpy(), self._context
            )
            name = "open_loop" if len(predictions) == 1 else f"open_loop_{key}"
            path = self._run_dir / "videos" / f"{name.replace('/', '_')}_{agent.frames:010d}.mp4"
            log_video(
                trainer.loggers,
                f"video/{name}",
                np.ascontiguousarray(grid),
                path,
                frames=agent.frames,
                fps=self._fps,
            )
