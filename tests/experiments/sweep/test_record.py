"""The jobs that sweeps were asked for."""

import pytest

from experiments.sweep.record import NAME, read_jobs, write_jobs


def test_jobs_of_several_sweeps_in_one_root_are_kept_once(tmp_path, monkeypatch):
    root = tmp_path / "runs"
    write_jobs(root, [root / "dummy" / "a" / "seed0", root / "dummy" / "a" / "seed1"])
    monkeypatch.chdir(tmp_path)
    write_jobs(root.relative_to(tmp_path), [root / "dummy" / "a" / "seed1", root / "dummy" / "b"])
    assert read_jobs(root) == ["dummy/a/seed0", "dummy/a/seed1", "dummy/b"]
    assert [path.name for path in root.iterdir()] == [NAME]


def test_folders_elsewhere_are_not_recorded(tmp_path):
    write_jobs(tmp_path / "runs", [tmp_path / "elsewhere" / "seed0"])
    assert read_jobs(tmp_path / "runs") == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"jobs": 3}', '{"job": []}'])
def test_a_broken_record_counts_as_none(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    assert read_jobs(tmp_path) == []
