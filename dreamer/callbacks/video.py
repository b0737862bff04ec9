"""Records open-loop predictions of the world model, and probes, soon and every so many frames.

The videos show sequences from the replay, the predictions of the model from a few steps of context
and the actions, and the error. Beside them, probes show what they read from the features.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.callbacks.frame import EveryUpdates, FrameCallback
from dreamer.callbacks.metrics import Metrics
from dreamer.components import DrawsPictures
from dreamer.loggers import log_video
from dreamer.schema.types import Count, PositiveCount, doc
from dreamer.schema.validation import checked_call
from dreamer.types import Batch
from dreamer.video import open_loop_grid


class OpenLoopVideo(FrameCallback):
    """Records videos of truth, model and error, of image observations and of probes."""

    @checked_call
    def __init__(
        self,
        run_dir: Path,
        metrics: Metrics,
        *,
        every_frames: Annotated[PositiveCount, doc("Interval between videos.", unit="frames")],
        first_updates: Annotated[
            Count,
            doc("Updates before a first video; 0: none before `every_frames`.", unit="updates"),
        ],
        sequences: Annotated[PositiveCount, doc("Sequences side by side.")],
        context: Annotated[PositiveCount, doc("Steps with observations.", unit="policy steps")],
        fps: Annotated[PositiveCount, doc("Frames per second of the video.")],
        every_updates: EveryUpdates = None,
    ):
        """Prepare the videos.

        Args:
            run_dir: videos go to its folder `videos`.
            metrics: counts videos that fail; they do not end the run.
            every_frames: interval between videos.
            first_updates: updates before a first video; 0: none before `every_frames`.
            sequences: number of sequences, side by side.
            context: steps whose observations the model gets.
            fps: frames per second of the video.
            every_updates: the interval in a run that collects nothing.
        """
        super().__init__(every_frames, every_updates)
        self._run_dir, self._metrics = run_dir, metrics
        self._sequences, self._context, self._fps = sequences, context, fps
        self._first_updates = first_updates
        self._batch: Batch | None = None

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Keep the batch, and record it when it is due."""
        self._batch = batch
        if self._first_updates and agent.updates == self._first_updates:
            self.on_due(trainer, agent, batch)
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
            pictures = _pictures(agent, batch)
        for key, prediction in predictions.items():
            truth = batch.obs[key].float() / 255
            grid = open_loop_grid(
                truth.cpu().numpy(), prediction.float().cpu().numpy(), self._context
            )
            name = "open_loop" if len(predictions) == 1 else f"open_loop_{key}"
            self._log(trainer, agent, name, grid)
        for name, images in pictures.items():
            self._log(trainer, agent, name, images)

    def _log(self, trainer: pl.Trainer, agent: DreamerAgent, name: str, images: np.ndarray) -> None:
        """Write a video (T, height, width, 3), and send it to the loggers."""
        path = self._run_dir / "videos" / f"{name.replace('/', '_')}_{self.now(agent):010d}.mp4"
        log_video(
            trainer.loggers,
            f"video/{name}",
            np.ascontiguousarray(images),
            path,
            frames=self.now(agent),
            fps=self._fps,
        )


@torch.no_grad()
def _pictures(agent: DreamerAgent, batch: Batch) -> dict[str, np.ndarray]:
    """Return what components show of a batch, by name: images (T, height, width, 3) uint8."""
    model = agent.world_model
    parts = [*agent.components.items(), *model.auxiliary.items()]
    drawing = {name: part for name, part in parts if isinstance(part, DrawsPictures)}
    if not drawing:
        return {}
    embed = model.encode(batch.obs, batch.reward, batch.is_terminal)
    features = model.rssm.observe(embed, batch.prev_action, batch.is_first).features
    return {
        f"{name}_{key}": images
        for name, component in drawing.items()
        for key, images in component.pictures(features, batch).items()
    }
