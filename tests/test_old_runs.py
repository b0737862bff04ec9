"""Run folders that an earlier version made: they load, compute the same, resume, are evaluated."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import dreamer
from dreamer.run.compose import compose
from dreamer.run.evaluate import evaluate
from dreamer.run.train import train
from experiments.runs import read_runs

DATA = Path(__file__).parent / "old_runs"
RUNS = ("finished", "unfinished")
# The command line that made them, in today's words.
OVERRIDES = {
    "env": "dummy",
    "debug": "fast",
    "logger": ["jsonl"],
    "callbacks.evaluate.video_policy_steps": 0,
    "callbacks.video": None,
    "replay.capacity_policy_steps": 1500,
    "callbacks.checkpoint.every_frames": 200,
    **{f"sizes.{name}": size for name, size in {"depth": 1, "deter": 16}.items()},
    **{f"sizes.{name}": 16 for name in ("hidden", "units")},
    "model.world_model.encoder.vector.layers": [16],
}


@pytest.fixture
def old_runs(tmp_path) -> Path:
    """The folder of the two run folders, unpacked."""
    with tarfile.open(DATA / "runs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("name", RUNS)
def test_networks_of_an_old_run_compute_what_they_did(name, old_runs, optimized):
    agent = dreamer.load(old_runs / name, "last")
    networks = optimized(agent.networks)
    with np.load(DATA / "expected.npz") as file:
        arrays = {k: torch.from_numpy(file[k]) for k in file.files if k.startswith(f"{name}/")}
    given = {k.removeprefix(f"{name}/in/"): x for k, x in arrays.items() if "/in/" in k}
    expected = {k.removeprefix(f"{name}/out/"): x for k, x in arrays.items() if "/out/" in k}
    model, heads = networks.world_model, networks.actor_critic
    with torch.no_grad():
        obs = {key: given[key] for key in networks.obs_shapes}
        steps = model.encoder(obs), given["prev_action"], given["is_first"]
        posterior = model.rssm.observe(*steps, None, given["noise"])
        features = posterior.features
        actual = {
            "features": features,
            "prior_stats": model.rssm.prior_stats(posterior.deter),
            "reward": model.heads["reward"](features).mean,
            "discount": model.heads["discount"](features).mean,
            "action_mode": heads.policy(features).mode,
            "value": heads.critic(features).mean,
            "target_value": heads.target_critic(features).mean,
        }
        for key, distribution in model.decoder(features).items():
            actual[f"decoded_{key}"] = distribution.mean[0, 0]
    assert actual.keys() == expected.keys()
    assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_old_run_is_evaluated(name, old_runs):
    checkpoint = "best" if name == "finished" else "last"
    scores = evaluate(
        old_runs / name,
        episodes=2,
        checkpoint=checkpoint,
        seed=0,
        sample_actions=False,
        video_policy_steps=0,
        video_fps=15,
    )
    assert len(scores["returns"]) == 2
    assert scores["frames"] == {"finished": 1201, "unfinished": 1409}[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "frames", "updates", "total"),
    [("finished", "memory", 1201, 52, 1300), ("unfinished", "point", 1409, 65, 1600)],
)
def test_old_run_is_resumed(name, task, frames, updates, total, old_runs, capsys):
    cfg = {"task": task, "run_dir": str(old_runs / name), "total_frames": total}
    summary = train(compose(OVERRIDES, cfg))
    assert f"(resumed at frame {frames:,})" in capsys.readouterr().out
    assert total <= summary.frames < total + 16
    assert 0 <= summary.updates - (updates + (summary.frames - frames) // 16) <= 1
    lines = (old_runs / name / "metrics.jsonl").read_text().splitlines()
    assert '"world_model/' in lines[0]  # what was written before is still there
    assert any('"observations/' in line for line in lines[-2:])


def test_finished_old_run_is_left_alone(old_runs, capsys):
    before = {p: p.read_bytes() for p in (old_runs / "finished").rglob("*") if p.is_file()}
    cfg = {"task": "memory", "run_dir": str(old_runs / "finished"), "total_frames": 1200}
    train(compose(OVERRIDES, cfg))
    assert "Nothing to do" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in before} == before


def test_old_runs_appear_in_reports(old_runs):
    found = read_runs(old_runs)
    assert found.problems == []
    assert sorted(found.runs["task"]) == ["memory", "point"]
    assert len(found.curves)
