"""Parts of a user's own, chosen by `_target_`: they are used, saved with the run, and checked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from extensions import Lamp, Mixed, Recent, UniformMix
from omegaconf import OmegaConf

import dreamer
from dreamer.policy import SnapshotPolicy
from dreamer.run.compose import compose
from dreamer.run.config import checked
from dreamer.run.train import train

MIXED = ("collect_policy._target_=extensions.Mixed", "+collect_policy.random_share=0.5")


@pytest.fixture(autouse=True)
def nothing_made_yet():
    Mixed.made.clear()


# ------------------------------------------------------------------------------------- policy


@pytest.mark.slow
def test_a_policy_of_a_users_own_collects_after_the_prefill(compose_tiny):
    summary = train(compose_tiny(*MIXED))
    (policy,) = Mixed.made
    assert summary.frames == 81
    assert policy.steps >= 81 - 48 > policy.random_steps > 0
    assert policy.refreshed == []
    assert policy.context.action_space.size == 2
    assert policy.context.obs_shapes == {"image": (1, 64, 64)}
    cfg = OmegaConf.load(Path(summary.run_dir) / "config.yaml")
    assert cfg.collect_policy._target_ == "extensions.Mixed"
    assert cfg.collect_policy.random_share == 0.5


@pytest.mark.slow
def test_a_policy_beside_the_update_acts_with_a_snapshot_and_is_told_to_refresh(compose_tiny):
    train(compose_tiny(*MIXED, "collect=overlap"))
    (policy,) = Mixed.made
    assert isinstance(policy.context.actor, SnapshotPolicy)
    assert policy.refreshed == [48, 49, 57, 65, 73]


@pytest.mark.slow
def test_a_policy_gets_the_components_of_the_agent(compose_tiny):
    probe = "+model.components.probe"
    train(
        compose_tiny(
            *MIXED,
            f"{probe}._target_=probe.ProbeConfig",
            f"{probe}.optimizer=${{model.critic_optimizer}}",
            f"{probe}.key=image",
            f"{probe}.size=9",
        )
    )
    assert Mixed.made[0].context.components.keys() == {"probe"}


def test_a_library_call_chooses_a_policy_by_its_target(tmp_path):
    policy = {"_target_": "extensions.Mixed", "random_share": 0.25}
    cfg = checked(compose({"env": "dummy", "task": "memory", "collect_policy": policy}))
    assert cfg.collect_policy.random_share == 0.25
    same = checked(
        compose(
            {"env": "dummy", "task": "memory", "collect_policy._target_": "extensions.Mixed"},
            {"collect_policy.random_share": 0.25},
        )
    )
    assert same.collect_policy == cfg.collect_policy


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            MIXED[:1],
            "`collect_policy` cannot be built from extensions.Mixed: missing .*random_share",
        ),
        (
            (*MIXED, "+collect_policy.wings=2"),
            "Unknown key `collect_policy.wings`. The nearest: ",
        ),
        (
            ("collect_policy._target_=extensions.stubborn",),
            r"of shape \(1, 2\), got \[\[1.0, 0.0\]\]",
        ),
        (
            ("collect_policy._target_=extensions.no_policy",),
            "`collect_policy._target_` must make a policy, a function of .*, got 3",
        ),
        (("~collect_policy._target_",), "`collect_policy` must be a node with a `_target_`, got "),
    ],
)
def test_a_policy_that_cannot_be_is_told(compose_tiny, words, message):
    with pytest.raises(Exception, match=message):
        train(compose_tiny(*words))


def test_a_name_may_stand_for_a_file_in_an_experiment(compose_tiny):
    cfg = compose_tiny()
    cfg.collect_policy, cfg.collect, cfg.replay.sampling = "random", "overlap", "episodes"
    named = checked(cfg)
    chosen = checked(
        compose_tiny("collect_policy=random", "collect=overlap", "replay/sampling=episodes")
    )
    assert named == chosen
    cfg.collect_policy = "boldly"
    with pytest.raises(
        ValueError, match="`collect_policy` must be one of actor, random, or a node"
    ):
        checked(cfg)


# ------------------------------------------------------------------------------------ sampler


@pytest.mark.slow
def test_a_sampler_of_a_users_own_decides_what_is_learned_from(compose_tiny, monkeypatch):
    samplers, keep = [], Recent.propose

    def propose(self, *args):
        samplers.append(self)
        return keep(self, *args)

    monkeypatch.setattr(Recent, "propose", propose)
    recent = "replay.sampling._target_=extensions.Recent"
    train(compose_tiny(recent, "+replay.sampling.window_policy_steps=40"))
    assert samplers[0].window == 40
    with pytest.raises(
        ValueError, match="`replay.sampling` cannot be built from extensions.Recent"
    ):
        train(compose_tiny(recent, "seed=1"))


# ------------------------------------------------------------------------------------ latents


@pytest.mark.slow
def test_latents_of_a_users_own_are_used_saved_and_loaded(compose_tiny):
    words = ("latents._target_=extensions.UniformMix", "+latents.share=0.3")
    train(compose_tiny(*words, "total_frames=64"))
    summary = train(compose_tiny(*words))
    assert "latents_uniformmix" in summary.run_dir
    agent = dreamer.load(summary.run_dir, allow=["extensions"])
    latent = agent.networks.world_model.rssm.latent
    assert latent == UniformMix(variables=4, classes=4, share=0.3)
    posterior = agent.networks.world_model.rssm.initial(3)
    stats = agent.networks.world_model.rssm.prior_stats(posterior.deter)
    assert stats.softmax(-1).min() >= 0.3 / 4 - 1e-6
    assert torch.isfinite(stats).all()


# ------------------------------------------------------------------------------- environments


@pytest.mark.slow
def test_a_group_of_environments_of_a_users_own_is_trained_in(tmp_path):
    run = dreamer.train(
        overrides={
            "env": "dummy",
            "debug": "fast",
            "env._target_": "extensions.make_memory",
            **{f"callbacks.{name}": None for name in ("evaluate", "video")},
            "logger": "jsonl",
            "task": "memory",
            "total_frames": 300,
            "prefill_policy_steps": 200,
            "root": str(tmp_path),
        }
    )
    assert run.summary.frames == 300


def test_a_function_that_makes_one_environment_needs_no_registration(compose_any, tmp_path):
    cfg = compose_any(
        *("env=own", "env.factory=extensions:Lamp", "task=lamp", "debug=fast", "logger=none"),
        *("total_frames=250", "prefill_policy_steps=200", "callbacks.evaluate=null"),
        *("callbacks.video=null", f"root={tmp_path}"),
    )
    assert train(cfg).frames == 250
    agent = dreamer.load(tmp_path / "own/lamp/debug/seed0")
    assert agent.policy(np.float32([1, 0]))[0] in (0, 1)
    assert Lamp().reset(seed=0)[0].shape == (2,)


def test_one_environment_in_the_place_of_a_group_is_told(compose_any):
    message = (
        "`env._target_` must make a group of environments .* from extensions.make_lamp.*env=own"
    )
    with pytest.raises(ValueError, match=message):
        train(compose_any("env=gym", "task=lamp", "env._target_=extensions.make_lamp"))
