"""Loggers: JSON lines, TensorBoard and Weights & Biases, all with frames as the x axis.

Runs build them from the configuration. They know no metric; only W&B's summary reads one, the
return.
"""

import hashlib
import json
import os
import re
import secrets
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from dreamer.files import move_aside, read_lines, warn_once, write_text
from dreamer.schema.types import doc
from dreamer.video import encode_gif, write_mp4

RETURN = "collect/return"  # the raw return that W&B's summary normalises


class JsonLinesLogger(Logger):
    """Writes one JSON object per line, for `pandas.read_json(path, lines=True)`.

    A resumed run appends to the same file, after dropping the lines beyond its checkpoint, so that
    every frame count occurs once.
    """

    def __init__(self, run_dir: Path):
        super().__init__()
        self.path = Path(run_dir) / "metrics.jsonl"

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "jsonl"

    @property
    def version(self) -> str:
        """Always empty: the run folder identifies the run."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any):
        """Do nothing: the run folder holds the configuration."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line; `step` is the frame count. Non-finite numbers become null."""
        values = {k: float(x) if np.isfinite(x) else None for k, x in metrics.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"frames": step, **values}) + "\n")

    def truncate(self, frames: int) -> None:
        """Drop the lines after a frame count, and lines that a killed process or a disk damaged."""
        if not self.path.is_file():
            return
        lines, damaged = read_lines(self.path)
        kept = []
        for line in lines:
            count = json.loads(line).get("frames")
            if not isinstance(count, int | float):
                damaged += 1
            elif count <= frames:
                kept.append(line + "\n")
        if damaged > 1:  # the last line of a killed process is incomplete
            warn_once(f"{self.path}: {damaged} damaged lines are dropped.")
        write_text(self.path, "".join(kept))


def make_tensorboard(run_dir: Path, *, resumed_at: int | None) -> TensorBoardLogger:
    """Make a logger that writes TensorBoard's event files to the run folder.

    Events of an interrupted run after `resumed_at` frames are hidden; None: a new run.
    """
    purge_step = None if resumed_at is None else resumed_at + 1  # hides this step as well
    return TensorBoardLogger(run_dir, name="", version="tensorboard", purge_step=purge_step)


