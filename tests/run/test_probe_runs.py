"""Runs with a probe: what MiniGrid provides for it, what is logged and saved, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import dreamer
from dreamer.models.probe_loss import AuxiliaryProbe
from dreamer.probes import PROBE, Probe
from dreamer.run.build import make_agent, make_envs
from dreamer.run.choices import choice_of
from dreamer.run.config import checked
from dreamer.run.train import train
from dreamer.types import HIDDEN

ROOM = ("env=minigrid", "task=Empty-5x5", "env.observation=symbolic", "debug=fast", "logger=jsonl")
SHORT = (
    "total_frames=200",
    "prefill_policy_steps=150",
    "callbacks.metrics.every_frames=40",
    "callbacks.evaluate=null",
)


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("probe", "provided"),
    [
        ("none", (False, False)),
        ("map", (True, False)),
        ("goals", (False, True)),
        ("map_goals", (True, True)),
    ],
)
def test_minigrid_provides_what_the_probe_needs(compose_any, probe, provided):
    pytest.importorskip("minigrid")
    cfg = checked(compose_any(*ROOM, f"probe={probe}"))
    assert (cfg.env.map, cfg.env.goals) == provided
    assert choice_of(cfg, "probe") == probe
    envs = make_envs(cfg, seed=0)
    try:
        agent = make_agent(cfg, envs)
    finally:
        envs.close()
    assert list(agent.components) == ([] if probe == "none" else [PROBE])
    assert any(key.startswith(HIDDEN) for key in envs.obs_shapes) == any(provided)


def test_probe_gradients_need_a_probe(compose_any):
    with pytest.raises(ValueError, match="`probe_gradients` must be false with probe=none"):
        checked(compose_any(*ROOM, "probe_gradients=true"))


def test_a_probe_of_ones_own_trains_the_world_model_only_if_it_can(compose_tiny):
    own = ("probe._target_=probe.ProbeConfig", "+probe.key=vector", "+probe.size=2")
    own += ("+probe.optimizer=${model.critic_optimizer}",)
    cfg = checked(compose_tiny(*(f"+{x}" if x.startswith("probe._") else x for x in own)))
    envs = make_envs(cfg, seed=0)
    try:
        assert PROBE in make_agent(cfg, envs).components
        cfg = checked(compose_tiny(*(f"+{x}" if x[:7] == "probe._" else x for x in own),
                                   "probe_gradients=true"))  # fmt: skip
        with pytest.raises(ValueError, match="without the method `auxiliary`, got true with"):
            make_agent(cfg, envs)
    finally:
        envs.close()


def test_an_environment_without_a_map_is_refused_in_one_line(compose_tiny):
    cfg = checked(compose_tiny("probe=map"))
    envs = make_envs(cfg, seed=0)
    try:
        with pytest.raises(ValueError, match="`probe` must be none in an environment without"):
            make_agent(cfg, envs)
    finally:
        envs.close()


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [False, True], ids=["component", "gradients"])
def test_a_run_logs_films_saves_and_loads_its_probe(compose_any, tmp_path, gradients):
    pytest.importorskip("minigrid")
    words = ("probe=map_goals", f"probe_gradients={str(gradients).lower()}", f"root={tmp_path}")
    run_dir = Path(train(compose_any(*ROOM, *SHORT, *words)).run_dir)
    prefix = "world_model/probe_" if gradients else "probe/"
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if f"{prefix}loss" in line][-1]
    assert 0 < last[f"{prefix}acc_map"] <= 1
    assert 0 < last[f"{prefix}acc_map_where_seen"] <= 1
    assert last[f"{prefix}mse_goals"] > 0
    for name in ("probe_map", "probe_goals"):
        assert [*(run_dir / "videos").glob(f"{name}_*.mp4")], name

    loaded = dreamer.load(run_dir, "last")
    networks = loaded.networks
    part = (networks.world_model.auxiliary if gradients else networks.components)[PROBE]
    assert isinstance(part, AuxiliaryProbe if gradients else Probe)
    own = {key: np.zeros(shape) for key, shape in networks.obs_shapes.items() if HIDDEN not in key}
    torch.manual_seed(0)
    action, _ = loaded.policy(own)  # which asks for nothing else
    assert 0 <= action < 7
