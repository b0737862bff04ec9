"""MLflow: metrics, parameters, and the run's agent and videos as artifacts.

A thread of its own sends everything, so that a slow server does not slow down the run. What a
server that is down does not take is kept and sent later; what it refuses is dropped.
"""

import importlib.util
import json
import logging
import os
import re
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import numpy as np
from filelock import FileLock

from dreamer.files import MLFLOW_ARTIFACTS, DamagedFile, read_json, warn_once, write_text
from dreamer.loggers.base import FINISH_SECONDS, RunDescription, RunLogger, agent_files
from dreamer.schema.types import doc

KEPT = 10_000  # entries that wait for the server at most; then the oldest are dropped
TRIES = 2  # of a call, while the server answers others
SETTINGS = {  # of MLflow, unless the environment has others
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # we send again what was not taken
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
BATCH = 100  # parameters in one request; MLflow's limit
LONGEST = 6000  # characters of a parameter; MLflow's limit
STATUS = {0: "FINISHED", 1: "FAILED"}  # by exit code; the others are signals
SWEEPS = "mlflow_sweeps.json"  # in the root folder: the parent run of each sweep, by its name

Call = Callable[["MlflowRun"], None]


class MlflowRun:
    """One run on the server. Every method is a request, which may raise or take long."""

    def __init__(self, client: Any, run_id: str, file: Path, frames: int = -1):
        """Use a run that exists.

        Args:
            client: `MlflowClient`.
            run_id: Id of the run.
            file: Keeps the id and the last frame count, for when the run is resumed.
            frames: Frame count up to which metrics were logged before the run was resumed.
        """
        self._client, self.id, self._file = client, run_id, file
        self._logged_before = self._frames = frames

    @classmethod
    def open(cls, address: str, experiment: str, file: Path, run: RunDescription) -> "MlflowRun":
        """Continue the run that the file names, or create one, also if it was deleted."""
        from mlflow.exceptions import MlflowException

        client = _client(address)
        known = _read(file)
        if known:
            try:
                if client.get_run(known["run_id"]).info.lifecycle_stage == "active":
                    client.update_run(known["run_id"], status="RUNNING")
                    return cls(client, known["run_id"], file, known["frames"])
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        experiment_id = _experiment(client, experiment, address, run.root)
        tags = {"env": run.env, "task": run.task, "variant": run.variant, "group": run.group}
        tags["seed"] = str(run.seed)
        if run.sweep:
            tags["mlflow.parentRunId"] = _parent(client, experiment_id, run.root, run.sweep)
        created = client.create_run(experiment_id, tags=tags, run_name=run.name)
        new = cls(client, created.info.run_id, file)
        new._save()
        new._log_parameters(run.parameters())
        return new

    def log_metrics(self, metrics: Mapping[str, float], frames: int, milliseconds: int) -> None:
        """Log numbers at a frame count, unless it was logged before the run was resumed."""
        from mlflow.entities import Metric

        if frames <= self._logged_before:
            return
        values = [Metric(key, float(x), milliseconds, frames) for key, x in metrics.items()]
        self._client.log_batch(self.id, metrics=values)
        if frames > self._frames:
            self._frames = frames
            self._save()

    def log_file(self, path: Path, folder: str) -> None:
        """Upload a file into a folder of the artifacts."""
        self._client.log_artifact(self.id, str(path), folder or None)

    def check(self) -> None:
        """Raise an exception if the server does not answer."""
        self._client.get_run(self.id)

    def finish(self, status: str) -> None:
        """End the run."""
        self._client.set_terminated(self.id, status)

    def _save(self) -> None:
        write_text(self._file, json.dumps({"run_id": self.id, "frames": self._frames}))

    def _log_parameters(self, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        items = [Param(key, str(value)[:LONGEST]) for key, value in parameters.items()]
        for start in range(0, len(items), BATCH):
            self._client.log_batch(self.id, params=items[start : start + BATCH])


class MlflowLogger(RunLogger):
    """Sends to MLflow from a thread; a failure is raised by the next call, for `GuardedLogger`.

    MLflow keeps what a killed run logged after its checkpoint. The resumed run does not log those
    frames again.
    """

    def __init__(self, run_dir: Path, connect: Callable[[], MlflowRun], *, artifacts: bool):
        """Log the run in a folder.

        Args:
            run_dir: The run folder.
            connect: Opens the run on the server; called in the thread when something was
                logged, until it succeeds.
            artifacts: Upload videos, and the agent at the end.
        """
        super().__init__()
        self._run_dir, self._connect, self._artifacts = run_dir, connect, artifacts
        self._run: MlflowRun | None = None
        self._waiting: deque[Call] = deque(maxlen=KEPT)
        self._sending: Future[None] | None = None  # None: nothing was logged yet
        self._refusal: Exception | None = None  # not raised yet

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "mlflow"

    @property
    def version(self) -> str | None:
        """Id of the run on the server; None before it is known."""
        return self._run and self._run.id

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any):
        """Do nothing: the configuration was logged when the run was created."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers at a count of frames or updates."""
        values, frames, now = dict(metrics), step or 0, int(1000 * time.time())
        self._put(lambda run: run.log_metrics(values, frames, now))

    def log_video(self, key: str, images: np.ndarray, path: Path, *, frames: int, fps: int) -> None:
        """Upload the video file."""
        if self._artifacts:
            self._put(lambda run: run.log_file(path, "videos"))

    def finish(self, exit_code: int) -> None:
        """Upload the agent, send what is left, and end the run, if it has logged anything."""
        if self._sending is None:
            return
        for path in agent_files(self._run_dir) if self._artifacts else ():
            folder = path.parent.relative_to(self._run_dir).as_posix().strip(".")
            self._waiting.append(lambda run, path=path, folder=folder: run.log_file(path, folder))
        status = STATUS.get(exit_code, "KILLED")
        self._waiting.append(lambda run: run.finish(status))
        wait([self._sending], FINISH_SECONDS)
        if not self._sending.done():
            raise TimeoutError(f"The server has not taken everything within {FINISH_SECONDS:g} s")
        self._sending = self._start()
        self._sending.result(FINISH_SECONDS)
        if self._refusal:
            raise self._refusal

    def abandon(self) -> None:
        """Drop what is left, so that the thread ends with its present call."""
        self._waiting.clear()

    def _put(self, call: Call) -> None:
        """Queue a call, and raise what the calls before have raised."""
        self._waiting.append(call)
        failure, self._refusal = self._refusal, None
        if self._sending is None or self._sending.done():
            failure = failure or (self._sending and self._sending.exception())
            self._sending = self._start()
        if failure:
            raise failure

    def _start(self) -> "Future[None]":
        """Send what waits in a thread, for which Python does not wait when it ends."""
        sending: Future[None] = Future()

        def send() -> None:
            try:
                self._send()
            except BaseException as error:
                sending.set_exception(error)
            else:
                sending.set_result(None)

        Thread(target=send, name="mlflow", daemon=True).start()
        return sending

    def _send(self) -> None:
        """Send what waits, in the thread; while the server is down, it keeps waiting.

        A call that the server refuses is dropped, or nothing would follow it.
        """
        if self._run is None:
            self._run = self._connect()
        while self._waiting:
            call = self._waiting[0]
            self._refusal = _refusal(call, self._run) or self._refusal
            with suppress(IndexError, ValueError):  # dropped meanwhile, as too many waited
                self._waiting.remove(call)


def _refusal(call: Call, run: MlflowRun) -> Exception | None:
    """Try a call, and return what it raises although the server answers; None if it succeeds."""
    refusal = None
    for _ in range(TRIES):
        try:
            call(run)
        except Exception as error:
            refusal = error
        else:
            return None
        run.check()
    return refusal


def make_mlflow(
    run_dir: Path,
    *,
    run: RunDescription,
    experiment: Annotated[str, doc("Experiment on MLflow.")],
    artifacts: Annotated[
        bool, doc("Upload the best agent at the end, and videos when they are made.")
    ],
) -> MlflowLogger:
    """Make an MLflow logger: for the server of MLFLOW_TRACKING_URI, else for a local database.

    The runs of a sweep are nested in a run of its name. To see local runs:
    `mlflow server --backend-store-uri sqlite:///runs/mlflow.db`.

    Args:
        run_dir: mlflow.json in it keeps the run's id, so that a resumed run continues there.
        run: What MLflow shows of the run.
        experiment: MLflow experiment.
        artifacts: Upload agent and videos.

    Raises:
        ImportError: MLflow is not installed; the message has the command.
    """
    run_dir, address = Path(run_dir), _address(run.root)
    if importlib.util.find_spec("mlflow") is None:
        raise ImportError("logger=mlflow needs `pip install -r requirements-mlflow.txt`")

    def connect() -> MlflowRun:
        run.root.mkdir(parents=True, exist_ok=True)
        return MlflowRun.open(address, experiment, run_dir / "mlflow.json", run)

    return MlflowLogger(run_dir, connect, artifacts=artifacts)


def log_report(root: Path, folder: Path) -> None:
    """Upload the files of a report to the sweeps below a root folder that have used MLflow."""
    parents = _parents(root / SWEEPS)
    if parents:
        client = _client(_address(root))
        for run_id in parents.values():
            client.log_artifacts(run_id, str(folder), "report")


def _read(file: Path) -> dict[str, Any] | None:
    """Return the id and the last frame count of a run that exists."""
    if not file.exists():
        return None
    try:
        known = read_json(file)
    except DamagedFile as error:
        warn_once(f"{error} The run gets a new id on MLflow.")
        return None
    if re.fullmatch("[0-9a-f]{32}", str(known.get("run_id"))) and type(known.get("frames")) is int:
        return known
    warn_once(f"{file} is damaged: it is no MLflow id. The run gets a new one.")
    return None


def _address(root: Path) -> str:
    """Return the server's address, or that of the local database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.absolute() / 'mlflow.db'}"


def _client(address: str) -> Any:
    """Connect to MLflow, which then neither waits long nor reports to its makers."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(address)


def _experiment(client: Any, name: str, address: str, root: Path) -> str:
    """Return the id of an experiment, which is created if necessary."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        local = address.startswith("sqlite:")
        folder = (root.absolute() / MLFLOW_ARTIFACTS).as_uri()
        place = folder if local else None  # else the server's
        try:
            return client.create_experiment(name, artifact_location=place)
        except MlflowException:  # another run has just created it
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id


def _parent(client: Any, experiment_id: str, root: Path, sweep: str) -> str:
    """Return the id of the run in which a sweep's runs are nested."""
    file = root / SWEEPS
    with FileLock(file.with_suffix(".lock")):
        known = _parents(file)
        if sweep not in known:
            created = client.create_run(experiment_id, run_name=sweep)
            client.set_terminated(created.info.run_id)
            known[sweep] = created.info.run_id
            write_text(file, json.dumps(known))
    return known[sweep]


def _parents(file: Path) -> dict[str, str]:
    """Return the ids of the parent runs of sweeps, by name."""
    if not file.exists():
        return {}
    try:
        return {sweep: str(run_id) for sweep, run_id in read_json(file).items()}
    except DamagedFile as error:
        warn_once(f"{error} The runs of sweeps that go on get a new parent on MLflow.")
        return {}
