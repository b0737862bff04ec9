"""Where metrics go: JSON lines, TensorBoard and Weights & Biases, all with frames as x axis.

The runner builds them from the configuration, by name. They know nothing of what they write; only
W&B's summary looks for one key, the return.
"""

import hashlib
import json
import os
import secrets
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from dreamer.schema.types import doc
from dreamer.video import encode_gif, write_mp4

RETURN = "collect/return"  # the raw return that W&B's summary sets beside those of known players


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


class SummarizingWandbLogger(WandbLogger):
    """W&B with frames as its step; its summary sets the newest return beside known players' too.

    W&B takes steps that grow, and all that has one step makes one row. What a killed run had
    written beyond its checkpoint stays there, and what the resumed run plays again does not.

    Differs from the rule that normalisation is for `experiments/scores.py`: W&B's table of runs
    cannot divide, so its summary, and nothing else, holds `score/<player>_normalised`.
    """

    def __init__(self, run: Any, reference_returns: Mapping[str, float]):
        """`run` is W&B's; `reference_returns` are those of a `VectorEnvs`."""
        super().__init__(experiment=run)
        self._references = reference_returns

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write numbers; `step` is the frame count."""
        self.experiment.log({"frames": step, **metrics}, step=step)
        if RETURN in metrics:
            self.experiment.summary.update(self._scores(metrics[RETURN]))

    def _scores(self, value: float) -> dict[str, float]:
        """Put a return on scales where random play is 0 and another player is 1."""
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
    """Weights & Biases; online with a key, else offline into the run folder.

    Args:
        run_dir: keeps the run's id, so that a resumed run goes on under it.
        project: W&B's.
        group: of the runs that are averaged: they differ in their seeds only.
        job_type: what all groups of one kind share; one group has one job type.
        name: of this run.
        tags: to filter by.
        config: what the run is, to filter, group and sort by.
        reference_returns: raw, of known players, as a `VectorEnvs` has them.
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
        group=_shorten(group, 128),
        job_type=_shorten(job_type, 64),
        name=_shorten(name, 128),
        tags=[_shorten(tag, 64) for tag in tags],
        config=config,
        dir=run_dir,
        id=id_file.read_text(),
        resume="allow",
        mode=mode,  # pyright: ignore[reportArgumentType]
        settings=wandb.Settings(silent=True),
    )
    id_file.write_text(run.id)  # an agent of a W&B sweep has brought its own
    run.define_metric("frames")
    run.define_metric("*", step_metric="frames")
    return SummarizingWandbLogger(run, reference_returns)


def _shorten(text: str, limit: int) -> str:
    """Cut to as many characters as W&B takes; texts that differ stay different."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


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
            logger.experiment.log({"frames": frames, key: video}, step=frames)
        elif isinstance(logger, TensorBoardLogger):
            _add_gif(logger, key, images, frames, fps)


def go_on_from(loggers: list[Logger], frames: int) -> None:
    """Drop the lines that an interrupted run had written beyond its checkpoint's frame."""
    for logger in loggers:
        if isinstance(logger, JsonLinesLogger):
            logger.truncate(frames)


def finish(loggers: list[Logger], *, exit_code: int) -> None:
    """End what W&B calls a run; else the next job of a multirun would write into it.

    Args:
        loggers: of the run.
        exit_code: 0 is a run that finished, 1 one that failed, 128 + n one that signal n stopped
            and that goes on when it is started again; W&B's sweeps do so.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            if exit_code > 128:
                logger.experiment.mark_preempting()
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
