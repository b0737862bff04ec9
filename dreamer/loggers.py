"""Where metrics go: JSON lines, TensorBoard and Weights & Biases, all with frames as x axis.

The runner builds them from the configuration, by name. They know nothing of what they write.
"""

import json
import os
import secrets
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from dreamer.video import encode_gif, write_mp4


class JsonLinesLogger(Logger):
    """One JSON object a line: `pandas.read_json(path, lines=True)`.

    A resumed run goes on in the same file; lines beyond the checkpoint's frame are dropped, so
    that every frame count is written once.
    """

    def __init__(self, run_dir: Path):
        super().__init__()
        self.path = Path(run_dir) / "metrics.jsonl"

    @property
    def name(self) -> str:
        """The kind of logger."""
        return "jsonl"

    @property
    def version(self) -> str:
        """Always the same: the run folder tells runs apart."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any):
        """Nothing: the run folder holds the configuration."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line; `step` is the frame count. A number that is not finite becomes null."""
        values = {k: float(x) if np.isfinite(x) else None for k, x in metrics.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"frames": step, **values}) + "\n")

    def truncate(self, frames: int) -> None:
        """Drop the lines after a frame count, and what a killed process left of a line."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["frames"] <= frames:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(self.path)


def make_tensorboard(run_dir: Path, *, resumed_at: int | None) -> TensorBoardLogger:
    """TensorBoard's event files, in the run folder itself.

    What an interrupted run had written beyond `resumed_at` frames is hidden; None: a new run.
    """
    purge_step = None if resumed_at is None else resumed_at + 1  # hides this step, too
    return TensorBoardLogger(run_dir, name="", version="tensorboard", purge_step=purge_step)


def make_wandb(
    run_dir: Path, *, project: str, group: str, job_type: str, name: str, tags: list[str]
) -> WandbLogger:
    """Weights & Biases; online with a key, else offline into the run folder.

    Args:
        run_dir: keeps the run's id, so that a resumed run goes on under it.
        project: W&B's.
        group: what the dashboard groups by: variant and task.
        job_type: what the dashboard tells apart within a group.
        name: of this run.
        tags: to filter by.
    """
    import wandb

    run_dir = Path(run_dir)
    id_file = run_dir / "wandb_id"
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4))
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    if mode == "offline":
        print(f"W&B writes offline: to upload, `wandb sync {run_dir / 'wandb'}/offline-run-*`")
    run = wandb.init(
        project=project,
        group=group,
        job_type=job_type,
        name=name,
        tags=tags,
        dir=run_dir,
        id=id_file.read_text(),
        resume="allow",
        mode=mode,  # pyright: ignore[reportArgumentType]
        settings=wandb.Settings(silent=True),
    )
    run.define_metric("frames")
    run.define_metric("*", step_metric="frames")
    return WandbLogger(experiment=run)


def _has_key() -> bool:
    """Whether W&B lets us in, with a key from the environment or from `wandb login`."""
    import wandb

    try:
        return wandb.login(prompt=False)
    except wandb.Error as error:
        print(f"W&B does not take the key: {error}")
        return False


def log_metrics(loggers: list[Logger], metrics: Mapping[str, float], frames: int) -> None:
    """Write numbers to every logger at a frame count."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            # W&B's own step must only grow; the x axis is `frames` all the same.
            logger.experiment.log({"frames": frames, **metrics})
        else:
            logger.log_metrics(dict(metrics), step=frames)


def log_video(
    loggers: list[Logger], key: str, images: np.ndarray, path: Path, *, frames: int, fps: int
) -> None:
    """Write a video (T, H, W, 3) uint8 to a file, W&B and TensorBoard.

    Args:
        loggers: those that can show videos get it.
        key: of the video, such as `video/open_loop`.
        images: (T, H, W, 3) uint8.
        path: of the MP4 file.
        frames: the run's clock.
        fps: pictures a second.
    """
    write_mp4(path, images, fps=fps)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            video = wandb.Video(str(path), format="mp4")
            logger.experiment.log({"frames": frames, key: video})
        elif isinstance(logger, TensorBoardLogger):
            _add_gif(logger, key, images, frames, fps)


def finish(loggers: list[Logger], *, exit_code: int) -> None:
    """End what W&B calls a run; else the next job of a multirun would write into it."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code)


def _add_gif(logger: TensorBoardLogger, key: str, images: np.ndarray, frames: int, fps: int):
    """TensorBoard shows an animated GIF where it expects an image; its own video needs moviepy."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

    height, width = images.shape[1:3]
    image = Summary.Image(
        height=height,
        width=width,
        colorspace=3,
        encoded_image_string=encode_gif(images, fps=fps),
    )
    summary = Summary(value=[Summary.Value(tag=key, image=image)])
    logger.experiment._get_file_writer().add_summary(summary, frames)
