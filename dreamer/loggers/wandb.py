"""Weights & Biases: metrics, videos, and the best agent as an artifact.

Online with an API key, else offline in the run folder.
"""

import hashlib
import os
import re
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pytorch_lightning.loggers import WandbLogger

from dreamer.files import move_aside, warn_once, write_text
from dreamer.loggers.base import FINISH_SECONDS, RunDescription, RunLogger, agent_files
from dreamer.schema.types import doc

START_SECONDS = 30.0  # time that W&B has to connect; then the run is offline
END_SECONDS = 10.0  # time that W&B's service has to end after a failure
RETURN = "collect/return"  # the raw return that W&B's summary normalises


class SummarizingWandbLogger(WandbLogger, RunLogger):
    """W&B with frames or updates as its step; its summary also normalises the latest return.

    W&B accepts increasing steps only, and merges entries of the same step. So it keeps what a
    killed run logged after its checkpoint, and drops what the resumed run logs for those steps.

    Elsewhere only `experiments/scores.py` normalises. W&B's table of runs cannot compute, so its
    summary holds `score/<player>_normalised`.
    """

    lost_after = ConnectionError  # its service has ended, and does not come back

    def __init__(
        self,
        run: Any,
        reference_returns: Mapping[str, float],
        start_failure: Exception | None = None,
        artifacts: Path | None = None,
        counter: str = "frames",
    ):
        """Log to a W&B run.

        Args:
            run: W&B run.
            reference_returns: Those of a `VectorEnvs`.
            start_failure: Why the run is offline, although it was to be online.
            artifacts: The run folder, if its agent and videos are to be uploaded at the end.
            counter: Name of the x axis.
        """
        super().__init__(experiment=run)
        self._counter = counter
        self._references, self.start_failure = reference_returns, start_failure
        self._artifacts = artifacts

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers at a count of frames or updates."""
        self.experiment.log({**metrics, self._counter: step}, step=step)
        if RETURN in metrics:
            self.experiment.summary.update(self._scores(metrics[RETURN]))

    def log_video(self, key: str, images: np.ndarray, path: Path, *, frames: int, fps: int) -> None:
        """Upload the video file."""
        import wandb

        video = wandb.Video(str(path), format="mp4")
        self.experiment.log({self._counter: frames, key: video}, step=frames)

    def finish(self, exit_code: int) -> None:
        """Upload the agent and the videos, and end the run even if that fails."""
        try:
            if self._artifacts:
                self._log_artifacts(self._artifacts)
        finally:
            if exit_code > 128:
                self.experiment.mark_preempting()
            self.experiment.finish(exit_code)

    def abandon(self) -> None:
        """End W&B's service after a failure; Python would wait for it, or print a traceback."""

        def end() -> None:
            import wandb

            with suppress(Exception):  # that of the failure
                wandb.teardown()

        thread = threading.Thread(target=end, daemon=True)
        thread.start()
        thread.join(END_SECONDS)

    def _log_artifacts(self, run_dir: Path) -> None:
        """Log the agent as `agent-<run id>`, and all videos as `videos-<run id>`."""
        import wandb

        for name, kind, files in (
            ("agent", "model", agent_files(run_dir)),
            ("videos", "videos", sorted(run_dir.glob("videos/*.mp4"))),
        ):
            if files:
                artifact = wandb.Artifact(f"{name}-{self.experiment.id}", type=kind)
                for path in files:
                    artifact.add_file(str(path), name=path.relative_to(run_dir).as_posix())
                self.experiment.log_artifact(artifact)

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
    run: RunDescription,
    project: Annotated[str, doc("Project on W&B.")],
    tags: Annotated[list[str], doc("More tags to filter by.")],
    artifacts: Annotated[
        bool | Literal["auto"],
        doc("Upload the best agent and the videos at the end; auto: if the run is online."),
    ] = "auto",
) -> SummarizingWandbLogger:
    """Make a W&B logger: online with an API key, else offline in the run folder.

    W&B draws one curve per group, the mean of its runs. So a group contains the seeds of one
    variant on one task, like a run folder's parent. The job type is the variant, over all tasks.

    Args:
        run_dir: Stores the run's id, so that a resumed run keeps it.
        run: What W&B shows of the run.
        project: W&B project.
        tags: W&B tags, beside environment, task and variant.
        artifacts: Whether agent and videos become artifacts at the end.
    """
    import wandb

    run_dir = Path(run_dir)
    id_file = run_dir / "wandb_id"
    run_id = _read_id(id_file)
    write_text(id_file, run_id)
    mode, problem = _choose_mode()

    def start(mode: str) -> Any:
        if mode == "offline":
            print(f"W&B is offline. To upload: `wandb sync {run_dir / 'wandb'}/offline-run-*`")
        return wandb.init(
            project=project,
            group=_shorten(run.group, 128),
            job_type=_shorten(run.variant, 64),
            name=_shorten(run.name, 128),
            tags=[_shorten(tag, 64) for tag in (run.env, run.task, run.variant, *tags)],
            config={**run.config, "variant": run.variant},
            dir=run_dir,
            id=run_id,
            resume="allow",
            mode=mode,  # pyright: ignore[reportArgumentType]
            settings=_settings(),
        )

    try:
        experiment = start(mode)
    except Exception as error:  # no connection, or the key is refused
        if mode == "offline":
            raise
        mode, problem, experiment = "offline", error, start("offline")
    write_text(id_file, experiment.id)  # an agent of a W&B sweep sets its own id
    experiment.define_metric(run.counter)
    experiment.define_metric("*", step_metric=run.counter)
    uploads = mode == "online" if artifacts == "auto" else artifacts
    folder = run_dir if uploads else None
    return SummarizingWandbLogger(experiment, run.reference_returns, problem, folder, run.counter)


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
    """Whether there is an API key, from the environment or from `wandb login`; W&B checks it."""
    import wandb

    return wandb.login(prompt=False)
