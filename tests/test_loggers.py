"""Where metrics go, read back from what lies on the disk."""

import csv
import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from descriptions import described

from dreamer.loggers import (
    CsvLogger,
    GuardedLogger,
    JsonLinesLogger,
    RunLogger,
    finish,
    log_metrics,
    log_video,
    make_tensorboard,
    truncate,
)
from dreamer.loggers.tensorboard import RunTensorBoardLogger
from dreamer.run.train import train

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


# -------------------------------------------------------------------------------------- CSV


def table(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_new_metric_becomes_a_column_of_the_table(tmp_path):
    logger = CsvLogger(tmp_path)
    log_metrics([logger], {"actor/loss": 0.5}, FRAMES - 1)
    log_metrics([logger], {"actor/loss": 0.25, "eval/return_mean": np.float32(2)}, FRAMES + 1)
    log_metrics([CsvLogger(tmp_path)], {"eval/return_mean": float("nan")}, FRAMES + 2)
    assert table(logger.path) == [
        {"frames": "199999999", "actor/loss": "0.5", "eval/return_mean": ""},
        {"frames": "200000001", "actor/loss": "0.25", "eval/return_mean": "2.0"},
        {"frames": "200000002", "actor/loss": "", "eval/return_mean": "nan"},
    ]


def test_a_resumed_run_continues_the_table_at_its_checkpoint(tmp_path):
    logger = CsvLogger(tmp_path)
    truncate([logger], 0)  # nothing there yet
    for frames in (10, 20, 30):
        log_metrics([logger], {"a": 1.0, "b": 2.0}, frames)
    with logger.path.open("a") as file:
        file.write("15,1")
    resumed = CsvLogger(tmp_path)
    truncate([resumed], 20)
    log_metrics([resumed], {"a": 3.0}, 25)
    assert [(row["frames"], row["a"]) for row in table(logger.path)] == [
        ("10", "1.0"),
        ("20", "1.0"),
        ("25", "3.0"),
    ]


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"\xff\xfe", b"a,b\n10,2\n", b"9" * 2**18])
def test_a_table_without_its_header_is_moved_away(tmp_path, content, capsys):
    logger = CsvLogger(tmp_path)
    logger.path.write_bytes(content)
    truncate([logger], 20)
    log_metrics([logger], {"a": 1.0}, 25)
    assert table(logger.path) == [{"frames": "25", "a": "1.0"}]
    assert (tmp_path / "metrics.csv.damaged").read_bytes() == content
    assert "metrics.csv is damaged: it has no header" in capsys.readouterr().err


def test_damaged_rows_are_dropped_when_a_run_is_resumed(tmp_path):
    logger = CsvLogger(tmp_path)
    for frames in (10, 11, 12):
        log_metrics([logger], {"a": 1.0}, frames)
    logger.path.write_bytes(logger.path.read_bytes().replace(b"11,1.0", b"11,\xff.0"))
    truncate([logger], 20)
    assert [row["frames"] for row in table(logger.path)] == ["10", "12"]


# ------------------------------------------------------------------------------ TensorBoard


def test_tensorboard_lists_the_parameters_of_a_run_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for run in (described(), described(resumed_at=20)):
        logger = make_tensorboard(tmp_path, run=run)
        log_metrics([logger], {"critic/value": 0.5}, 30)
        logger.finalize("success")
    parameters = yaml.safe_load((tmp_path / "tensorboard" / "hparams.yaml").read_text())
    assert parameters == {"batch.size": 3, "task": "memory"}
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    data = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"batch.size" in data and b"memory" in data
    assert len(list((tmp_path / "tensorboard").glob("events*"))) == 2


