"""Uploads in the background, and the places they go to."""

import errno
import os
import sys
import threading
import time
import warnings

import fsspec
import pytest

from dreamer.data import uploads
from dreamer.data.address import Refused, Unreachable, find
from dreamer.data.uploads import Uploads, check_place, finish_uploads


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(uploads, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(uploads, "LAST_DELAY", 0.01)


@pytest.fixture
def bucket():
    """A place that shows complete files only, as object stores do."""
    yield find("memory://bucket/run")
    files = fsspec.filesystem("memory")
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)


def end(*parts, seconds=10.0):
    finish_uploads(parts, seconds)


def test_jobs_are_done_in_their_order():
    done = []

    def upload(job):
        done.append(job)
        return {1: True, 2: False, 3: None}[job]

    jobs = Uploads("there", "jobs", upload, capacity=5)
    for job in (1, 2, 3):
        assert jobs.put(job, job) == []
    end(jobs)
    assert done == [1, 2, 3]
    assert jobs.counts == (1, 0, 1, 0)  # written, waiting, dropped, failed


def test_failures_are_repeated_and_warned_of_once():
    left = [OSError(errno.ENOSPC, "No space left on device"), ValueError("odd"), KeyError("x")]
    done = []

    def upload(job):
        if left:
            raise left.pop(0)
        done.append(job)
        return True

    jobs = Uploads("s3://there", "episodes", upload, capacity=5)
    with pytest.warns(UserWarning) as caught:
        jobs.put("a", "a")
        jobs.put("b", "b")
        end(jobs)
    assert done == ["a", "b"]
    assert jobs.counts == (2, 0, 0, 3)
    (text,) = [str(one.message) for one in caught]
    assert "s3://there" in text and "No space left on device" in text and "\n" not in text


def test_a_full_queue_drops_what_has_waited_longest_and_a_key_replaces():
    may, done = threading.Event(), []

    def upload(job):
        may.wait(10)
        done.append(job)
        return True

    jobs = Uploads("there", "jobs", upload, capacity=2)
    jobs.put("first", 0)
    while jobs.counts.waiting and jobs._jobs:  # until the thread has taken it
        time.sleep(0.001)
    assert [jobs.put(key, job) for key, job in (("a", 1), ("b", 2), ("c", 3), ("c", 4))] == [
        [],
        [],
        [1],
        [3],
    ]
    assert jobs.counts == (0, 3, 1, 0)
    may.set()
    end(jobs)
    assert done == [0, 2, 4]


@pytest.mark.parametrize("hangs", [True, False])
def test_the_end_waits_a_limited_time(hangs, capsys):
    never = threading.Event()

    def upload(job):
        if hangs:
            never.wait(20)
        raise Unreachable("s3://there cannot be reached: no answer")

    jobs = Uploads("s3://there", "episodes", upload, capacity=5)
    start = time.monotonic()
    with pytest.warns(UserWarning, match="2 episodes did not reach s3://there in time"):
        for job in (1, 2):
            jobs.put(job, job)
        end(jobs, seconds=1.3)
    assert time.monotonic() - start < 5
    assert "Waiting up to 1 s for 2 episodes to reach s3://there" in capsys.readouterr().out
    never.set()


def test_without_jobs_there_is_no_thread():
    before = threading.active_count()
    jobs = Uploads("there", "jobs", lambda job: True, capacity=5)
    end(jobs)
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_files_are_written_and_fetched(kind, tmp_path, bucket):
    place = bucket if kind == "memory" else find(str(tmp_path / "there"))
    (tmp_path / "mine").write_bytes(b"of this machine")
    place.write("one", b"1")
    place.upload("deep/two", tmp_path / "mine")
    place.keep("deep/two", "deep/three")
    place.keep("missing", "four")
    found = sorted(path[len(place.path) + 1 :] for path in place.files.find(place.path))
    assert found == ["deep/three", "deep/two", "one"]
    for name, content in (("one", b"1"), ("deep/three", b"of this machine")):
        place.download(name, tmp_path / "back" / name)
        assert (tmp_path / "back" / name).read_bytes() == content
    with pytest.raises(FileNotFoundError):
        place.download("missing", tmp_path / "back" / "missing")
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["deep", "one"]


def test_a_place_that_may_show_half_a_file_gets_it_under_another_name(bucket, monkeypatch):
    """Object stores need no such name; `protocol` makes memory one that does."""
    seen = []
    pipe = bucket.files.pipe_file
    monkeypatch.setattr(type(bucket.files), "protocol", "sftp")
    monkeypatch.setattr(bucket.files, "pipe_file", lambda p, x: [seen.append(p), pipe(p, x)])
    bucket.write("one", b"1")
    assert seen == [f"{bucket.path}/.one"]
    assert bucket.files.find(bucket.path) == [f"{bucket.path}/one"]


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    place = find(str(tmp_path / "there"))

    def fill(path, content):
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", fill)
        with pytest.raises(OSError, match="No space left on device"):
            place.write("one", b"12")
    assert list((tmp_path / "there").iterdir()) == []


def test_what_refuses_is_told_before_work_starts(tmp_path, bucket, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match="`key` must be an address that can be written.*file"):
        check_place("key", find(str(tmp_path / "file")))
    assert check_place("key", find(str(tmp_path / "new" / "folder")))
    assert not (tmp_path / "new").exists()

    class NoCredentialsError(Exception):
        pass

    def refuse(path):
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(bucket.files, "exists", refuse)
    with pytest.raises(Refused, match="Unable to locate credentials"):
        bucket.exists()
    with pytest.raises(ValueError, match="memory://bucket/run cannot be reached: Unable to"):
        check_place("key", bucket)


def test_what_does_not_answer_is_only_warned_of(bucket, monkeypatch):
    monkeypatch.setattr(uploads, "CHECK_SECONDS", 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_place("key", bucket)
    may = threading.Event()
    monkeypatch.setattr(bucket.files, "exists", lambda path: may.wait(10))
    with pytest.warns(UserWarning, match="`key`: memory://bucket/run does not answer"):
        assert not check_place("key", bucket)
    may.set()


def test_the_address_of_an_mlflow_server_is_explained():
    with pytest.raises(ValueError, match="mlflow-artifacts:/1/abc/artifacts.*artifacts-destin"):
        find("mlflow-artifacts:/1/abc/artifacts")


def test_a_missing_package_names_the_requirements(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    known = sys.modules["fsspec.registry"]._registry  # another test may have imported it
    monkeypatch.delitem(known, "s3", raising=False)
    with pytest.raises(ImportError, match=r"s3://x needs `pip install -r requirements-data\.txt`"):
        find("s3://x")
