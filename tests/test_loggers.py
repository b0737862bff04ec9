"""Where metrics go, read back from what lies on the disk."""

import json
import multiprocessing
import struct
from pathlib import Path

import numpy as np
import pytest

from dreamer.loggers import JsonLinesLogger, log_metrics, log_video, make_tensorboard, make_wandb
from dreamer.runner import train

FRAMES = 2 * 10**8  # float32 knows no odd number of this size


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ------------------------------------------------------------------------------- JSON lines


def test_json_lines_keep_exact_frames_and_one_object_a_line(tmp_path):
    logger = JsonLinesLogger(tmp_path)
    log_metrics([logger], {"actor/loss": 0.5}, FRAMES - 1)
    log_metrics([logger], {"actor/loss": np.float32(0.25), "updates": 7}, FRAMES + 1)
    assert lines(logger.path) == [
        {"frames": 199_999_999, "actor/loss": 0.5},
        {"frames": 200_000_001, "actor/loss": 0.25, "updates": 7.0},
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_becomes_null(tmp_path, value):
    logger = JsonLinesLogger(tmp_path)
    logger.log_metrics({"a": value, "b": 1.0}, step=3)
    assert lines(logger.path) == [{"frames": 3, "a": None, "b": 1.0}]


def test_truncate_drops_what_is_beyond_a_frame_and_what_is_torn(tmp_path):
    logger = JsonLinesLogger(tmp_path)
    logger.truncate(0)  # nothing there yet
    for frames in (10, 20, 20, 30):
        logger.log_metrics({"a": 1.0}, step=frames)
    with logger.path.open("a") as file:
        file.write('7\n{"b": 1}\n{"frames": 15, "a')
    logger.truncate(20)
    assert [line["frames"] for line in lines(logger.path)] == [10, 20, 20]
    logger.log_metrics({"a": 2.0}, step=25)
    assert lines(logger.path)[-1] == {"frames": 25, "a": 2.0}


# ------------------------------------------------------------------------------ TensorBoard


def test_tensorboard_holds_scalars_at_their_frames_and_a_moving_picture(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = make_tensorboard(tmp_path, resumed_at=None)
    log_metrics([logger], {"critic/value": 0.5}, FRAMES - 1)
    log_metrics([logger], {"critic/value": 1.5}, FRAMES + 1)
    video = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((8, 6, 3), 50, np.uint8)
    path = tmp_path / "videos" / "x.mp4"
    log_video([logger], "video/open_loop", video, path, frames=FRAMES + 1, fps=5)
    logger.finalize("success")

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("critic/value")]
    assert scalars == [(199_999_999, 0.5), (200_000_001, 1.5)]
    (image,) = events.Images("video/open_loop")
    assert (image.step, image.height, image.width) == (200_000_001, 8, 6)
    assert image.encoded_image_string.startswith(b"GIF89a")
    assert path.stat().st_size > 0


def test_tensorboard_hides_what_a_resumed_run_plays_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed = make_tensorboard(tmp_path, resumed_at=None)
    for frames in (10, 20, 30):
        log_metrics([killed], {"critic/value": 0.0}, frames)
    killed.finalize("failed")
    resumed = make_tensorboard(tmp_path, resumed_at=20)
    log_metrics([resumed], {"critic/value": 1.0}, 30)
    resumed.finalize("success")

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("critic/value")]
    assert scalars == [(10, 0.0), (20, 0.0), (30, 1.0)]


