"""Loading what a run has trained."""

import json
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dreamer.run.build import make_envs
from dreamer.run.folder import RunFolder
from dreamer.run.load import load
from dreamer.run.train import train


def checkpoint(run_dir, name="last"):
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_a_trained_agent_is_loaded_and_acts(trained_run):
    agent = load(trained_run)
    envs = make_envs(RunFolder(trained_run).config(), seed=5)
    step = envs.reset()
    action, state = agent.policy(step.obs["image"][0])
    assert action in (0, 1)
    step = envs.step(np.eye(2, dtype=np.float32)[[action]])
    action, state = agent.policy({"image": step.obs["image"][0]}, state)
    assert action in (0, 1)


def test_its_environment_returns_what_its_policy_takes(trained_run):
    agent = load(trained_run)
    env, state, total, ended = agent.make_env(), None, 0.0, False
    observation, _ = env.reset(seed=3)
    while not ended:
        action, state = agent.policy(observation, state)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, ended = total + reward, terminated or truncated
    assert total in (-2, 0, 2)
    assert env.render().shape == (256, 256, 3)


def test_its_environment_need_not_be_there(trained_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "dreamer.envs.dummy", None)
    assert load(trained_run, "last").frames == 81


def test_a_folder_that_does_not_name_its_spaces_asks_the_environment(finished_run):
    described = json.loads((finished_run / "spaces.json").read_text())
    (finished_run / "spaces.json").unlink()
    agent = load(finished_run)
    assert agent.codec.obs_shapes == {"image": (1, 64, 64)}
    assert agent.codec.to_dict() == described


@pytest.mark.slow
def test_best_and_last_are_told_apart(finished_run):
    best, last = load(finished_run, "best"), load(finished_run, "last")
    assert best.frames == checkpoint(finished_run, "best")["counters"]["frames"] < 81
    assert (last.frames, last.updates) == (81, 6)
    for name, value in last.networks.state_dict().items():
        assert value.equal(checkpoint(finished_run)["state_dict"][name])
    (finished_run / "checkpoints" / "best.ckpt").unlink()
    assert load(finished_run).frames == 81


def test_what_cannot_be_loaded_is_told(finished_run, tmp_path):
    with pytest.raises(FileNotFoundError, match="No run in .*nowhere: it contains no config.yaml"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`checkpoint` must be best or last, got `newest`"):
        load(finished_run, "newest")
    cfg = OmegaConf.load(finished_run / "config.yaml")
    cfg.model.world_model.rssm.deter = 40
    OmegaConf.save(cfg, finished_run / "config.yaml")
    with pytest.raises(ValueError, match="must be a checkpoint of the agent in config.yaml"):
        load(finished_run)


@pytest.mark.slow
def test_either_policy_of_a_run_with_exploration_is_loaded(explored_run):
    obs = np.random.default_rng(0).integers(256, size=(8, 1, 64, 64), dtype=np.uint8)
    for name in ("actor", "explore"):
        agent, acted = load(explored_run, "last", policy=name), []
        explorer = agent.networks.components["explore"].actor_critic
        agent.networks.actor_critic.actor.register_forward_hook(note("actor", acted))
        explorer.actor.register_forward_hook(note("explore", acted))
        agent.policy({"image": obs})
        agent.imagine({"image": obs}, np.zeros(7, int), horizon=2)
        assert set(acted) == {name}


def note(name, acted):
    return lambda *_: acted.append(name)


@pytest.mark.slow
def test_a_policy_that_a_run_does_not_have_is_refused(trained_run, explored_run, compose_tiny):
    random = train(compose_tiny("explore=random", "callbacks.evaluate=null")).run_dir
    for run_dir in (trained_run, random):
        with pytest.raises(
            ValueError, match="`policy` must be actor: the run has no explorer that"
        ):
            load(run_dir, policy="explore")
    with pytest.raises(ValueError, match="`policy` must be actor or explore, got .*best"):
        load(explored_run, policy="best")
