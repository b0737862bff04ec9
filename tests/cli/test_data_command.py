"""`python -m dreamer.data`: its words, its table and its errors."""

import shutil
from pathlib import Path

import pytest

from dreamer.cli.data import main, parse
from dreamer.data.settings import DataSettings

FILES = Path(__file__).parent.parent / "data" / "files"


@pytest.fixture
def run(capsys):
    """Call the command; returns its status, what it printed and its errors."""

    def call(*words: object) -> tuple[int, str, str]:
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_info_shows_what_is_stored(run):
    status, printed, errors = run("info", FILES / "dreamerv2")
    assert (status, errors) == (0, "")
    assert [line.split(maxsplit=1) for line in printed.splitlines()] == [
        ["format", "dreamerv2"],
        ["episodes", "2; 1 end in a terminal state"],
        ["policy", "steps  15"],
        ["observation", "image 1 x 8 x 8 uint8"],
        ["observation", "ram 16 uint8"],
        ["actions", "4 choices"],
        ["lengths", "7.5 on average, from 6 to 9 policy steps"],
        ["returns", "4.5 on average, from 4 to 5"],
    ]


def test_verify_fails_if_something_is_damaged_and_names_it(run, tmp_path):
    where = Path(shutil.copytree(FILES / "pydreamer_chunks", tmp_path / "chunks"))
    status, printed, _ = run("verify", where)
    assert status == 0 and "Everything can be read." in printed
    assert "pieces  1 begin inside an episode" in printed
    (where / "broken.npz").write_bytes(b"PK")
    status, printed, errors = run("verify", where)
    assert (status, errors) == (1, "")
    assert "skipped  1\n" in printed and "broken.npz: File is not a zip file" in printed
    assert "Everything" not in printed


def test_convert_writes_and_says_where(run, tmp_path):
    to = tmp_path / "to"
    status, printed, _ = run("convert", FILES / "pydreamer_vec", f"to={to}", "format=run")
    assert status == 0 and f"Written to {to}: 2 episodes as run" in printed
    status, printed, _ = run("info", to)
    assert status == 0 and "actions  3 numbers from -0.9764 to 0.9922" in printed


MISTAKES = {
    "": "The first argument must be info, convert or verify, got nothing",
    "show x": "The first argument must be info, convert or verify, got show",
    "info": "`info` must have one address, got none",
    "info a b": "`info` must have one address, got a b",
    "info a to=b": "`to` must be left out for info, got b",
    "convert a": "`to` is missing",
    "convert a to=b format=zip": "`format` must be dreamerv2, pydreamer, minari or run, got `zip`",
    "convert a to=b steps_per_file=0": "`steps_per_file` must be at least 1, got `0`",
    "info nowhere": "nowhere does not exist",
    "info foo://x": "must be a folder or of a kind that fsspec knows, got foo://x",
}


@pytest.mark.parametrize("words", [words for words in MISTAKES if words])
def test_a_mistake_is_one_line(run, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, errors = run(*words.split())
    assert (status, printed) == (2, "")
    assert errors.count("\n") == 1 and MISTAKES[words] in errors


def test_help_lists_every_key(run):
    status, printed, _ = run("--help")
    assert status == 0 and "Usage: python -m dreamer.data info|convert|verify" in printed
    assert all(f"  {name}=" in printed for name in vars(DataSettings()))
    assert run()[0] == 2


def test_an_address_may_have_an_equals_sign():
    assert parse(["info", "s3://bucket/a=1"])[:2] == ("info", "s3://bucket/a=1")
    settings = parse(["convert", "x", "to=s3://bucket/a=1"])[2]
    assert settings.to == "s3://bucket/a=1"
