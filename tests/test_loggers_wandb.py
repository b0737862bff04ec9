"""Weights & Biases, read back from the files that its offline runs leave behind."""

import json
import multiprocessing
import signal
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from descriptions import described

from dreamer.callbacks.interrupt import Interrupted
from dreamer.envs.atari_scores import reference_returns
from dreamer.envs.dummy import MemoryEnvs
from dreamer.loggers import GuardedLogger, finish, log_metrics, log_video, make_wandb
from dreamer.loggers.base import AGENT_FILES
from dreamer.loggers.wandb import SummarizingWandbLogger, _shorten
from dreamer.run.remote import local_folder
from dreamer.run.train import train
from experiments import dashboard, scores

FRAMES = 2 * 10**8  # float32 knows no odd number of this size


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ------------------------------------------------------------------------- reading it back


class OfflineRun(NamedTuple):
    """One offline run's records, in the order in which they were written."""

    records: list

    @property
    def settings(self):
        """What the run was begun with."""
        return next(r.run for r in self.records if r.HasField("run"))

    @property
    def config(self) -> dict:
        return {u.key: json.loads(u.value_json) for u in self.settings.config.update}

    @property
    def history(self) -> list[dict]:
        return [
            {_key(item): json.loads(item.value_json) for item in r.history.item}
            for r in self.records
            if r.HasField("history")
        ]

    @property
    def summary(self) -> dict:
        """What the table of runs shows: the newest value of every key."""
        updates = [u for r in self.records if r.HasField("summary") for u in r.summary.update]
        return {_key(update): json.loads(update.value_json) for update in updates}

    @property
    def artifacts(self) -> list:
        """What is uploaded at the end."""
        return [r.request.log_artifact.artifact for r in self.records if r.HasField("request")] + [
            r.artifact for r in self.records if r.HasField("artifact")
        ]

    @property
    def exit_code(self) -> int:
        return next(r.exit.exit_code for r in self.records if r.HasField("exit"))

    @property
    def goes_on(self) -> bool:
        """Whether W&B shows it as preempted instead of failed."""
        return any(r.HasField("preempting") for r in self.records)


def _key(item) -> str:
    return ".".join(item.nested_key) or item.key


def offline_runs(run_dir: Path) -> list[OfflineRun]:
    """The offline runs in a folder, oldest first: LevelDB's log format behind 7 bytes."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits until its service has written everything
    runs = []
    for path in sorted(
        run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime
    ):
        data, at, payload, records = path.read_bytes(), 7, b"", []
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:  # a block's rest is too short for a header
                at += 32768 - at % 32768
                continue
            length, kind = struct.unpack_from("<HB", data, at + 4)
            payload += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # full, or the last piece
                records.append(Record.FromString(payload))
                payload = b""
        runs.append(OfflineRun(records))
    return runs


# ------------------------------------------------------------------------------ its parts


class FakeRun:
    """W&B's run, as far as the logger uses it."""

    def __init__(self):
        self.rows, self.summary, self.ended = [], {}, []

    def log(self, row, step):
        self.rows.append((step, row))

    def mark_preempting(self):
        self.ended.append("preempting")

    def finish(self, exit_code):
        self.ended.append(exit_code)


def test_the_summary_sets_the_newest_return_beside_known_players():
    run = FakeRun()
    logger = SummarizingWandbLogger(run, reference_returns("pong"))
    log_metrics([logger], {"collect/return": -20.7}, 10)
    assert run.summary == {"score/gamer_normalised": 0, "score/record_normalised": 0}
    log_metrics([logger], {"collect/return": 14.6, "actor/loss": 0.5}, 20)
    log_metrics([logger], {"actor/loss": 0.25}, 30)
    assert run.summary == {
        "score/gamer_normalised": scores.normalize(14.6, -20.7, 14.6),
        "score/record_normalised": scores.normalize(14.6, -20.7, 21.0),
    }
    assert run.rows[1:] == [
        (20, {"frames": 20, "collect/return": 14.6, "actor/loss": 0.5}),
        (30, {"frames": 30, "actor/loss": 0.25}),
    ]


def test_a_game_without_known_players_has_no_normalised_score():
    run = FakeRun()
    log_metrics(
        [SummarizingWandbLogger(run, reference_returns("tetris"))], {"collect/return": 3}, 1
    )
    assert run.summary == {}