def test_tensorboard_holds_scalars_at_their_frames_and_a_moving_picture(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = make_tensorboard(tmp_path, run=described())
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

    killed = make_tensorboard(tmp_path, run=described())
    for frames in (10, 20, 30):
        log_metrics([killed], {"critic/value": 0.0}, frames)
    killed.finalize("failed")
    resumed = make_tensorboard(tmp_path, run=described(resumed_at=20))
    log_metrics([resumed], {"critic/value": 1.0}, 30)
    resumed.finalize("success")

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("critic/value")]
    assert scalars == [(10, 0.0), (20, 0.0), (30, 1.0)]


@pytest.mark.slow
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


# --------------------------------------------------------------------- loggers that fail


class Sulky(JsonLinesLogger):
    """Refuses everything until it is told to work."""

    works = False

    def log_metrics(self, metrics, step=None):
        if not self.works:
            raise BrokenPipeError("its service was killed")
        super().log_metrics(metrics, step)

    def finalize(self, status):
        raise OSError(28, "No space left on device")


def test_a_logger_that_fails_is_reported_and_tried_again(tmp_path):
    reported, sulky, fine = [], Sulky(tmp_path), JsonLinesLogger(tmp_path)
    loggers = [
        GuardedLogger(logger, lambda *failure: reported.append(failure)) for logger in (sulky, fine)
    ]
    log_metrics(loggers, {"a": 1.0}, 5)
    assert [line["frames"] for line in lines(fine.path)] == [5]
    sulky.works = True
    log_metrics(loggers, {"a": 1.0}, 6)
    assert [line["frames"] for line in lines(fine.path)] == [5, 6, 6]
    truncate(loggers, 5)
    for logger in loggers:
        logger.finalize("success")
        logger.log_hyperparams({})
        logger.save()
    finish(loggers, exit_code=0)
    assert [line["frames"] for line in lines(fine.path)] == [5]
    assert [(name, type(error)) for name, error in reported] == [
        ("the logger Sulky", BrokenPipeError),
        ("the logger Sulky", OSError),
    ]


def test_a_logger_that_hangs_is_left_alone_until_it_answers(tmp_path, monkeypatch):
    reported, answer = [], threading.Event()
    logger = JsonLinesLogger(tmp_path)
    guarded = GuardedLogger(logger, lambda name, error: reported.append(str(error)))
    assert not guarded.attempt(lambda _: answer.wait(), 0.05)
    log_metrics([guarded], {"a": 1.0}, 5)
    answer.set()
    assert guarded._thread is not None
    guarded._thread.join()
    log_metrics([guarded], {"a": 1.0}, 6)
    assert [line["frames"] for line in lines(logger.path)] == [6]
    assert reported == ["It did not answer within 0.05 s", "An earlier call has not returned yet"]


class Endless(RunLogger):
    """Never ends; the user presses Ctrl-C meanwhile."""

    name = version = "endless"
    abandoned = False

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        pass

    def finish(self, exit_code):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        threading.Event().wait(30)

    def abandon(self):
        self.abandoned = True


def test_ctrl_c_ends_the_wait_for_a_logger_and_its_service():
    logger = Endless()
    with pytest.raises(KeyboardInterrupt):
        finish([GuardedLogger(logger, lambda *failure: None)], exit_code=0)
    assert logger.abandoned


@pytest.mark.slow
def test_a_run_continues_without_its_loggers_and_counts_their_failures(compose_tiny, monkeypatch):
    def refuse(logger, metrics, step=None):
        raise FileExistsError("a file in the way")

    monkeypatch.setattr(RunTensorBoardLogger, "log_metrics", refuse)
    with pytest.warns(
        UserWarning, match="the logger RunTensorBoardLogger failed, .*File"
    ) as warned:
        summary = train(compose_tiny("logger=[jsonl,tensorboard]"))
    assert sum("TensorBoard" in str(w.message) for w in warned) == 1
    assert summary.frames == 81
    rows = lines(Path(summary.run_dir) / "metrics.jsonl")
    counts = [x.get("logger/failures") for x in rows]
    last = max(filter(None, counts))
    assert 1 < last <= summary.metrics["logger/failures"]
