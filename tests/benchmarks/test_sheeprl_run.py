"""SheepRL's whole-run benchmark: what is run, what is counted, and what goes wrong."""

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from benchmarks.peers.sheeprl_run import OUR_EXPERIMENT, RunError, run_sheeprl
from dreamer.run.build import make_agent, make_envs


@pytest.fixture
def stub(tmp_path, monkeypatch) -> Path:
    """A virtual environment whose `sheeprl` leaves the metrics of a finished run, or fails."""
    with SummaryWriter(str(tmp_path / "events")) as writer:
        writer.add_scalar("Params/replay_ratio", 248 / 5000, 5000)
        writer.add_scalar("Params/replay_ratio", 960 / 16_384, 16_384)
    scripts = tmp_path / "venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "python").touch()
    script = f'#!/bin/sh\necho "$@" $COLOUR\ncp -r {tmp_path}/events logs\n[ "$3" != fail ]\n'
    (scripts / "sheeprl").write_text(script)
    (scripts / "sheeprl").chmod(0o755)
    monkeypatch.setenv("BENCHMARK_SHEEPRL_VENV", str(scripts.parent))
    return tmp_path


def test_a_run_counts_what_it_did_from_its_own_metrics(stub):
    run = run_sheeprl(stub / "run", ["seed=7"], {"COLOUR": "red"})
    assert (run.policy_steps, run.updates) == (16_384, 960)
    assert 0 < run.seconds < 30
    said = (stub / "run" / "output.txt").read_text()
    assert said == "exp=dreamer_v2_benchmarks env.capture_video=false seed=7 red\n"


def test_a_failed_run_is_an_error_and_says_what_it_said(stub):
    with pytest.raises(RunError, match=r"exit code 1:\nexp=dreamer_v2_benchmarks"):
        run_sheeprl(stub / "run", ["fail"])


def test_a_run_takes_no_folder_of_another_one(stub):
    run_sheeprl(stub / "run")
    with pytest.raises(FileExistsError, match="must be empty"):
        run_sheeprl(stub / "run")


def test_a_missing_environment_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_SHEEPRL_VENV", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="PEER=sheeprl benchmarks/peers/setup.sh"):
        run_sheeprl(tmp_path / "run")


@pytest.mark.slow
def test_our_side_has_sheeprls_parameters(compose_any):
    """Counted in SheepRL 0.8.4 with `exp=dreamer_v2_benchmarks`."""
    pytest.importorskip("ale_py")
    cfg = compose_any("task=ms_pacman", f"experiment={OUR_EXPERIMENT}")
    envs = make_envs(cfg, seed=0)
    agent = make_agent(cfg, envs)
    networks = agent.world_model, agent.actor_critic.actor, agent.actor_critic.critic
    assert [sum(p.numel() for p in n.parameters()) for n in networks] == [20_352, 281, 209]
    assert envs.obs_shapes == {"image": (3, 64, 64)}
    assert cfg.total_frames / envs.action_repeat == 16_384
