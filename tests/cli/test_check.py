"""`dreamer-check`: what it prints about an environment, and its errors."""

import runpy
import signal
import sys

import pytest

from dreamer.cli import check

CARTPOLE = ("env=gym", "task=CartPole-v1", "steps=200")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command; returns its exit code, output and errors."""

    def run_with(*words):
        monkeypatch.setattr(sys, "argv", ["check", *words])
        monkeypatch.setattr(sys, "path", [*sys.path])
        code = 0
        try:
            check.run()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run_with


def test_it_prints_what_an_environment_is_like(run):
    code, printed, errors = run(*CARTPOLE)
    assert (code, errors) == (0, f"Starting a check: {' '.join(CARTPOLE)} ...\n")
    for line in (
        "actions  2 discrete",
        "observation  vector (4,), encoded with the vectors; from ",
        "policy steps per second, of 1 frames each",
        "rewards  from 1 to 1, mean 1; 100.0% of 200 policy steps have one",
        " by a time limit",
        "episodes are shorter than a sequence of batch.length=16 steps",
    ):
        assert line in printed


def test_keys_that_no_encoder_takes_are_named(run):
    words = ("env=gym", "task=toys:toys/Plain-v0", "model.world_model.encoder.vector_keys=gear")
    _, printed, _ = run(*words, "steps=20")
    assert "observation  camera/left (3, 64, 64), encoded with the images" in printed
    assert "observation  gear (3,), encoded with the vectors" in printed
    assert "observation  joints (4,), not used: see image_keys, vector_keys" in printed


def test_other_suites_are_checked_too(run):
    code, printed, _ = run("env=dummy", "task=memory", "steps=100", "batch.length=4")
    assert code == 0
    assert "observation  image (1, 64, 64), encoded with the images; from 0 to 255" in printed
    assert "No warnings." in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("env=gym", "task=CartPole"), "Unknown Gymnasium task `CartPole`. The nearest: `CartPole"),
        (("env=gym",), "`task` is missing"),
        ((*CARTPOLE, "steps=no"), "`steps` must be a whole number, got `no`"),
        ((*CARTPOLE, "env.wings=2"), "Unknown key `env.wings`"),
        (("env=gym", "task=toys:toys/Unbounded-v0"), "Actions must have finite bounds"),
        (("env=gym", "task=nowhere:Toy-v0"), "No module named 'nowhere': it is not inst"),
    ],
)
def test_bad_input_is_one_line_that_names_it(run, words, message):
    code, _, errors = run(*words)
    assert code == 2
    first, error = errors.splitlines()
    assert first.startswith("Starting a check: env=gym") and error.startswith("error: ")
    assert message in errors


@pytest.mark.slow
def test_an_environment_that_always_fails_is_reported(run, monkeypatch):
    monkeypatch.setattr("toys.Toy.step", lambda self, action: 1 / 0)
    code, _, errors = run("env=gym", "task=toys:toys/Plain-v0", "env.max_restarts=1")
    assert code == 2
    first, restart, error = errors.splitlines()
    assert first.startswith("Starting a check: env=gym")
    assert restart.startswith(
        "environment 0 (toys:toys/Plain-v0) failed in step 1 of episode 1: Zer"
    )
    assert error.startswith("error: Environment 0 (toys:toys/Plain-v0) failed again, in step 1 of ")
    assert "after 1 of `max_restarts` 1 restarts: ZeroDivisionError: division by zero (" in error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_code_of_that_signal(run, monkeypatch, number):
    monkeypatch.setattr("toys.Toy.step", lambda self, action: signal.raise_signal(number))
    code, _, errors = run("env=gym", "task=toys:toys/Plain-v0")
    assert code == 128 + number
    assert errors.splitlines()[-1] == f"Stopped by {number.name}."


@pytest.mark.slow
def test_without_words_it_explains_itself(run):
    code, printed, _ = run()
    assert code == 2
    assert "python -m dreamer.check env=gym task=CartPole-v1" in printed


def test_help_explains_its_own_key_and_those_of_training(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, printed, errors = run("env=gym", "--help")
    assert (code, errors) == (0, "")
    for line in (
        "  python -m dreamer.check env=gym task=CartPole-v1",
        "  steps=1000                        Length of the check. [policy steps >= 1]",
        "  env.time_limit_frames=null        Maximum length of an episode",
    ):
        assert line in printed


@pytest.mark.parametrize("module", ["dreamer.check", "dreamer.envs.check"])
def test_it_runs_as_a_module_by_its_name_and_its_earlier_one(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check", "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    assert end.value.code == 0
    assert "python -m dreamer.check env=gym" in capsys.readouterr().out
