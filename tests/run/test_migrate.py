"""Configurations of earlier versions become today's."""

import dataclasses

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny import IMAGE, make_agent
from torch.testing import assert_close

from dreamer.run.migrate import FORMAT, migrate

RETURNS = {"_target_": "dreamer.models.returns.LambdaReturns"}
START = {"init_from": None, "init_weights": "all", "total_updates": None}
START |= {"data": {"prefill": None, "mix": None, "train": None, "rename": None}}
START["data"] |= {"holdout": None, "pessimism": 0.0}
START |= {"iwae_samples": 1, "returns": RETURNS, "reward_input": False}
START |= {"probe": {}, "probe_gradients": False}
HEAD = {
    "_target_": "dreamer.models.mlp.HeadConfig",
    "layers": 1,
    "units": 8,
    "activation": "elu",
    "norm": "none",
}


def version_1(**world_model):
    """What an earlier version wrote, without what did not change."""
    settings = {
        "reward_head": HEAD | {"distribution": "mse"},
        "discount_head": HEAD | {"distribution": "binary"},
        "reward_gradients": False,
        "discount_gradients": True,
        "loss_scales": {"kl": 0.1, "reward": 3.0, "image": 2.0},
        "discount": 0.9,
    }
    world_model = settings | world_model
    return {"compile": "auto", "seed": 3, "model": {"horizon": 5, "world_model": world_model}}


def test_heads_get_names_gradients_and_scales():
    old = version_1()
    config = migrate(old)
    assert old == version_1()  # as it was
    assert config.keys() == {"seed", "model", *START}
    assert config["model"]["horizon"] == 5
    model = config["model"]["world_model"]
    assert model.keys() == {"heads", "loss_scales", "discount"}
    assert model["loss_scales"] == {"kl": 0.1, "image": 2.0, "observations": {}}
    heads = {name: instantiate(head) for name, head in model["heads"].items()}
    expected = {"layers": 1, "units": 8, "activation": "elu", "norm": "none", "shape": ()}
    assert dataclasses.asdict(heads["reward"]) == expected | {
        **{"distribution": "mse", "gradients": False, "scale": 3.0}
    }
    assert dataclasses.asdict(heads["discount"]) == expected | {
        **{"distribution": "binary", "gradients": True, "scale": 1.0}
    }


def test_runs_of_before_fine_tuning_start_from_nothing():
    old = {"format": 3, "seed": 2}
    assert migrate(old) == START | {"seed": 2}
    assert migrate(old | {"format": FORMAT}) == {"seed": 2}


def test_a_head_that_was_left_out_still_is():
    assert (
        migrate(version_1(discount_head=None))["model"]["world_model"]["heads"]["discount"] is None
    )


def test_a_configuration_of_this_version_stays_as_it_is():
    assert migrate({"format": FORMAT, "compile": "x", "model": {"a": 1}}) == {
        **{"compile": "x", "model": {"a": 1}}
    }


@pytest.mark.parametrize("who", ["actor", "random"])
@pytest.mark.parametrize("sampling", ["episodes", "steps"])
def test_names_become_what_they_stood_for(compose_tiny, who, sampling):
    old = {
        "collect_policy": who,
        "collect": {"overlap": True},
        "replay": {"sampling": sampling, "capacity_policy_steps": 9},
    }
    new = compose_tiny(
        f"collect_policy={who}",
        "collect=overlap",
        f"replay/sampling={sampling}",
        "replay.capacity_policy_steps=9",
    )
    config = migrate(old)
    for key in ("collect_policy", "collect"):
        assert config[key] == new[key]
    assert config["replay"].items() <= OmegaConf.to_container(new.replay).items()


@pytest.mark.parametrize("version", [FORMAT + 1, "new", None, 0])
def test_a_later_version_is_refused(version):
    with pytest.raises(ValueError, match=rf"`format` of config.yaml must be .*got {version}"):
        migrate({"format": version})


def test_what_is_no_configuration_of_an_agent_passes():
    for config in ({"model": None}, {"model": {"world_model": None}}, {}):
        assert migrate(config) == START | config


def test_weights_of_earlier_names_load():
    agent, other = make_agent(obs_shapes=IMAGE), make_agent(obs_shapes=IMAGE)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    weights = {
        key.replace("heads.reward.", "reward_head.").replace("heads.discount.", "discount_head."): x
        for key, x in other.state_dict().items()
    }
    assert any(".discount_head." in key for key in weights)
    agent.load_state_dict(weights)
    features = torch.randn(3, agent.world_model.feature_size)
    for name in ("reward", "discount"):
        ours, theirs = (x.world_model.heads[name](features).mean for x in (agent, other))
        assert_close(ours, theirs, rtol=0, atol=0)


