"""The state of a run, as its folder shows it, whole or broken."""

import fcntl
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import lock_descriptor, unlock_descriptor

from dreamer.run.folder import RunFolder
from experiments.sweep.state import State, failure, lock_holder, read_state


@pytest.fixture
def begun(tmp_path):
    """A folder as a run leaves it that was killed."""
    (tmp_path / "config.yaml").write_text("total_frames: 100\n")
    lines = [
        {"frames": 20, "collect/return": 3.0, "perf/frames_per_second": 7.0},
        {"frames": 30, "collect/return": None, "world_model/loss": 2.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"frames": 4')
    (tmp_path / "lock").write_text("host 1")
    return tmp_path


def test_no_folder_and_an_empty_one_are_no_run(tmp_path):
    assert read_state(tmp_path / "none") == read_state(tmp_path) == State("empty")
    assert list(tmp_path.iterdir()) == []


def test_a_begun_run_is_interrupted_and_shows_its_newest_numbers(begun):
    assert read_state(begun, 100) == State("interrupted", 30, 3.0, 7.0)


def test_a_summary_means_finished_unless_more_frames_are_asked_for(begun):
    (begun / "summary.json").write_text('{"frames": 101}')
    assert read_state(begun).phase == read_state(begun, 100).phase == "finished"
    assert read_state(begun, 100).frames == 101
    assert read_state(begun, 200).phase == "interrupted"


def test_a_failed_run_shows_the_last_line_of_its_traceback(begun):
    (begun / "failure.txt").write_text("Traceback\n  a\n  b\nValueError: no\n\n")
    assert read_state(begun) == State("failed", 30, 3.0, 7.0, "ValueError: no")
    assert failure(begun, lines=2) == "  b\nValueError: no"


@pytest.mark.parametrize("text", ["", "[]", '{"frames": "many"}', "{"])
def test_a_summary_that_cannot_be_read_is_a_failure_and_no_crash(begun, text):
    (begun / "summary.json").write_text(text)
    state = read_state(begun)
    assert (state.phase, state.detail) == ("failed", "summary.json cannot be read")


def test_the_lock_of_a_run_tells_that_it_runs_and_where(begun):
    assert lock_holder(begun) is None
    with RunFolder(begun).lock():
        holder = lock_holder(begun)
        assert read_state(begun).phase == "running"
        assert read_state(begun).detail == holder == (begun / "lock").read_text()
    assert read_state(begun).phase == "interrupted"


def test_looking_whether_the_lock_is_free_leaves_it_free(begun):
    with (begun / "lock").open() as file:
        assert lock_holder(begun) is None
        assert lock_descriptor(file.fileno(), blocking=False)
    assert (begun / "lock").read_text() == "host 1"


def test_a_run_of_an_earlier_version_is_seen(begun):
    """They took the lock with flock, and others of them looked with a shared one."""
    with (begun / "lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert read_state(begun).phase == "running"
        assert lock_holder(begun) == "host 1"


def test_a_lock_that_may_only_be_read_is_seen(begun, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert lock_holder(begun) is None
    with RunFolder(begun).lock():
        assert lock_holder(begun) == (begun / "lock").read_text()


def test_who_only_looks_is_nobody_who_works_there(begun):
    with (begun / "lock").open() as other:
        assert lock_descriptor(other.fileno(), blocking=False)
        timer = threading.Timer(0.005, unlock_descriptor, (other.fileno(),))
        timer.start()
        assert lock_holder(begun) is None
        timer.join()
    with ThreadPoolExecutor(4) as looking:
        assert set(looking.map(lock_holder, [begun] * 400)) == {None}


def test_only_the_end_of_a_long_file_is_read(begun):
    line = json.dumps({"frames": 5, "collect/return": 1.0, "x": "y" * 1000})
    (begun / "metrics.jsonl").write_text("\n".join([line] * 100 + ['{"frames": 77}']))
    assert read_state(begun)[:3] == ("interrupted", 77, 1.0)
