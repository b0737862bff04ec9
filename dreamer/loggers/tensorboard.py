"""TensorBoard's event files in the run folder: metrics, videos as moving pictures, parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import TensorBoardLogger

from dreamer.loggers.base import Parameters, RunDescription, RunLogger
from dreamer.video import encode_gif

SCORES = ("eval/return_mean", "collect/return")  # beside the parameters in the tab HPARAMS


class RunTensorBoardLogger(TensorBoardLogger, RunLogger):
    """Lightning's logger, which also takes videos and a run's parameters."""

    def __init__(self, *args: Any, parameters: Parameters, **kwargs: Any):
        """See `TensorBoardLogger`; `parameters` are logged with the first metrics."""
        super().__init__(*args, **kwargs)
        self._parameters = parameters

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers at a count of frames or updates."""
        if self._parameters:
            self._log_parameters()
            self._parameters = {}
        super().log_metrics(dict(metrics), step)

    def _log_parameters(self) -> None:
        """List the run in the tab HPARAMS; hparams.yaml gets the same."""
        from torch.utils.tensorboard.summary import hparams

        writer = self.experiment._get_file_writer()
        for summary in hparams(self._parameters, dict.fromkeys(SCORES, 0.0)):
            writer.add_summary(summary)
        self.hparams.update(self._parameters)  # pyright: ignore[reportCallIssue]

    def log_video(self, key: str, images: np.ndarray, path: Path, *, frames: int, fps: int) -> None:
        """Log an animated GIF; `add_video` would need moviepy."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

        height, width = images.shape[1:3]
        image = Summary.Image(
            height=height,
            width=width,
            colorspace=3,
            encoded_image_string=encode_gif(images, fps=fps),
        )
        summary = Summary(value=[Summary.Value(tag=key, image=image)])
        self.experiment._get_file_writer().add_summary(summary, frames)


def make_tensorboard(run_dir: Path, *, run: RunDescription) -> RunTensorBoardLogger:
    """Make a logger that writes TensorBoard's event files to the run folder.

    Events of an interrupted run after its checkpoint are hidden.
    """
    resumed = run.resumed_at
    return RunTensorBoardLogger(
        run_dir,
        name="",
        version="tensorboard",
        purge_step=None if resumed is None else resumed + 1,  # hides this step as well
        parameters=run.parameters() if resumed is None else {},
    )
