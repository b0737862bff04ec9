"""What every logger of a run gets and may do, and a guard that lets it fail.

A logger is one of Lightning's. If it is a `RunLogger`, it also gets the videos and the end of the
run. Loggers know no metric; only W&B's summary reads one, the return.
"""

import threading
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import Logger

# What a run folder must hold for its agent to be loaded; the last checkpoint replaces the best.
AGENT_FILES = ("config.yaml", "spaces.json", "checkpoints/best.ckpt")
CALL_SECONDS = 60.0  # time that a logger has for one call
FINISH_SECONDS = 300.0  # time that a logger has to upload the rest at the end


Parameters = dict[str, str | bool | int | float]  # without nesting: {"batch.size": 16, ...}


@dataclass(frozen=True)
class RunDescription:
    """What services show of a run. A logger's factory gets it if it has a parameter `run`."""

    root: Path  # of all run folders
    env: str
    task: str
    variant: str  # the experiment and the changed switches
    seed: int
    config: dict[str, Any]  # plain types
    reference_returns: Mapping[str, float]  # raw returns of known players, see `VectorEnvs`
    resumed_at: int | None  # a count of `counter`; None: a new run
    sweep: str | None  # its name; None: the run belongs to none
    counter: str = "frames"  # the x axis; updates in a run that collects nothing

    @property
    def name(self) -> str:
        """Name of the run."""
        return f"{self.variant}-{self.task}-seed{self.seed}"

    @property
    def group(self) -> str:
        """Name that the seeds of one variant on one task share."""
        return f"{self.env}/{self.task}/{self.variant}"

    def parameters(self) -> Parameters:
        """Return the configuration without nesting."""
        return dict(_flat(self.config, ""))


def _flat(value: Any, key: str) -> list[tuple[str, Any]]:
    """Return the leaves below a key; what is no number, text or truth value becomes text."""
    if isinstance(value, Mapping):
        return [
            leaf
            for name, part in value.items()
            for leaf in _flat(part, f"{key}.{name}" if key else str(name))
        ]
    return [(key, value if isinstance(value, str | bool | int | float) else str(value))]


def agent_files(run_dir: Path) -> list[Path]:
    """Return the files from which the run's agent can be loaded; empty before a checkpoint."""
    files = [run_dir / name for name in AGENT_FILES]
    if not files[-1].exists():
        files[-1] = files[-1].with_name("last.ckpt")
    return files if files[-1].exists() else []


class RunLogger(Logger):
    """A logger that may also take videos, forget lines and end; by default it does not."""

    lost_after: type[BaseException] | tuple[()] = ()  # after these it is not called again

    def log_video(self, key: str, images: np.ndarray, path: Path, *, frames: int, fps: int) -> None:
        """Log a video.

        Args:
            key: Metric key of the video, such as `video/open_loop`.
            images: (T, H, W, 3) uint8.
            path: Path of the MP4 file with these images.
            frames: Frame count of the run, or its count of updates if it collects nothing.
            fps: Images per second.
        """

    def truncate(self, frames: int) -> None:
        """Drop what an interrupted run logged after its checkpoint's count; see `log_video`."""

    def finish(self, exit_code: int) -> None:
        """End the run; 0: finished, 1: failed, 128 + n: stopped by signal n, to be resumed."""

    def abandon(self) -> None:
        """Give up what is left after `finish` has failed; it must return soon and not raise."""


class FileLogger(RunLogger):
    """Writes one file of the run folder, which also holds the configuration."""

    def __init__(self, run_dir: Path, file_name: str, run: RunDescription | None = None):
        """Write `file_name` in `run_dir`."""
        super().__init__()
        self.path = Path(run_dir) / file_name
        self.counter = run.counter if run else "frames"  # name of the x axis

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    @property
    def version(self) -> str:
        """Always empty: the run folder identifies the run."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any):
        """Do nothing: config.yaml has them."""


class GuardedLogger(RunLogger):
    """Lets a logger fail or hang: the run continues, and the next call tries again.

    Calls run in a thread of their own.
    """

    def __init__(self, logger: Logger, on_failure: Callable[[str, BaseException], None]):
        """Guard `logger`; `on_failure` gets its name and what it raised."""
        super().__init__()
        self.logger, self._on_failure = logger, on_failure
        self._thread: threading.Thread | None = None  # of the latest call
        self._lost: BaseException | None = None
        start = getattr(logger, "start_failure", None)
        if start is not None:
            self.report(start)

    @property
    def name(self) -> str | None:
        """Name of the logger."""
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        """Version of the logger."""
        return self.logger.version

    @property
    def save_dir(self) -> str | None:
        """Folder of the logger."""
        return self.logger.save_dir

    def report(self, error: BaseException) -> None:
        """Report a failure; Lightning's loggers hide a full disk behind another message."""
        self._on_failure(f"the logger {type(self.logger).__name__}", error.__cause__ or error)

    def attempt(self, call: Callable[[Any], Any], seconds: float = CALL_SECONDS) -> bool:
        """Call a function of the logger, and report what it raises or that it takes too long.

        Args:
            call: Gets the logger.
            seconds: Time limit.

        Returns:
            Whether it succeeded.
        """
        error = self._lost or self._run(call, seconds)
        if isinstance(self.logger, RunLogger) and isinstance(error, self.logger.lost_after):
            self._lost = error
        if error is not None:
            self.report(error)
        return error is None

    def _run(self, call: Callable[[Any], Any], seconds: float) -> BaseException | None:
        """Return what a call raises; a `TimeoutError` if it, or the one before, does not return."""
        if self._thread is not None and self._thread.is_alive():
            return TimeoutError("An earlier call has not returned yet")
        raised: list[BaseException] = []

        def run() -> None:
            try:
                call(self.logger)
            except BaseException as error:
                raised.append(error)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        self._thread.join(seconds)
        if self._thread.is_alive():
            return TimeoutError(f"It did not answer within {seconds:g} s")
        return raised[0] if raised else None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See `Logger`."""
        self.attempt(lambda logger: logger.log_metrics(metrics, step=step))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any):
        """See `Logger`."""
        self.attempt(lambda logger: logger.log_hyperparams(params, *args, **kwargs))

    def save(self) -> None:
        """See `Logger`."""
        self.attempt(lambda logger: logger.save())

    def finalize(self, status: str) -> None:
        """See `Logger`."""
        self.attempt(lambda logger: logger.finalize(status))

    def log_video(self, key: str, images: np.ndarray, path: Path, *, frames: int, fps: int) -> None:
        """See `RunLogger`; Lightning's loggers take no videos."""
        if isinstance(self.logger, RunLogger):
            self.attempt(lambda logger: logger.log_video(key, images, path, frames=frames, fps=fps))

    def truncate(self, frames: int) -> None:
        """See `RunLogger`."""
        if isinstance(self.logger, RunLogger):
            self.attempt(lambda logger: logger.truncate(frames))

    def finish(self, exit_code: int) -> None:
        """See `RunLogger`; Ctrl-C ends the wait."""
        if not isinstance(self.logger, RunLogger):
            return
        done = False
        try:
            seconds = FINISH_SECONDS + CALL_SECONDS
            done = self.attempt(lambda logger: logger.finish(exit_code), seconds)
        finally:
            if not done:
                self.logger.abandon()
