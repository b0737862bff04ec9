"""Every so many frames: does the world model know how the world goes on?

It shows sequences of the replay beside what the model predicts after a few steps of context from
the actions alone.
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
from dreamer.loggers import log_video
from dreamer.schema.types import PositiveCount, doc
from dreamer.schema.validation import checked_call
from dreamer.types import Batch
from dreamer.video import open_loop_grid


class OpenLoopVideo(FrameCallback):
    """Films truth, model and error; where observations hold no image, it has nothing to film."""

    @checked_call
    def __init__(
        self,
        run_dir: Path,
        *,
        every_frames: Annotated[PositiveCount, doc("From one film to the next.", unit="frames")],
        sequences: Annotated[PositiveCount, doc("Sequences side by side.")],
        context: Annotated[PositiveCount, doc("Steps that the model sees.", unit="policy steps")],
        fps: Annotated[PositiveCount, doc("Pictures a second.")],
    ):
        """Prepare the films.

        Args:
            run_dir: they land in its folder `videos`.
            every_frames: time between two films.
            sequences: shown side by side.
            context: steps whose observation the model sees.
            fps: pictures a second.
        """
        super().__init__(every_frames)
        self._run_dir = run_dir
        self._sequences, self._context, self._fps = sequences, context, fps
        self._batch: Batch | None = None

    def on_update(
        self, trainer: pl.Trainer, agent: DreamerAgent, metrics: Mapping[str, Tensor], batch: Batch
    ) -> None:
        """Keep the batch, and film it if it is time."""
        self._batch = batch
        super().on_update(trainer, agent, metrics, batch)

    def on_due(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        """Film the batch just learned from."""
        self._film(trainer, agent, batch)

    def on_end(self, trainer: pl.Trainer, agent: DreamerAgent) -> None:
        """Film the last batch."""
        if self._batch is not None:
            self._film(trainer, agent, self._batch)

    def _film(self, trainer: pl.Trainer, agent: DreamerAgent, batch: Batch) -> None:
        if self._context >= len(batch.reward):
            return
        batch = Batch(
            {k: x[:, : self._sequences] for k, x in batch.obs.items()},
            *(x[:, : self._sequences] for x in batch[1:]),
        )
        drawing = [agent.device] if agent.device.type == "cuda" else []
        with torch.random.fork_rng(drawing):  # torch warns of all where there are several
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
