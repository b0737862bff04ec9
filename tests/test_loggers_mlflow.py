"""MLflow: what a real server holds of runs, and what happens while there is none."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from descriptions import described

from dreamer.loggers import GuardedLogger, finish, log_metrics, log_video
from dreamer.loggers.mlflow import MlflowLogger, _parent, log_report, make_mlflow
from dreamer.run.train import train

# ------------------------------------------------------------------------ without a server


class FakeServer:
    """A run on a server that can be down, or slow."""

    def __init__(self):
        self.id, self.taken, self.down = "1a2b", [], False
        self.has_store = True  # for files
        self.free = threading.Event()
        self.free.set()

    def connect(self):
        self._answer("connect")
        return self

    def log_metrics(self, metrics, frames, milliseconds):
        self._answer((frames, metrics))

    def log_file(self, path, folder):
        if not self.has_store:
            raise ImportError("boto3")
        self._answer((folder, path.name))

    def finish(self, status):
        self._answer(status)

    def check(self):
        if self.down:
            raise ConnectionError("down")

    def _answer(self, call):
        self.free.wait(10)
        if self.down:
            raise ConnectionError("down")
        self.taken.append(call)


@pytest.fixture
def server():
    return FakeServer()


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def idle(logger):
    return lambda: logger._sending.done()


def test_what_a_server_that_is_down_does_not_take_is_sent_later(server, tmp_path):
    failures = []
    logger = MlflowLogger(tmp_path, server.connect, artifacts=True)
    guarded = GuardedLogger(logger, lambda name, error: failures.append((name, str(error))))
    server.down = True
    for frames in (10, 20, 30):
        log_metrics([guarded], {"a": 1.0}, frames)
        wait_for(idle(logger))
    assert failures == [("the logger MlflowLogger", "down")] * 2  # the third is not yet raised
    server.down = False
    log_metrics([guarded], {"a": 2.0}, 40)
    finish([guarded], exit_code=0)
    rows = [(frames, {"a": 1.0}) for frames in (10, 20, 30)]
    assert server.taken == ["connect", *rows, (40, {"a": 2.0}), "FINISHED"]


def test_a_slow_server_does_not_hold_up_the_run(server, tmp_path):
    logger = MlflowLogger(tmp_path, server.connect, artifacts=False)
    server.free.clear()
    for frames in range(100):
        log_metrics([logger], {"a": 1.0}, frames)  # returns although nothing was taken
    assert server.taken == []
    server.free.set()
    finish([logger], exit_code=130)
    assert [call[0] for call in server.taken[1:-1]] == list(range(100))
    assert server.taken[-1] == "KILLED"


def test_videos_and_the_last_agent_are_uploaded(server, tmp_path):
    for name in ("config.yaml", "spaces.json", "checkpoints/last.ckpt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    logger = MlflowLogger(tmp_path, server.connect, artifacts=True)
    video, path = np.zeros((3, 16, 16, 3), np.uint8), tmp_path / "videos" / "policy.mp4"
    log_video([logger], "video/policy", video, path, frames=10, fps=5)
    finish([logger], exit_code=1)
    files = [("videos", "policy.mp4"), ("", "config.yaml"), ("", "spaces.json")]
    assert server.taken == ["connect", *files, ("checkpoints", "last.ckpt"), "FAILED"]


def test_files_that_the_server_refuses_hold_up_nothing(server, tmp_path):
    for name in ("config.yaml", "spaces.json", "checkpoints/last.ckpt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    failures = []
    logger = MlflowLogger(tmp_path, server.connect, artifacts=True)
    guarded = GuardedLogger(logger, lambda name, error: failures.append(str(error)))
    server.has_store = False
    video, path = np.zeros((3, 16, 16, 3), np.uint8), tmp_path / "videos" / "policy.mp4"
    log_video([guarded], "video/policy", video, path, frames=10, fps=5)
    wait_for(idle(logger))
    log_metrics([guarded], {"a": 1.0}, 20)
    wait_for(idle(logger))
    finish([guarded], exit_code=0)
    assert server.taken == ["connect", (20, {"a": 1.0}), "FINISHED"]
    assert failures == ["boto3"] * 2  # of the video, and of the agent


def test_the_last_refusal_is_reported_although_the_rest_is_sent(server, tmp_path):
    logger = MlflowLogger(tmp_path, server.connect, artifacts=True)
    server.has_store = False
    video, path = np.zeros((3, 16, 16, 3), np.uint8), tmp_path / "videos" / "policy.mp4"
    log_video([logger], "video/policy", video, path, frames=10, fps=5)
    wait_for(idle(logger))
    with pytest.raises(ImportError, match="boto3"):
        finish([logger], exit_code=0)
    assert server.taken == ["connect", "FINISHED"]


def test_what_waits_survives_a_server_that_goes_down_later(server, tmp_path):
    logger = MlflowLogger(tmp_path, server.connect, artifacts=False)
    log_metrics([logger], {"a": 1.0}, 10)
    wait_for(idle(logger))
    server.down = True
    log_metrics([logger], {"a": 1.0}, 20)
    wait_for(idle(logger))
    server.down = False
    with pytest.raises(ConnectionError):
        log_metrics([logger], {"a": 1.0}, 30)
    finish([logger], exit_code=0)
    assert server.taken[1:] == [*((frames, {"a": 1.0}) for frames in (10, 20, 30)), "FINISHED"]


def test_a_server_that_hangs_does_not_keep_the_process_from_ending(server, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamer.loggers.mlflow.FINISH_SECONDS", 0.1)
    failures = []
    logger = MlflowLogger(tmp_path, server.connect, artifacts=False)
    guarded = GuardedLogger(logger, lambda name, error: failures.append(type(error)))
    server.free.clear()
    for frames in (10, 20, 30):
        log_metrics([guarded], {"a": 1.0}, frames)
    finish([guarded], exit_code=0)
    assert failures == [TimeoutError]
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("mlflow")]
    assert threads and all(thread.daemon for thread in threads)
    server.free.set()
    for thread in threads:
        thread.join(10)
    assert server.taken == ["connect"]  # the rest was dropped


def test_a_run_that_has_logged_nothing_does_not_appear(server, tmp_path):
    finish([MlflowLogger(tmp_path, server.connect, artifacts=True)], exit_code=1)
    assert server.taken == []


def test_the_command_for_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install -r requirements-mlflow\.txt"):
        make_mlflow(tmp_path, run=described(), experiment="dreamerv2", artifacts=True)


def test_a_damaged_list_of_sweeps_costs_only_the_list(tmp_path):
    created = SimpleNamespace(info=SimpleNamespace(run_id="2b"))
    client = SimpleNamespace(
        create_run=lambda *_, **__: created, set_terminated=lambda run_id: None
    )
    sweeps = tmp_path / "mlflow_sweeps.json"
    sweeps.write_text('{"sweep demo": "1a')  # of a killed process
    log_report(tmp_path, tmp_path)  # to no sweep
    assert [_parent(client, "0", tmp_path, "sweep demo") for _ in range(2)] == ["2b"] * 2
    assert json.loads(sweeps.read_text()) == {"sweep demo": "2b"}


# --------------------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of an MLflow server on this machine."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    variables = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # dozens of processes that are not needed
    }
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=variables, start_new_session=True
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 180
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)


@pytest.fixture
def client(address, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return MlflowClient(address)


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_server_holds_a_run_and_its_resumption(compose_tiny, client):
    first = train(compose_tiny("logger=[jsonl,mlflow]", "env.rounds=1"))
    train(compose_tiny("logger=[jsonl,mlflow]", "env.rounds=1", "total_frames=97"))
    run_dir = Path(first.run_dir)
    run = client.get_run(json.loads((run_dir / "mlflow.json").read_text())["run_id"])
    assert run.info.status == "FINISHED" and run.info.run_name == "debug-memory-seed0"
    tags = {key: run.data.tags[key] for key in ("env", "task", "variant", "seed")}
    assert tags == {"env": "dummy", "task": "memory", "variant": "debug", "seed": "0"}
    assert run.data.params["batch.length"] == "16" and run.data.params["total_frames"] == "81"
    for key in ("collect/return", "eval/return_mean", "actor/loss"):
        history = client.get_metric_history(run.info.run_id, key)
        logged = {m.step: m.value for m in history}
        rows = lines(run_dir / "metrics.jsonl")
        assert logged == pytest.approx({row["frames"]: row[key] for row in rows if key in row})
        assert len(history) == len(logged) and max(logged) in (96, 97)
    checkpoints = client.list_artifacts(run.info.run_id, "checkpoints")
    assert [file.path for file in checkpoints] == ["checkpoints/best.ckpt"]


@pytest.mark.slow
def test_the_runs_of_a_sweep_are_nested_and_get_its_report(client, tmp_path):
    ids = []
    for seed in (0, 1):
        run_dir = tmp_path / f"seed{seed}"
        run_dir.mkdir()
        run = described(root=tmp_path, seed=seed, sweep="sweep demo")
        logger = make_mlflow(run_dir, run=run, experiment="sweeps", artifacts=False)
        log_metrics([logger], {"eval/return_mean": 1.0}, 10)
        finish([logger], exit_code=0)
        ids.append(json.loads((run_dir / "mlflow.json").read_text())["run_id"])
    parents = {client.get_run(id_).data.tags["mlflow.parentRunId"] for id_ in ids}
    (parent,) = parents
    assert client.get_run(parent).info.run_name == "sweep demo"
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<p>")
    log_report(tmp_path, tmp_path / "report")
    assert [file.path for file in client.list_artifacts(parent, "report")] == ["report/index.html"]


@pytest.mark.slow
def test_a_run_without_its_server_ends_well(compose_tiny, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.warns(UserWarning, match="MlflowLogger"):
            summary = train(compose_tiny("logger=[jsonl,mlflow]"))
    rows = lines(Path(summary.run_dir) / "metrics.jsonl")
    assert summary.frames == 81 and max(row.get("logger/failures", 0) for row in rows) > 0


@pytest.mark.slow
def test_without_a_server_runs_go_to_a_local_database(monkeypatch, tmp_path):
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    logger = make_mlflow(tmp_path, run=described(root=tmp_path), experiment="x", artifacts=False)
    log_metrics([logger], {"a": 1.5}, 10)
    finish([logger], exit_code=0)
    run_id = json.loads((tmp_path / "mlflow.json").read_text())["run_id"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(run_id)
    assert run.data.metrics == {"a": 1.5} and run.info.status == "FINISHED"

    client.delete_run(run_id)
    resumed = make_mlflow(tmp_path, run=described(root=tmp_path), experiment="x", artifacts=False)
    log_metrics([resumed], {"a": 2.5}, 20)
    finish([resumed], exit_code=0)
    new_id = json.loads((tmp_path / "mlflow.json").read_text())["run_id"]
    assert new_id != run_id and client.get_run(new_id).data.metrics == {"a": 2.5}
