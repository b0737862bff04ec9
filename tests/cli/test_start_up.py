"""The first second of every command: what it says, what it imports, and how it stops."""

import json
import os
import signal
import subprocess
import sys
import tomllib

import pytest

from dreamer.cli import command

SLOW = ("torch", "pytorch_lightning", "gymnasium", "wandb", "tensorboard", "ale_py")
# What a command imports beyond the few modules that say what it does.
DATA = ("pandas", "matplotlib")
LOADED = """
import atexit, json, runpy, sys

path, program, *words = sys.argv[1:]
atexit.register(lambda: open(path, "w").write(json.dumps(sorted(sys.modules))))
sys.argv = [program, *words]
if program.endswith(".py"):
    runpy.run_path(program, run_name="__main__")
else:
    runpy.run_module(program, run_name="__main__")
"""
HELP = {
    "train.py": SLOW + DATA,
    "sweep.py": SLOW + DATA,
    "dreamer.evaluate": SLOW + DATA,
    "dreamer.check": SLOW + DATA,
    "dreamer.data": (*SLOW, *DATA, "fsspec", "numpy"),
    "dreamer.export": (*SLOW, *DATA, "fsspec", "numpy"),
    "experiments.dashboard": SLOW + DATA,
    "experiments.report": SLOW,
    "experiments.watch": SLOW,
    "experiments.coverage": SLOW,
}
MISTAKES = {
    "train.py prefil=3": "Unknown key `prefil`. The nearest: prefill_policy_steps",
    "train.py env=dummy task=memory seed=-1": "`seed` must be at least 0, got -1",
    "train.py env=dummy task=memory env.rounds=0": "`env.rounds` must be at least 1, got 0",
    "train.py task=pong model.horizon=1": "`model.horizon` must be at least 2, got 1",
    "train.py": "`task` is missing. For example: env=atari task=pong, or env=dummy task=memory",
    "sweep.py grid=demo model.horizon=1": "`model.horizon` must be at least 2, got 1",
    "dreamer.check env=dummy task=memory batch.size=0": "`batch.size` must be at least 1, got 0",
    "dreamer.data info x format=zip": "must be dreamerv2, pydreamer, minari or run, got `zip`",
    "dreamer.evaluate run_dir=nowhere": "nowhere: it contains no config.yaml.",
    "dreamer.evaluate pretrained=memroy": "`python -m dreamer.export` wrote to, got `memroy`",
    "dreamer.export runs to=x episodes=0": "`episodes` must be at least 1, got `0`",
}


@pytest.fixture
def run(repository, tmp_path):
    """Run a command; returns what it printed, its errors and the modules that it imported."""

    def call(program, *words):
        path = tmp_path / "modules.json"
        done = subprocess.run(
            [sys.executable, "-c", LOADED, str(path), program, *words],
            cwd=repository,
            capture_output=True,
            text=True,
        )
        return done.stdout, done.stderr, set(json.loads(path.read_text()))

    return call


@pytest.mark.slow
@pytest.mark.parametrize("program", HELP)
def test_help_imports_nothing_slow(run, program):
    printed, errors, modules = run(program, "--help")
    assert "Usage: " in printed and errors == ""
    assert modules.isdisjoint(HELP[program])


@pytest.mark.slow
@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_told_before_anything_slow_is_imported(run, words):
    printed, errors, modules = run(*words.split())
    first, error = errors.splitlines()
    assert first.startswith("Starting a") and first.endswith(" ...")
    assert error.startswith("error: ") and error.endswith(MISTAKES[words])
    assert printed == "" and modules.isdisjoint(SLOW + DATA)


def test_every_console_script_is_one_of_these_commands(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert {name: place.partition(":")[0] for name, place in project["scripts"].items()} == {
        "dreamer-train": "dreamer.cli.train",
        "dreamer-evaluate": "dreamer.cli.evaluate",
        "dreamer-check": "dreamer.cli.check",
        "dreamer-data": "dreamer.cli.data",
        "dreamer-export": "dreamer.cli.export",
        "dreamer-sweep": "experiments.sweep.entry",
        "dreamer-report": "experiments.report",
        "dreamer-watch": "experiments.watch",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "first"),
    [
        ("dreamer.cli.train", "Starting a run: env=dummy task=memory ..."),
        ("experiments.sweep.entry", "Starting a sweep: env=dummy task=memory ..."),
    ],
)
def test_the_first_line_is_printed_before_anything_else_is_imported(repository, program, first):
    """Whatever the command imports next is replaced by what shows that the line is there."""
    code = f"""
import importlib, sys
command = importlib.import_module("{program}")
class Stop:
    def find_spec(self, name, path=None, target=None):
        print("imports", name, file=sys.stderr)
        raise SystemExit
sys.meta_path.insert(0, Stop())
sys.argv = ["command", "env=dummy", "task=memory"]
command.run()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True
    )
    line, after = done.stderr.splitlines()
    assert line == first and after.startswith("imports ")


def test_the_end_of_a_process_searches_for_no_garbage(repository):
    """Otherwise the interpreter spends seconds on the hundreds of thousands of imported objects."""
    code = """
import atexit, gc
atexit.register(lambda: print("frozen", gc.get_freeze_count(), "left", len(gc.get_objects())))
from dreamer.cli import command
command.start("a test", [])
command.loaded()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    _, frozen, _, left = done.stdout.split()
    assert int(frozen) > 1000 and int(left) < 10


# ----------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "while_importing"),
    [
        ("train.py env=dummy task=memory", "torch"),
        ("train.py env=dummy task=memory", "hydra"),
        ("sweep.py grid=demo", "dreamer.replay.buffer"),
        ("dreamer.check env=dummy task=memory", "pytorch_lightning"),
    ],
)
def test_ctrl_c_during_the_imports_is_one_line(repository, tmp_path, words, while_importing):
    """The signal comes in the middle of an import, as by hand."""
    program, *rest = words.split()
    code = f"""
import os, signal, sys, runpy
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "{while_importing}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["{program}", *{rest!r}, "root={tmp_path}"]
if "{program}".endswith(".py"):
    runpy.run_path("{program}", run_name="__main__")
else:
    runpy.run_module("{program}", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[1:] == ["Stopped during the start."]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_after_the_imports_is_one_line(capsys):
    def main(words):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        command.interruptible(main, [])
    assert end.value.code == 130
    assert capsys.readouterr().err == "Stopped by SIGINT.\n"


def test_a_handler_of_the_caller_stays(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for background jobs
    try:
        command.start("a test", ["--help"])
        command.loaded()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, own)