@pytest.mark.parametrize(
    ("exit_code", "ended"), [(0, [0]), (1, [1]), (130, ["preempting", 130])], ids=str
)
def test_only_a_run_that_a_signal_stopped_is_one_that_goes_on(exit_code, ended):
    run = FakeRun()
    finish([SummarizingWandbLogger(run, {})], exit_code=exit_code)
    assert run.ended == ended


def test_a_run_ends_although_its_agent_cannot_be_uploaded(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").touch()  # there is no config.yaml
    run, reported = FakeRun(), []
    run.id = "1a2b"
    logger = SummarizingWandbLogger(run, {}, artifacts=tmp_path)
    guarded = GuardedLogger(logger, lambda name, error: reported.append(str(error)))
    guarded.logger.abandon = lambda: None  # would end the service of other tests
    finish([guarded], exit_code=130)
    assert run.ended == ["preempting", 130]
    assert len(reported) == 1 and "config.yaml" in reported[0]


def test_names_are_cut_to_what_wandb_takes_and_stay_different():
    assert _shorten("atari/pong/dreamerv2", 20) == "atari/pong/dreamerv2"
    long, longer = "x" * 65, "x" * 66
    assert len(_shorten(long, 64)) == len(_shorten(longer, 64)) == 64
    assert _shorten(long, 64) != _shorten(longer, 64)


class FakeApi:
    """W&B's public interface with one artifact; it downloads by writing files."""

    def artifact(self, name, type):
        import wandb

        if (name, type) != ("team/pong/agent-1a2b:latest", "model"):
            raise wandb.errors.CommError(f"artifact {name} not found")
        return self

    def download(self, root):
        Path(root, "config.yaml").parent.mkdir(parents=True)
        Path(root, "config.yaml").write_text("seed: 0")
        return root


def test_the_agent_of_a_run_at_wandb_is_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr("wandb.Api", FakeApi)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = local_folder("wandb:team/pong/1a2b")
    assert tmp_path in folder.parents and (folder / "config.yaml").read_text() == "seed: 0"
    with pytest.raises(FileNotFoundError, match="team/pong/agent-3c4d:latest: artifact .* not"):
        local_folder("wandb:team/pong/3c4d")


@pytest.mark.parametrize("address", ["wandb:", "wandb:a/b", "wandb:a/../c", "wandb:/etc/a/b"])
def test_an_address_must_be_that_of_a_run(address):
    with pytest.raises(ValueError, match=r"`run_dir` must be as in wandb:<entity>.* got"):
        local_folder(address)


# -------------------------------------------------------------------------------- offline


def run_wandb_jobs(root: str) -> None:
    """Twice the same run, in a process of its own: W&B leaves threads and a service behind."""
    import os

    os.chdir(root)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ["HOME"] = os.environ["WANDB_CONFIG_DIR"] = root  # no key here
    for frames, value in ((FRAMES - 1, 0.5), (FRAMES + 1, 1.5)):
        logger = make_wandb(
            Path(root) / "run",
            run=described(),
            project="dreamerv2",
            tags=["t" * 65],
            artifacts=True,
        )
        log_metrics([logger], {"actor/loss": value}, frames)
        video = np.zeros((3, 16, 16, 3), np.uint8)
        path = Path(root) / "run" / "videos" / f"{frames}.mp4"
        for name in AGENT_FILES:
            (Path(root) / "run" / name).parent.mkdir(exist_ok=True)
            (Path(root) / "run" / name).write_text(name)
        log_video([logger], "video/policy", video, path, frames=frames, fps=5)
        finish([logger], exit_code=0)


@pytest.mark.slow
def test_wandb_writes_offline_without_a_key_and_goes_on_under_the_same_id(tmp_path):
    (tmp_path / "run").mkdir()
    process = multiprocessing.get_context("spawn").Process(
        target=run_wandb_jobs, args=(str(tmp_path),)
    )
    process.start()
    process.join(120)
    assert process.exitcode == 0

    runs = offline_runs(tmp_path / "run")
    assert len(runs) == 2
    id_ = (tmp_path / "run" / "wandb_id").read_text()
    for run, (frames, loss) in zip(runs, ((FRAMES - 1, 0.5), (FRAMES + 1, 1.5)), strict=True):
        settings = run.settings
        assert (settings.run_id, settings.project) == (id_, "dreamerv2")
        assert (settings.run_group, settings.job_type) == ("dummy/memory/no_kl", "no_kl")
        assert settings.display_name == "no_kl-memory-seed3"
        assert list(settings.tags)[:3] == ["dummy", "memory", "no_kl"]
        assert run.config["batch"] == {"size": 3} and run.config["variant"] == "no_kl"
        assert run.exit_code == 0
        logged = {a.name: {e.path for e in a.manifest.contents} for a in run.artifacts}
        assert logged[f"agent-{id_}"] == set(AGENT_FILES)
        assert f"videos/{frames}.mp4" in logged[f"videos-{id_}"]
        (row,) = run.history
        assert (row["frames"], row["_step"], row["actor/loss"]) == (frames, frames, loss)
        assert row["video/policy._type"] == "video-file"
        steps = {r.metric.glob_name or r.metric.name: r.metric.step_metric for r in run.records}
        assert steps["*"] == "frames"
    videos = [p.name for p in tmp_path.glob("run/wandb/offline-run-*/files/media/videos/**/*.mp4")]
    assert len(videos) == 2
    outside = [
        p for p in tmp_path.rglob("wandb") if p.is_dir() and tmp_path / "run" not in p.parents
    ]
    assert [p for p in outside if any(p.glob("*run-*"))] == []


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.slow
def test_a_whole_run_reads_as_one_seed_of_a_variant_on_a_task(
    compose_any, tiny_overrides, tmp_path, offline
):
    import wandb

    filmed = [word for word in tiny_overrides if "video" not in word]
    summary = train(
        compose_any(*filmed, "logger=[jsonl,wandb]", "kl_balance=false", "batch.length=12")
    )
    assert wandb.run is None  # the next job of a multirun begins its own
    run_dir = Path(summary.run_dir)
    (run,) = offline_runs(run_dir)

    settings = run.settings
    assert settings.run_group == "dummy/memory/debug-kl_balance_false"
    assert settings.job_type == "debug-kl_balance_false"
    assert settings.display_name == "debug-kl_balance_false-memory-seed0"
    assert list(settings.tags) == ["dummy", "memory", "debug-kl_balance_false"]
    grid = {key: run.config[key] for key in dashboard.GRID}
    assert list(grid.values()) == ["dummy", "memory", "debug-kl_balance_false", 0]
    assert run.config["batch"] == {"size": 4, "length": 12}

    json_lines = lines(run_dir / "metrics.jsonl")
    written = {}  # W&B joins what has one frame count
    for line in json_lines:
        written.setdefault(line["frames"], {}).update(line)
    rows = [
        {k: x for k, x in row.items() if k[0] != "_" and not k.startswith("video/")}
        for row in run.history
    ]
    assert rows == list(written.values())

    latest = {key: value for line in json_lines for key, value in line.items()}
    assert {"collect/return", "collect/best_return", "eval/return_mean"} <= latest.keys()
    assert {"perf/frames_per_second", "perf/updates_per_second"} <= latest.keys()
    assert {key: run.summary[key] for key in latest} == latest
    assert run.summary["score/optimum_normalised"] == latest["collect/return"] / 2
    films = [key for row in run.history for key, x in row.items() if x == "video-file"]
    assert set(films) == {f"{film.key}._type" for film in dashboard.TASK_VIDEOS}
    assert len(films) == len(list(run_dir.glob("wandb/offline-*/files/media/videos/**/*.mp4")))
    assert (run.exit_code, run.goes_on) == (0, False)
    assert {path.name for path in tmp_path.iterdir()} == {"dummy"}  # nothing beside the runs


@pytest.mark.slow
def test_a_run_that_fails_is_marked_failed(compose_tiny, tmp_path, offline, monkeypatch):
    import wandb

    monkeypatch.setattr(MemoryEnvs, "step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(compose_tiny("logger=wandb"))
    (run,) = offline_runs(tmp_path / "dummy/memory/debug/seed0")
    assert (run.exit_code, run.goes_on) == (1, False)
    assert wandb.run is None


@pytest.mark.slow
def test_a_run_that_is_refused_begins_none_there(compose_tiny, tmp_path, offline):
    with pytest.raises(Exception, match="tpus"):
        train(compose_tiny("logger=wandb", "trainer.accelerator=tpus"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_interrupted_run_goes_on_under_its_id_where_it_was(
    compose_tiny, tmp_path, offline, monkeypatch
):
    cfg = compose_tiny("logger=wandb")
    step, made = MemoryEnvs.step, []

    def step_with_signal(envs, action):
        made.append(1)
        if len(made) == 70:
            signal.raise_signal(signal.SIGTERM)
        return step(envs, action)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryEnvs, "step", step_with_signal)
        with pytest.raises(Interrupted):
            train(cfg)
    train(cfg)
    stopped, resumed = offline_runs(tmp_path / "dummy/memory/debug/seed0")
    assert stopped.settings.run_id == resumed.settings.run_id
    assert (stopped.exit_code, stopped.goes_on) == (128 + signal.SIGTERM, True)
    assert (resumed.exit_code, resumed.goes_on) == (0, False)
    frames = [row["frames"] for run in (stopped, resumed) for row in run.history]
    assert frames == sorted(set(frames))


@pytest.mark.slow
def test_a_job_of_a_wandb_sweep_is_the_run_that_its_agent_began(
    compose_tiny, tmp_path, offline, monkeypatch
):
    import wandb

    wandb.teardown()  # the next one reads what an agent sets
    monkeypatch.setenv("WANDB_SWEEP_ID", "grid")
    monkeypatch.setenv("WANDB_RUN_ID", "brought")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "parameters.yaml"))
    (tmp_path / "parameters.yaml").write_text("wandb_version: 1\nlatents:\n  value: gaussian\n")
    train(compose_tiny("logger=wandb", "latents=gaussian"))
    run_dir = tmp_path / "dummy/memory/debug-latents_gaussian/seed0"
    (run,) = offline_runs(run_dir)
    assert (run.settings.run_id, run.settings.sweep_id) == ("brought", "grid")
    assert (run_dir / "wandb_id").read_text() == "brought"
    assert (run.config["latents"], run.config["task"]) == ("gaussian", "memory")


# ------------------------------------------------------------------------- without a server


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Start a logger with a W&B that fails online; returns the modes that were tried."""
    import wandb

    def start(problem=None):
        modes = []

        def init(**options):
            modes.append(options["mode"])
            if options["mode"] == "online" and problem:
                raise problem
            run = FakeRun()
            run.id, run.define_metric = options["id"], lambda *_, **__: None
            return run

        monkeypatch.setattr(wandb, "init", init)
        return make_wandb(tmp_path, run=described(), project="p", tags=[]), modes

    return start


def test_an_unreachable_server_means_offline(started, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr("dreamer.loggers.wandb._has_key", lambda: True)
    logger, modes = started(TimeoutError("no answer within 30 s"))
    assert modes == ["online", "offline"]
    reported = []
    GuardedLogger(logger, lambda *failure: reported.append(failure))
    assert reported == [("the logger SummarizingWandbLogger", logger.start_failure)]


def test_online_without_a_key_means_offline_and_no_prompt(started, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr("dreamer.loggers.wandb._has_key", lambda: False)
    logger, modes = started()
    assert modes == ["offline"]
    assert "WANDB_MODE is online, but there is no API key" in str(logger.start_failure)


def test_a_key_that_cannot_be_checked_means_offline(started, monkeypatch):
    refused = OSError("no connection")

    def login(prompt):
        raise refused

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("wandb.login", login)
    logger, modes = started()
    assert (modes, logger.start_failure) == (["offline"], refused)


def test_a_service_that_has_ended_is_not_called_again_and_ends(monkeypatch):
    calls, reported, ended = [], [], []

    class Ended(FakeRun):
        def log(self, *args, **options):
            calls.append(args)
            raise ConnectionResetError("Connection lost")

    monkeypatch.setattr("wandb.teardown", lambda: ended.append(1))
    inner = SummarizingWandbLogger(Ended(), {})
    logger = GuardedLogger(inner, lambda name, error: reported.append(str(error)))
    for frames in (5, 6):
        log_metrics([logger], {"a": 1.0}, frames)
    finish([logger], exit_code=0)
    assert len(calls) == 1
    assert reported == ["Connection lost"] * 3
    assert ended == [1]
