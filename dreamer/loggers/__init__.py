"""Loggers: JSON lines, CSV, TensorBoard, Weights & Biases and MLflow, over frames or updates.

Runs build them from the configuration, by the names in this file.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from pytorch_lightning.loggers import Logger

from dreamer.loggers.base import GuardedLogger, RunDescription, RunLogger
from dreamer.loggers.csv import CsvLogger
from dreamer.loggers.jsonl import JsonLinesLogger
from dreamer.loggers.mlflow import make_mlflow
from dreamer.loggers.tensorboard import make_tensorboard
from dreamer.loggers.wandb import make_wandb
from dreamer.video import write_mp4

__all__ = [
    "CsvLogger",
    "GuardedLogger",
    "JsonLinesLogger",
    "RunDescription",
    "RunLogger",
    "finish",
    "log_metrics",
    "log_video",
    "make_mlflow",
    "make_tensorboard",
    "make_wandb",
    "truncate",
]


def log_metrics(loggers: Iterable[Logger], metrics: Mapping[str, float], frames: int) -> None:
    """Log numbers to all loggers at a count of frames, or of updates without collection."""
    for logger in loggers:
        logger.log_metrics(dict(metrics), step=frames)


def log_video(
    loggers: Iterable[Logger], key: str, images: np.ndarray, path: Path, *, frames: int, fps: int
) -> None:
    """Write a video to a file, and give it to the loggers; see `RunLogger.log_video`."""
    write_mp4(path, images, fps=fps)
    for logger in _run_loggers(loggers):
        logger.log_video(key, images, path, frames=frames, fps=fps)


def truncate(loggers: Iterable[Logger], frames: int) -> None:
    """Drop what an interrupted run logged after its checkpoint's count; see `log_metrics`."""
    for logger in _run_loggers(loggers):
        logger.truncate(frames)


def finish(loggers: Iterable[Logger], *, exit_code: int) -> None:
    """End the run in all services, so that the next job of a multirun does not log to it.

    Args:
        loggers: Of the run.
        exit_code: 0: finished; 1: failed; 128 + n: stopped by signal n, so that it can be
            resumed, as W&B's sweeps do.
    """
    for logger in _run_loggers(loggers):
        logger.finish(exit_code)


def _run_loggers(loggers: Iterable[Logger]) -> list[RunLogger]:
    return [logger for logger in loggers if isinstance(logger, RunLogger)]
