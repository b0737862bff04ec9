"""Loggers: JSON lines, TensorBoard and Weights & Biases, all with frames as the x axis.

Runs build them from the configuration. They know no metric; only W&B's summary reads one, the
return.
"""

import hashlib
import json
import os
import secrets
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from dreamer.schema.types import doc
from dreamer.video import encode_gif, write_mp4

CALL_SECONDS = 60.0  # time that a logger has for one call
START_SECONDS = 30.0  # time that W&B has to connect; then the run is offline
END_SECONDS = 10.0  # time that W&B's service has to end after a failure
FINISH_SECONDS = 300.0  # time that W&B has to upload the rest; `wandb sync` does so later
RETURN = "collect/return"  # the raw return that W&B's summary normalises


class GuardedLogger(Logger):
    """Lets a logger fail or hang: the run continues, and the next call tries again.

    Calls run in a thread of their own. W&B is not called again once its service has ended.
    """

    def __init__(self, logger: Logger, on_failure: Callable[[str, BaseException], None]):
        """Guard `logger`; `on_failure` gets its name and what it raised."""
        super().__init__()
        self.logger, self._on_failure = logger, on_failure
        self._thread: threading.Thread | None = None  # of the latest call
        self._lost: ConnectionError | None = None
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
        if isinstance(self.logger, WandbLogger) and isinstance(error, ConnectionError):
            self._lost = error  # its service has ended, and does not come back
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
        """Drop the lines after a frame count, and incomplete lines of a killed process."""
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

    def __init__(
        self,
        run: Any,
        reference_returns: Mapping[str, float],
        start_failure: Exception | None = None,
    ):
        """Log to a W&B run.

        Args:
            run: W&B run.
            reference_returns: Those of a `VectorEnvs`.
            start_failure: Why the run is offline, although it was to be online.
        """
        super().__init__(experiment=run)
        self._references, self.start_failure = reference_returns, start_failure

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
    if not id_file.exists():
        id_file.write_text(secrets.token_hex(4))
    mode, problem = _choose_mode()

    def start(mode: str) -> Any:
        if mode == "offline":
            print(f"W&B is offline. To upload: `wandb sync {run_dir / 'wandb'}/offline-run-*`")
        return wandb.init(
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
            settings=_settings(),
        )

    try:
        run = start(mode)
    except Exception as error:  # no connection, or the key is refused
        if mode == "offline":
            raise
        problem, run = error, start("offline")
    id_file.write_text(run.id)  # an agent of a W&B sweep sets its own id
    run.define_metric("frames")
    run.define_metric("*", step_metric="frames")
    return SummarizingWandbLogger(run, reference_returns, problem)


def _choose_mode() -> tuple[str, Exception | None]:
    """Return W&B's mode, and what keeps it from being the one that was asked for."""
    asked = os.environ.get("WANDB_MODE")
    if asked not in (None, "", "online"):
        return asked, None
    try:
        has_key = _has_key()
    except Exception as error:  # the key is refused, or there is no connection
        return "offline", error
    if has_key:
        return "online", None
    if not asked:
        return "offline", None
    return "offline", ConnectionError(
        "WANDB_MODE is online, but there is no API key. Run `wandb login`, or set WANDB_API_KEY"
    )


def _settings() -> Any:
    """Return settings with which W&B neither prompts nor waits forever for its server."""
    import wandb

    known = vars(wandb.Settings(silent=True))
    limits: dict[str, Any] = {"init_timeout": START_SECONDS, "finish_timeout": FINISH_SECONDS}
    return wandb.Settings(silent=True, **{name: limits[name] for name in limits if name in known})


def _shorten(text: str, limit: int) -> str:
    """Shorten a text to W&B's limit; a hash keeps different texts different."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _has_key() -> bool:
    """Whether there is an API key, from the environment or from `wandb login`; W&B checks it."""
    import wandb

    return wandb.login(prompt=False)


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

    def log_to(logger: Logger) -> None:
        if isinstance(logger, WandbLogger):
            import wandb

            video = wandb.Video(str(path), format="mp4")
            logger.experiment.log({"frames": frames, key: video}, step=frames)
        elif isinstance(logger, TensorBoardLogger):
            _add_gif(logger, key, images, frames, fps)

    write_mp4(path, images, fps=fps)
    for logger in loggers:
        _attempt(logger, log_to)


def truncate(loggers: list[Logger], frames: int) -> None:
    """Drop the lines that an interrupted run wrote after its checkpoint's frame."""

    def truncate_one(logger: Logger) -> None:
        if isinstance(logger, JsonLinesLogger):
            logger.truncate(frames)

    for logger in loggers:
        _attempt(logger, truncate_one)


def finish(loggers: list[Logger], *, exit_code: int) -> None:
    """Finish the W&B run, so that the next job of a multirun does not log to it.

    Args:
        loggers: Of the run.
        exit_code: 0: finished; 1: failed; 128 + n: stopped by signal n, so that it can be
            resumed, as W&B's sweeps do.
    """

    def finish_one(logger: Logger) -> None:
        if isinstance(logger, WandbLogger):
            if exit_code > 128:
                logger.experiment.mark_preempting()
            logger.experiment.finish(exit_code)

    for logger in loggers:
        if not _attempt(logger, finish_one, FINISH_SECONDS + CALL_SECONDS):
            _forget_service(logger)


def _forget_service(logger: Logger) -> None:
    """End W&B's service after a failure; Python would wait for it, or print a traceback."""

    def end() -> None:
        import wandb

        with suppress(Exception):  # that of the failure
            wandb.teardown()

    inner = logger.logger if isinstance(logger, GuardedLogger) else logger
    if isinstance(inner, WandbLogger):
        thread = threading.Thread(target=end, daemon=True)
        thread.start()
        thread.join(END_SECONDS)


def _attempt(logger: Logger, call: Callable[[Any], None], seconds: float = CALL_SECONDS) -> bool:
    """Call a function of a logger, which may be guarded; return whether it succeeded."""
    if isinstance(logger, GuardedLogger):
        return logger.attempt(call, seconds)
    call(logger)
    return True


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
