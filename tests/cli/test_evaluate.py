"""Playing with a trained agent: the function, and the door."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import pytest

from dreamer.run.evaluate import evaluate

SCORES = {"frames", "updates", "checkpoint", "policy", "returns"} | {
    f"eval/{name}" for name in ("return_mean", "return_std", "length", "episodes")
}
OPTIONS = {
    "episodes": 3,
    "checkpoint": "best",
    "seed": 0,
    "sample_actions": False,
    "video_policy_steps": 0,
    "video_fps": 5,
}


@pytest.fixture
def run_dir(trained_run, tmp_path):
    """A copy of a trained agent's folder, to write into."""
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.fixture
def main(monkeypatch, capsys, tmp_path):
    """Run the command in this process; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *overrides])
        code = 0
        try:
            runpy.run_module("dreamer.evaluate", run_name="__main__", alter_sys=False)
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_it_plays_that_many_whole_episodes(run_dir):
    scores = evaluate(run_dir, **OPTIONS | {"episodes": 13})  # more than are played at once
    assert scores.keys() == SCORES
    assert len(scores["returns"]) == scores["eval/episodes"] == 13
    assert scores["eval/length"] == 8
    assert scores["eval/return_mean"] == pytest.approx(sum(scores["returns"]) / 13)


def test_the_same_seed_plays_the_same_episodes(run_dir):
    options = OPTIONS | {"sample_actions": True, "episodes": 9}
    first, again, other = (evaluate(run_dir, **options | {"seed": seed}) for seed in (0, 0, 5))
    assert first == again
    assert other["returns"] != first["returns"]


def test_an_unfinished_run_can_be_watched_and_is_left_alone(run_dir):
    (run_dir / "summary.json").unlink()
    (run_dir / "checkpoints" / "best.ckpt").unlink()
    files = {p: p.read_bytes() for p in run_dir.rglob("*") if p.is_file()}
    assert evaluate(run_dir, **OPTIONS)["frames"] == 81
    assert {p: p.read_bytes() for p in files} == files


@pytest.mark.slow
def test_the_door_prints_json_and_leaves_scores_and_a_film(main, run_dir):
    code, out, err = main(f"run_dir={run_dir}", "episodes=3", "video=true")
    assert code == 0, err
    scores = json.loads(out)
    written = json.loads((run_dir / "evaluation.json").read_text())
    assert scores == written | {"video": str(run_dir / written["video"])}  # the folder may move
    assert len(scores["returns"]) == 3
    lines = [line for line in err.splitlines() if line.startswith("episode ")]
    told = [
        re.fullmatch(r"episode (\d) of 3: return (\S+), 8 policy .* so far (\S+)", x) for x in lines
    ]
    assert [line[1] for line in told] == ["1", "2", "3"]
    assert sorted(float(line[2]) for line in told) == sorted(scores["returns"])
    assert float(told[-1][3]) == pytest.approx(scores["eval/return_mean"], abs=0.01)
    film = imageio.mimread(scores["video"], memtest=False)
    assert len(film) == 9  # an episode and its reset
    assert Path(scores["video"]).parent == run_dir / "videos"


@pytest.mark.slow
def test_the_explorer_plays_if_it_is_chosen(main, explored_run, tmp_path):
    run_dir = shutil.copytree(explored_run, tmp_path / "explored")
    code, out, err = main(f"run_dir={run_dir}", "episodes=3", "policy=explore", "video=true")
    assert code == 0, err
    scores = json.loads(out)
    written = json.loads((run_dir / "evaluation_explore.json").read_text())
    assert scores == written | {"video": str(run_dir / written["video"])}
    assert (scores["policy"], len(scores["returns"])) == ("explore", 3)
    video = f"evaluation_explore_{scores['frames']:010d}.mp4"
    assert Path(scores["video"]) == run_dir / "videos" / video
    assert not (run_dir / "evaluation.json").exists()
    code, out, err = main(f"run_dir={run_dir}", "episodes=2")
    assert (code, json.loads(out)["policy"]) == (0, "actor"), err
    assert (run_dir / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"`run_dir` is missing\. For example: run_dir=runs/"),
        (["run_dir=nowhere"], r"No run in \S*/nowhere: it contains no config.yaml"),
        (["run_dir={run_dir}", "episodes=0"], r"`episodes` must be at least 1, got 0"),
        (
            ["run_dir={run_dir}", "checkpoint=first"],
            r"`checkpoint` must be best or last",
        ),
        (
            ["run_dir={run_dir}", "policy=explore"],
            r"`policy` must be actor: the run has no explorer that learns, got `?explore`?",
        ),
        (
            ["run_dir={run_dir}", "policy=random"],
            r"`policy` must be actor or explore, got `random`",
        ),
        (["run_dir={run_dir}", "episodes=abc"], r"`episodes` must be a whole number, got `abc`"),
        (["run_dir={run_dir}", "sample_actions=maybe"], r"`sample_actions` must be true or false"),
        (["run_dir={run_dir}", "video_fps=nan"], r"`video_fps` must be a whole number, got nan"),
        (["run_dir={run_dir}", "epsodes=3"], r"Unknown key `epsodes`\. The nearest: episodes"),
    ],
)
def test_what_cannot_be_played_is_one_line(main, run_dir, overrides, message):
    code, out, err = main(*(word.format(run_dir=run_dir) for word in overrides))
    assert code == 2
    assert out == ""
    first, error = err.splitlines()
    assert first.startswith("Starting an evaluation: ")
    assert error.startswith("error: ") and re.search(message, error)


def test_help_explains_every_key(main, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, err = main("--help")
    assert (code, err) == (0, "")
    for line in (
        "Usage: python -m dreamer.evaluate run_dir=... [key=value ...]",
        "  run_dir=...                       Folder of a finished or active run.",
        "  checkpoint=best                   Weights to load",
        "[policy steps >= 1]",
    ):
        assert line in out


@pytest.mark.slow
def test_the_copy_takes_the_place_of_a_missing_configuration(main, run_dir):
    (run_dir / "config.yaml").unlink()
    code, out, err = main(f"run_dir={run_dir}", "episodes=1")
    assert code == 0, err
    assert json.loads(out)["eval/episodes"] == 1
    assert f"Its copy {run_dir / 'checkpoints' / 'config.yaml'} is used." in err


def test_a_run_without_a_checkpoint_is_told(main, run_dir, tmp_path):
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.yaml").write_bytes((run_dir / "config.yaml").read_bytes())
    code, _, err = main("run_dir=young")
    assert code == 2
    last = tmp_path / "young" / "checkpoints" / "last.ckpt"
    assert f"error: No checkpoint {last}: the run has not saved one" in err


@pytest.mark.slow
def test_the_command_works_as_it_is_documented(run_dir, repository):
    command = [sys.executable, "-m", "dreamer.evaluate", f"run_dir={run_dir}", "episodes=2"]
    done = subprocess.run(command, cwd=repository, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["eval/episodes"] == 2
