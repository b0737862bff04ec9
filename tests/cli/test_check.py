"""The door: what it prints of an environment, and how it refuses."""

import sys

import pytest

from dreamer.cli import check

CARTPOLE = ("env=gym", "task=CartPole-v1", "steps=200")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the door with words; returns its exit code, what it printed and its errors."""

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
    assert (code, errors) == (0, "")
    for line in (
        "actions  2 discrete",
        "observation  vector (4,), to the encoder of vectors; from ",
        "policy steps a second, of 1 frames each",
        "rewards  from 1 to 1, mean 1; 100.0% of 200 policy steps have one",
        " by a time limit",
        "episodes are shorter than a sequence of batch.length=32 steps",
    ):
        assert line in printed


def test_keys_that_no_encoder_takes_are_named(run):
    words = ("env=gym", "task=toys:toys/Plain-v0", "model.world_model.encoder.vector_keys=gear")
    _, printed, _ = run(*words, "steps=20")
    assert "observation  camera/left (3, 64, 64), to the encoder of images" in printed
    assert "observation  gear (3,), to the encoder of vectors" in printed
    assert "observation  joints (4,), not used: see image_keys, vector_keys" in printed


def test_other_suites_are_checked_too(run):
    code, printed, _ = run("env=dummy", "task=memory", "steps=100", "batch.length=4")
    assert code == 0
    assert "observation  image (1, 64, 64), to the encoder of images; from 0 to 255" in printed
    assert "Nothing looks wrong." in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("env=gym", "task=CartPole"), "Unknown Gymnasium task `CartPole`. The nearest: `CartPole"),
        (("env=gym",), "Expect a `task`, actually there is none"),
        ((*CARTPOLE, "steps=no"), "`steps` must be a whole number, got `no`"),
        ((*CARTPOLE, "env.wings=2"), "Unknown key `env.wings`"),
        (("env=gym", "task=toys:toys/Unbounded-v0"), "Expect actions between finite bounds"),
        (("env=gym", "task=nowhere:Toy-v0"), "No module named 'nowhere'"),
    ],
)
def test_bad_input_is_one_line_that_names_it(run, words, message):
    code, _, errors = run(*words)
    assert code == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors


def test_an_environment_that_always_fails_is_reported(run, monkeypatch):
    monkeypatch.setattr("toys.Toy.step", lambda self, action: 1 / 0)
    code, _, errors = run("env=gym", "task=toys:toys/Plain-v0", "env.max_restarts=1")
    assert code == 2
    assert errors.count("Traceback") >= 2
    assert "error: Environment 0 failed once more, after 1 restarts of at most" in errors


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
        "  steps=1000                        Length of the look. [policy steps >= 1]",
        "  env.time_limit_frames=null        Length of an episode, after which it is cut",
    ):
        assert line in printed