def test_the_recurrent_cell_becomes_a_node():
    rssm = {"deter": 3, "layer_norm": False}
    config = migrate({"format": 4, "model": {"world_model": {"rssm": rssm, "discount": 0.9}}})
    model = config["model"]["world_model"]
    assert model.keys() == {"rssm", "discount", "iwae_samples"} and model["iwae_samples"] == 1
    assert model["rssm"].keys() == {"deter", "cell"}
    assert config["cell"] == model["rssm"]["cell"]
    assert instantiate(config["cell"]).layer_norm is False


def test_older_runs_have_no_entropy_in_their_targets_and_resize_at_once():
    acting = {"lambda_": 0.9}
    old = {
        "model": {"actor_critic": acting, "horizon": 3},
        "explore": {"actor_critic": acting},
        "env": {"_target_": "dreamer.envs.atari.make_atari"},
    }
    new = migrate({"format": 4} | old)
    acting = {"entropy_in_target": False, "returns": RETURNS} | acting
    assert new["model"] == {"actor_critic": acting, "horizon": 3}
    assert new["explore"] == {"actor_critic": acting}
    assert new["env"] == old["env"] | {"resize_through": None}
    own = {"model": {"actor_critic": {"_target_": "my.ActorCritic"}}}
    assert migrate({"format": 4} | own)["model"] == own["model"]


def test_only_our_agents_get_the_key_of_pessimism():
    ours, own = {"_target_": "dreamer.agent.AgentConfig"}, {"_target_": "my.AgentConfig"}
    assert migrate({"format": 4, "model": ours})["model"] == ours | {"pessimism": 0.0}
    assert migrate({"format": 4, "model": own})["model"] == own


def test_dummy_worlds_get_the_keys_of_maze_and_memory():
    dummy = {"_target_": "dreamer.envs.dummy.make_dummy", "length": 12}
    new = dummy | {"maze_length": 80, "maze_goal": 40, "doors": 1}
    assert migrate({"format": 3, "env": dummy})["env"] == new
    crafter = {"_target_": "dreamer.envs.crafter.make_crafter"}
    assert migrate({"format": 3, "env": crafter})["env"] == crafter


@pytest.mark.parametrize("target", ["dreamer.envs.gym.make_gym", "dreamer.envs.user.make_user"])
def test_gymnasium_environments_get_no_class_images(target):
    env = {"_target_": target, "flat_keys": "grid"}
    assert migrate({"format": 4, "env": env})["env"] == env | {"class_keys": "$^"}


def test_older_runs_carry_no_state():
    replay = {"_target_": "dreamer.replay.buffer.ReplayConfig", "device": "cpu"}
    assert migrate({"format": 4, "replay": replay})["replay"] == replay | {"carry_state": False}
    assert migrate({"format": FORMAT, "replay": replay})["replay"] == replay


def test_observations_and_returns_get_their_current_nodes():
    networks = {"image_keys": ".*", "_target_": "dreamer.models.encoder.ObservationConfig"}
    own = {"_target_": "my_module.MyConfig"}
    actor_critic = {"lambda_": 0.9, "actor": {"layers": 2}}
    old = {
        "format": 2,
        "model": {
            "world_model": {"encoder": networks, "decoder": networks},
            "actor_critic": actor_critic,
        },
        "explore": {"offset": 1, "actor_critic": actor_critic},
    }
    added = {"returns": RETURNS, "entropy_in_target": False}
    config = migrate(old)
    model = config["model"]
    encoder, decoder = (model["world_model"][name] for name in ("encoder", "decoder"))
    assert encoder == {
        "image_keys": ".*",
        "_target_": "dreamer.models.inputs.EncoderConfig",
        "reward_input": False,
        "classes": {},
    }
    assert decoder.keys() == {"image_keys", "_target_", "likelihood", "min_prob", "classes"}
    assert model["world_model"]["auxiliary"] == {}
    assert model["actor_critic"] == added | actor_critic
    assert config["explore"] == {"offset": 1, "actor_critic": added | actor_critic}
    unchanged = {"model": {"world_model": {"encoder": own}}}
    assert migrate({"format": 4} | unchanged)["model"] == unchanged["model"]


def test_older_runs_record_no_early_video():
    video = {"_target_": "dreamer.callbacks.video.OpenLoopVideo", "every_frames": 7}
    migrated = migrate({"format": 4, "callbacks": {"video": video, "metrics": {}}})
    assert migrated["callbacks"] == {"video": {"first_updates": 0, **video}, "metrics": {}}
    assert migrate({"format": 4, "callbacks": {"video": None}})["callbacks"] == {"video": None}
