"""The trained agents of this package: each plays to its recorded score."""

import json
import runpy
import sys

import pytest

import dreamer
from dreamer.run import pretrained
from dreamer.run.export import play_episode
from dreamer.run.paths import PRETRAINED, pretrained_names
from experiments import report

LIMIT = 16 << 20  # bytes of all agents together
TOLD = {"boxing", "cartpole", "empty_room", "memory"}  # agents that the documentation names
PLAYED = 2  # episodes of each agent; one of Boxing, whose episodes are long


def scores_of(name):
    return json.loads((PRETRAINED / name / "scores.json").read_text())


def test_the_documented_agents_are_there_and_small():
    assert set(pretrained_names()) == TOLD
    files = [path for path in PRETRAINED.rglob("*") if path.is_file()]
    assert {path.parent.parent for path in files} == {PRETRAINED}
    assert sum(path.stat().st_size for path in files) <= LIMIT


@pytest.mark.parametrize("name", pretrained_names())
def test_every_agent_names_its_command_and_its_scores(name):
    scores = scores_of(name)
    assert scores["command"].startswith("python train.py env=")
    assert scores["episodes"] == len(scores["returns"]) >= 20
    assert scores["interval"][0] <= scores["mean"] <= scores["interval"][1]
    for path in (PRETRAINED / name).glob("*.[jy]*"):
        assert "/tmp" not in path.read_text() and "/work" not in path.read_text(), path


@pytest.mark.slow
@pytest.mark.parametrize("name", pretrained_names())
def test_every_agent_plays_to_its_recorded_score(name):
    agent = dreamer.load(f"pretrained/{name}")
    scores, env = scores_of(name), agent.make_env()
    rows = scores["returns"][: 1 if name == "boxing" else PLAYED]
    for row in rows:
        score = play_episode(agent, env, row["seed"]).score
        # Processors round differently, and a rounded action may lead elsewhere.
        worst, best = (f(x["return"] for x in scores["returns"]) for f in (min, max))
        margin = 0.1 * (abs(worst) + abs(best))
        assert score == pytest.approx(row["return"], rel=1e-3) or (
            worst - margin <= score <= best + margin
        )
    env.close()


def test_an_unknown_name_lists_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="name of a trained agent .*memory.*got `memroy`"):
        dreamer.load("pretrained/memroy")
    with pytest.raises(ValueError, match="name of a trained agent .*memory.*got `memroy`"):
        pretrained.find_agent("memroy")


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained" / "memory").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="No run in"):
        dreamer.load("pretrained/memory")


def test_a_command_plays_with_it_and_writes_to_runs(tmp_path, monkeypatch, capsys):
    def evaluate(*words):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
        runpy.run_module("dreamer.evaluate", run_name="__main__", alter_sys=False)

    monkeypatch.chdir(tmp_path)
    evaluate("pretrained=memory", "episodes=2")
    assert json.loads(capsys.readouterr().out)["eval/return_mean"] == 2
    assert (tmp_path / "runs" / "pretrained" / "memory" / "evaluation.json").is_file()
    with pytest.raises(SystemExit):
        evaluate("pretrained=memory", "run_dir=x")
    assert "`pretrained` must be left out with `run_dir`" in capsys.readouterr().err


def test_reports_take_its_name(tmp_path):
    request = report.parse(["pretrained=memory"])
    assert request.folders == [PRETRAINED / "memory"]
    assert str(request.out) == "reports/pretrained/memory"
    with pytest.raises(ValueError, match="`pretrained` must be a trained agent .*memory"):
        report.parse(["pretrained=memroy"])
    with pytest.raises(ValueError, match="must be a folder of runs, two runs, source=published"):
        report.parse(["runs", "pretrained=memory"])