class SummarizingWandbLogger(WandbLogger):
    """W&B with frames as its step; its summary also normalises the latest return.

    W&B accepts increasing steps only, and merges entries of the same step. So it keeps what a
    killed run logged after its checkpoint, and drops what the resumed run logs for those frames.

    Elsewhere only `experiments/scores.py` normalises. W&B's table of runs cannot compute, so its
    summary holds `score/<player>_normalised`.
    """

    def __init__(self, run: Any, reference_returns: Mapping[str, float]):
        """`run` is a W&B run; `reference_returns` are those of a `VectorEnvs`."""
        super().__init__(experiment=run)
        self._references = reference_returns

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers; `step` is the frame count."""
        self.experiment.log({"frames": step, **metrics}, step=step)
        if RETURN in metrics:
            self.experiment.summary.update(self._scores(metrics[RETURN]))

    def _scores(self, value: float) -> dict[str, float]:
        """Normalise a return so that random play is 0 and a reference player is 1."""
        if "random" not in self._references:
            return {}
        low = self._references["random"]
        return {
            f"score/{player}_normalised": (value - low) / (high - low)
            for player, high in self._references.items()
            if player != "random"
        }


def make_wandb(
    run_dir: Path,
    *,
    project: Annotated[str, doc("Project on W&B.")],
    group: str,
    job_type: str,
    name: str,
    tags: Annotated[list[str], doc("More tags to filter by.")],
    config: dict[str, Any],
    reference_returns: Mapping[str, float],
) -> SummarizingWandbLogger:
    """Make a W&B logger: online with an API key, else offline in the run folder.

    Args:
        run_dir: Stores the run's id, so that a resumed run keeps it.
        project: W&B project.
        group: W&B group; its runs differ only in their seeds and are averaged.
        job_type: W&B job type; one per variant, shared by its groups.
        name: W&B name of this run.
        tags: W&B tags.
        config: The run's configuration, to filter, group and sort by.
        reference_returns: Raw returns of known players, see `VectorEnvs`.
    """
    import wandb

    run_dir = Path(run_dir)
    id_file = run_dir / "wandb_id"
    run_id = _read_id(id_file)
    write_text(id_file, run_id)
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    if mode == "offline":
        print(f"W&B is offline. To upload: `wandb sync {run_dir / 'wandb'}/offline-run-*`")
    run = wandb.init(
        project=project,
        group=_shorten(group, 128),
        job_type=_shorten(job_type, 64),
        name=_shorten(name, 128),
        tags=[_shorten(tag, 64) for tag in tags],
        config=config,
        dir=run_dir,
        id=run_id,
        resume="allow",
        mode=mode,  # pyright: ignore[reportArgumentType]
        settings=wandb.Settings(silent=True),
    )
    write_text(id_file, run.id)  # an agent of a W&B sweep sets its own id
    run.define_metric("frames")
    run.define_metric("*", step_metric="frames")
    return SummarizingWandbLogger(run, reference_returns)


def _read_id(path: Path) -> str:
    """Return the id of a run that exists, or a new one.

    The id names folders, so it must not lead to another one.
    """
    if path.is_dir():
        warn_once(f"{path} is a folder; it is now {move_aside(path).name}.")
    text = path.read_bytes() if path.exists() else None
    if text is not None and re.fullmatch(rb"[\w-]{1,64}", text.strip()):
        return text.strip().decode()
    if text is not None:
        warn_once(f"{path} is damaged: it is no W&B id. The run gets a new one.")
    return secrets.token_hex(4)


def _shorten(text: str, limit: int) -> str:
    """Shorten a text to W&B's limit; a hash keeps different texts different."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _has_key() -> bool:
    """Whether W&B accepts the API key from the environment or from `wandb login`."""
    import wandb

    try:
        return wandb.login(prompt=False)
    except wandb.Error as error:
        print(f"W&B does not accept the API key: {error}")
        return False


def log_metrics(loggers: list[Logger], metrics: Mapping[str, float], frames: int) -> None:
    """Log numbers to all loggers at a frame count."""
    for logger in loggers:
        logger.log_metrics(dict(metrics), step=frames)


def log_video(
    loggers: list[Logger], key: str, images: np.ndarray, path: Path, *, frames: int, fps: int
) -> None:
    """Write a video (T, H, W, 3) uint8 to a file, W&B and TensorBoard.

    Args:
        loggers: All loggers; those without videos ignore it.
        key: Metric key of the video, such as `video/open_loop`.
        images: (T, H, W, 3) uint8.
        path: Path of the MP4 file.
        frames: Frame count of the run.
        fps: Images per second.
    """
    write_mp4(path, images, fps=fps)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            video = wandb.Video(str(path), format="mp4")
            logger.experiment.log({"frames": frames, key: video}, step=frames)
        elif isinstance(logger, TensorBoardLogger):
            _add_gif(logger, key, images, frames, fps)


def truncate(loggers: list[Logger], frames: int) -> None:
    """Drop the lines that an interrupted run wrote after its checkpoint's frame."""
    for logger in loggers:
        if isinstance(logger, JsonLinesLogger):
            logger.truncate(frames)


def finish(loggers: list[Logger], *, exit_code: int) -> None:
    """Finish the W&B run, so that the next job of a multirun does not log to it.

    Args:
        loggers: Of the run.
        exit_code: 0: finished; 1: failed; 128 + n: stopped by signal n, so that it can be
            resumed, as W&B's sweeps do.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            if exit_code > 128:
                logger.experiment.mark_preempting()
            logger.experiment.finish(exit_code)


def _add_gif(logger: TensorBoardLogger, key: str, images: np.ndarray, frames: int, fps: int):
    """Log a video to TensorBoard as an animated GIF; `add_video` would need moviepy."""
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
