"""Every file of a run folder, damaged in nine ways, and what every command makes of it.

A command either does its work or says on one line which file is damaged and how to go on. A file
that it does not need never stops it.
"""

import os
import shutil
from pathlib import Path

import pytest

import dreamer
from dreamer.run.evaluate import evaluate
from dreamer.run.train import train
from experiments.results import of_runs

FILES = (
    *("config.yaml", "spaces.json", "copied.json", "metrics.jsonl", "summary.json"),
    *("evaluation.json", "failure.txt", "lock", "wandb_id", "log.txt"),
    *(f"checkpoints/{name}" for name in ("last.ckpt", "best.ckpt", "previous.ckpt")),
    *(f"checkpoints/{name}" for name in ("config.yaml", "spaces.json")),
    *(f"replay/{name}" for name in ("layout.json", "journal", "reward", "is_first")),
)
OPTIONS = {
    "episodes": 1,
    "checkpoint": "best",
    "seed": 0,
    "sample_actions": False,
    "video_policy_steps": 0,
    "video_fps": 5,
}


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80  # no text any more
    path.write_bytes(data)


def noise(path: Path, other: Path) -> None:
    path.write_bytes(bytes(range(256)) * (path.stat().st_size // 256 + 1))


def zeros(path: Path, other: Path) -> None:
    """What a power failure may leave."""
    path.write_bytes(bytes(path.stat().st_size))


def another_type(path: Path, other: Path) -> None:
    path.write_text("[3]\n")


def a_folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def of_another_run(path: Path, other: Path) -> None:
    shutil.copy(other, path)


DAMAGES = {
    f.__name__: f
    for f in (empty, cut, flipped, noise, zeros, another_type, a_folder, of_another_run)
} | {"missing": lambda path, other: path.unlink()}


@pytest.fixture(scope="module")
def runs(trained_run, compose_any, tmp_path_factory):
    """A tiny run and one of another task, both with every file that a run may have."""
    other = compose_any(
        *("env=dummy", "task=point", "debug=fast", "logger=jsonl", "total_frames=81"),
        *("prefill_policy_steps=48", "callbacks.evaluate.every_frames=40", "seed=3"),
        *("callbacks.checkpoint.every_frames=40", "callbacks.video=null", "variant=other"),
        *("callbacks.evaluate.video_policy_steps=0", "replay.capacity_policy_steps=900"),
        f"root={tmp_path_factory.mktemp('other')}",
    )
    folders = [tmp_path_factory.mktemp("whole") / "run", Path(train(other).run_dir)]
    shutil.copytree(trained_run, folders[0])
    for folder in folders:
        (folder / "copied.json").write_text('{"policy_steps": 3}')
        (folder / "failure.txt").write_text("Traceback (most recent call last):\nValueError: x\n")
        (folder / "evaluation.json").write_text('{"frames": 3}')
        (folder / "wandb_id").write_text("0a1b2c3d")
        (folder / "log.txt").write_text("Finished.\n")
    return folders


@pytest.fixture
def damaged(runs, tmp_path):
    """Copy the run to where it belongs, and damage one of its files."""

    def damage(name: str, how: str) -> Path:
        folder = shutil.copytree(runs[0], tmp_path / "dummy" / "memory" / "debug" / "seed0")
        DAMAGES[how](folder / name, runs[1] / name)
        return folder

    return damage


def outcome(call) -> tuple[object, str]:
    """Return what a command returns, or its error, which must be a sentence on one line."""
    try:
        return call(), ""
    except (ValueError, OSError) as error:
        message = str(error)
        assert "\n" not in message and "Errno" not in message, message
        return None, message


def check_load(folder: Path, name: str, how: str) -> None:
    agent, error = outcome(lambda: dreamer.load(folder))
    if name in ("spaces.json", "checkpoints/best.ckpt") and how == "of_another_run":
        assert "config.yaml and spaces.json" in error and "checkpoint=last" in error
    else:
        assert not error
        assert 0 < agent.frames <= 81


def check_evaluate(folder: Path, name: str, how: str) -> None:
    scores, error = outcome(lambda: evaluate(folder, **OPTIONS))
    if name in ("spaces.json", "checkpoints/best.ckpt") and how == "of_another_run":
        assert "config.yaml and spaces.json" in error
    elif error:  # the environment of another run has other observations
        assert name == "config.yaml" and how == "of_another_run"
    else:
        assert (folder / "checkpoints" / f"{scores['checkpoint']}.ckpt").is_file()


def check_report(folder: Path, name: str, how: str) -> None:
    results, error = outcome(lambda: of_runs(folder.parent, None, compare=None))
    assert not error
    assert len(results.extra["runs.csv"]) == 1


def check_resume(folder: Path, name: str, how: str, compose_tiny) -> None:
    if name != "summary.json":
        (folder / "summary.json").unlink()
    summary, error = outcome(lambda: train(compose_tiny()))
    if name.startswith("replay/") and error:
        assert "replay" in error and ("`mv " in error or "run_dir=" in error), error
    elif name == "checkpoints/last.ckpt" and how == "of_another_run":
        assert f"{name} is the checkpoint of another run" in error and "`cp " in error
    elif name == "config.yaml" and how == "of_another_run":
        assert "another configuration" in error and "run_dir=" in error
    elif name == "lock" and how == "a_folder":
        assert "lock" in error and "`mv " in error
    else:
        assert not error
        assert summary.frames == 81
        assert train(compose_tiny()).frames == 81  # finished: nothing is to do


def test_nothing_is_written_through_a_link(runs, compose_tiny, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "dummy" / "memory" / "debug" / "seed0")
    (folder / "summary.json").unlink()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")

    def swap(name: str, target: str) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.symlink_to(outside / target)

    swap("videos", "")
    with pytest.raises(ValueError, match="videos must not be a link, got one to .*outside.*`mv "):
        evaluate(folder, **OPTIONS | {"video_policy_steps": 5})
    (folder / "videos").unlink()
    for name in ("videos", "wandb", "tensorboard", "checkpoints", "replay", "replay/reward"):
        copy = shutil.copytree(folder, tmp_path / "copy", symlinks=True)
        swap(name, "file" if "/" in name else "")
        with pytest.raises(ValueError, match=f"{name} must not be a link, got one to .*outside"):
            train(compose_tiny())
        shutil.rmtree(folder)
        copy.rename(folder)
    for name in ("evaluation.json", "config.yaml", "metrics.jsonl", "checkpoints/.last.ckpt"):
        swap(name, "file" if name == "metrics.jsonl" else name.replace("/", "_"))
    shutil.copy(folder / "checkpoints/config.yaml", outside / "config.yaml")
    evaluate(folder, **OPTIONS)
    assert train(compose_tiny()).frames == 81
    assert (outside / "file").read_text() == "mine"
    assert {p.name for p in outside.iterdir()} == {"file", "config.yaml"}


EVERY = [(name, how) for name in FILES for how in DAMAGES]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_reports_and_programs_do_not_stumble_over_a_damaged_file(name, damaged):
    for how in DAMAGES:
        folder = damaged(name, how)
        if not name.endswith(".ckpt") and not name.startswith("replay/"):  # a report reads neither
            check_report(folder, name, how)
        check_load(folder, name, how)
        shutil.rmtree(folder)


@pytest.mark.long
@pytest.mark.parametrize(("name", "how"), EVERY)
def test_no_run_stumbles_over_a_damaged_file(name, how, damaged, compose_tiny):
    folder = damaged(name, how)
    check_report(folder, name, how)
    check_evaluate(folder, name, how)
    check_resume(folder, name, how, compose_tiny)
    assert not [p for p in os.listdir(folder) if p.startswith(".")]
