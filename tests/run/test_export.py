"""Exporting an agent, and what loads, plays and reports it."""

import json
import uuid

import fsspec
import pytest
import torch

import dreamer
from dreamer.cli.export import main, parse
from dreamer.envs.group import EnvironmentFault
from dreamer.run import pretrained
from dreamer.run.evaluate import evaluate
from dreamer.run.export import export, interval_of_mean, play_episode
from dreamer.run.export_settings import ExportSettings
from dreamer.run.load import load
from dreamer.tensor_file import load_tensors
from experiments import report

FILES = {"weights.safetensors", "config.yaml", "spaces.json", "metrics.jsonl", "summary.json"}
FILES |= {"scores.json"}


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory):
    """The folder of an exported agent."""
    folder = tmp_path_factory.mktemp("exports") / "agent"
    export(trained_run, ExportSettings(to=str(folder), episodes=3, seed=7, command="by hand"))
    return folder


def test_an_export_is_small_and_names_no_folder_of_its_author(exported, trained_run):
    assert {path.name for path in exported.iterdir()} == FILES
    size = (exported / "weights.safetensors").stat().st_size
    assert size < (trained_run / "checkpoints" / "best.ckpt").stat().st_size / 4
    for path in exported.iterdir():
        assert str(trained_run.parent).encode() not in path.read_bytes(), path.name


def test_its_weights_are_those_of_the_run_but_for_their_rounding(exported, trained_run):
    there, here = load(trained_run), load(exported)
    assert (here.frames, here.updates) == (there.frames, there.updates)
    expected = there.networks.state_dict()
    for name, value in here.networks.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-6)
    stored = load_tensors(exported / "weights.safetensors")
    assert torch.float16 in {value.dtype for value in stored.values()}


def test_float32_keeps_every_bit(trained_run, tmp_path):
    options = {"episodes": 1, "weights": "float32"}
    export(trained_run, ExportSettings(to=str(tmp_path / "agent"), **options))
    expected = load(trained_run).networks.state_dict()
    for name, value in load(tmp_path / "agent").networks.state_dict().items():
        assert value.equal(expected[name]), name


def test_an_episode_is_played_again_from_its_seed(exported):
    scores = json.loads((exported / "scores.json").read_text())
    assert [row["seed"] for row in scores["returns"]] == [7, 8, 9]
    assert scores["episodes"] == 3 and scores["command"] == "by hand"
    assert scores["mean"] == pytest.approx(sum(x["return"] for x in scores["returns"]) / 3)
    agent = load(exported)
    env = agent.make_env()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    for row in reversed(scores["returns"]):
        episode = play_episode(agent, env, row["seed"])
        assert (episode.score, episode.policy_steps) == (row["return"], row["policy_steps"])
    assert torch.get_rng_state().equal(before)
    assert play_episode(agent, env, 7, max_policy_steps=3).policy_steps == 3


def test_the_interval_of_a_mean_covers_it():
    low, high = interval_of_mean([0.0, 1.0, 2.0, 3.0] * 25)
    assert 1.25 < low < 1.5 < high < 1.75
    assert interval_of_mean([3.0, 3.0]) == [3.0, 3.0]


def test_it_is_evaluated_elsewhere(exported, tmp_path):
    files = {path: path.read_bytes() for path in exported.iterdir()}
    options = dict(checkpoint="best", seed=0, sample_actions=False)
    options |= dict(video_policy_steps=4, video_fps=5)
    scores = evaluate(exported, out=tmp_path / "out", episodes=2, **options)
    assert (tmp_path / "out" / "evaluation.json").is_file()
    assert scores["video"].startswith(str(tmp_path / "out"))
    assert {path: path.read_bytes() for path in exported.iterdir()} == files


def test_an_agent_at_an_address_is_downloaded(trained_run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    address = f"memory://{uuid.uuid4()}/agent"
    export(trained_run, ExportSettings(to=address, episodes=1))
    assert dreamer.load(address).frames == dreamer.load(trained_run).frames
    folder = pretrained.find_agent(address)
    assert {path.name for path in folder.iterdir()} == FILES
    fsspec.filesystem("memory").rm(f"{address}/scores.json")
    assert not (pretrained.find_agent(address) / "scores.json").exists()
    with pytest.raises(FileNotFoundError, match="No agent at .*elsewhere: it has no weights"):
        dreamer.load(f"{address}/elsewhere")


def test_mistakes_are_told(exported, trained_run, tmp_path):
    with pytest.raises(ValueError, match="`to` must be empty or new, got"):
        export(trained_run, ExportSettings(to=str(exported)))
    with pytest.raises(ValueError, match="`to` is missing"):
        export(trained_run, ExportSettings())
    with pytest.raises(FileNotFoundError, match="No run in .*nowhere"):
        export(tmp_path / "nowhere", ExportSettings(to=str(tmp_path / "agent")))
    with pytest.raises(ValueError, match="There must be one run folder, got none"):
        parse(["to=agent"])
    assert parse(["runs/layer_norm=false/seed0", "to=a"])[0] == "runs/layer_norm=false/seed0"
    path = exported / "weights.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1])
        with pytest.raises(ValueError, match="weights.safetensors is damaged"):
            load(exported)
        path.write_bytes(b"\x08" + b"\0" * 7 + b"{}      ")
        with pytest.raises(ValueError, match="must be a file of dreamer.export"):
            load(exported)
    finally:
        path.write_bytes(whole)


def test_the_command_ends_with_the_score(trained_run, tmp_path, capsys):
    assert main([str(trained_run), f"to={tmp_path / 'agent'}", "episodes=1"]) == 0
    assert "mean return" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(trained_run), f"to={tmp_path / 'agent'}"])
    assert "`to` must be empty or new" in capsys.readouterr().err


def test_a_failing_environment_is_one_line(monkeypatch, capsys):
    def fail(*_):
        raise EnvironmentFault("It broke.")

    monkeypatch.setattr("dreamer.run.export.export", fail)
    with pytest.raises(SystemExit):
        main(["runs", "to=agent"])
    assert capsys.readouterr().err == "error: It broke.\n"


def test_reports_show_its_score_and_command(exported):
    results = report.results_of(report.parse([str(exported)]))
    (title,) = [name for name in results.shown if name.startswith("Exported agents")]
    row = results.shown[title].iloc[0]
    assert (row["agent"], row["episodes"], row["command"]) == ("dummy/memory", "3", "by hand")