def test_a_run_writes_to_tensorboard_what_it_writes_to_json_lines(compose_tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir = Path(train(compose_tiny("logger=[jsonl,tensorboard]")).run_dir)
    expected = {
        (key, line["frames"]): value
        for line in lines(run_dir / "metrics.jsonl")
        for key, value in line.items()
        if key != "frames"
    }
    assert {"collect/return", "collect/best_return", "eval/return_mean", "updates"} <= {
        key for key, _ in expected
    }
    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    written = {
        (key, event.step): event.value
        for key in events.Tags()["scalars"]
        for event in events.Scalars(key)
    }
    assert written == pytest.approx(expected)


# --------------------------------------------------------------------------------- W&B


def offline_records(run_dir: Path) -> list:
    """All records of the offline runs in a folder: LevelDB's log format behind 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    records = []
    for path in sorted(
        run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime
    ):
        data, at, payload = path.read_bytes(), 7, b""
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
    return records


def history(records) -> list[dict]:
    return [
        {
            ".".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in r.history.item
        }
        for r in records
        if r.HasField("history")
    ]


def run_wandb_jobs(root: str) -> None:
    """Twice the same run, in a process of its own: W&B leaves threads and a service behind."""
    import os

    os.chdir(root)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ["HOME"] = os.environ["WANDB_CONFIG_DIR"] = root  # no key here
    import wandb

    for frames, value in ((FRAMES - 1, 0.5), (FRAMES + 1, 1.5)):
        logger = make_wandb(
            Path(root) / "run",
            project="dreamerv2",
            group="dummy/memory",
            job_type="no_kl",
            name="no_kl-memory-seed3",
            tags=["dummy", "memory"],
        )
        log_metrics([logger], {"actor/loss": value}, frames)
        video = np.zeros((3, 16, 16, 3), np.uint8)
        path = Path(root) / "run" / "videos" / f"{frames}.mp4"
        log_video([logger], "video/policy", video, path, frames=frames, fps=5)
        wandb.finish()


@pytest.mark.slow
def test_wandb_writes_offline_without_a_key_and_goes_on_under_the_same_id(tmp_path):
    pytest.importorskip("wandb")
    (tmp_path / "run").mkdir()
    process = multiprocessing.get_context("spawn").Process(
        target=run_wandb_jobs, args=(str(tmp_path),)
    )
    process.start()
    process.join(120)
    assert process.exitcode == 0

    records = offline_records(tmp_path / "run")
    runs = [r.run for r in records if r.HasField("run")]
    assert {r.run_id for r in runs} == {(tmp_path / "run" / "wandb_id").read_text()}
    run = runs[0]
    assert (run.project, run.run_group, run.job_type) == ("dreamerv2", "dummy/memory", "no_kl")
    assert run.display_name == "no_kl-memory-seed3"
    assert list(run.tags) == ["dummy", "memory"]

    rows = history(records)
    losses = [(row["frames"], row["actor/loss"]) for row in rows if "actor/loss" in row]
    assert losses == [(199_999_999, 0.5), (200_000_001, 1.5)]
    steps = {r.metric.glob_name or r.metric.name: r.metric.step_metric for r in records}
    assert steps["*"] == "frames"
    videos = [p.name for p in tmp_path.glob("run/wandb/offline-run-*/files/media/videos/**/*.mp4")]
    assert len(videos) == 2
    outside = [
        p for p in tmp_path.rglob("wandb") if p.is_dir() and tmp_path / "run" not in p.parents
    ]
    assert [p for p in outside if any(p.glob("*run-*"))] == []


@pytest.mark.slow
def test_a_whole_run_writes_to_every_logger_the_same_numbers(compose_tiny, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    summary = train(compose_tiny("logger=[jsonl,tensorboard,wandb]", "kl_balance=false"))
    assert wandb.run is None  # the next job of a multirun begins its own
    run_dir = Path(summary.run_dir)
    json_lines = lines(run_dir / "metrics.jsonl")
    expected = [(x["frames"], x["world_model/kl"]) for x in json_lines if "world_model/kl" in x]

    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    scalars = [(e.step, e.value) for e in events.Scalars("world_model/kl")]
    assert scalars == [(frames, pytest.approx(value)) for frames, value in expected]

    records = offline_records(run_dir)
    rows = [row for row in history(records) if "world_model/kl" in row]
    assert [(row["frames"], row["world_model/kl"]) for row in rows] == expected
    run = next(r.run for r in records if r.HasField("run"))
    assert run.run_group == "dummy/memory"
    assert run.job_type == "debug-kl_balance_false"
    assert run.display_name == "debug-kl_balance_false-memory-seed0"
    assert list(run.tags) == ["dummy", "memory", "debug-kl_balance_false"]
    assert {path.name for path in tmp_path.iterdir()} == {"dummy"}  # nothing beside the runs
