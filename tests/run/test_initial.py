"""Initial weights: what fits is loaded, and the rest is reported or refused in a line."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from probe import ProbeConfig
from test_convert import ACTIONS, GOLDEN, OBS_SHAPES, make_networks
from tiny import (
    ACTOR_CRITIC,
    CONTINUOUS,
    IMAGE,
    OPTIMIZER,
    WORLD_MODEL,
    make_agent,
    model_head,
)
from torch.testing import assert_close

import dreamer
from dreamer.run.folder import RunFolder
from dreamer.run.initial import load_initial
from dreamer.run.migrate import FORMAT
from dreamer.run.train import train
from dreamer.types import ActionSpace

PROBE = ProbeConfig(OPTIMIZER, "angle", 9)


@pytest.fixture
def save(tmp_path):
    """Save an agent as a checkpoint; returns its path."""

    def write(agent, name="some.ckpt", **changes) -> Path:
        path = tmp_path / name
        counters = {"frames": 1234, "policy_steps": 617, "updates": 89}
        torch.save({"state_dict": agent.state_dict() | changes, "counters": counters}, path)
        return path

    return write


def load(agent, path, weights="all"):
    cfg = OmegaConf.create({"init_from": str(path), "init_weights": weights})
    return load_initial(cfg, agent)


def other(**options):
    """An agent whose every number differs from that of seed 0."""
    agent = make_agent(seed=1, **options)
    with torch.no_grad():
        for value in agent.state_dict().values():
            value.normal_()
    return agent


def test_the_whole_agent_is_loaded_in_place(save):
    source, agent = other(), make_agent()
    places = {name: value.data_ptr() for name, value in agent.state_dict().items()}
    lines = load(agent, path := save(source))
    assert lines == {
        "weights": f"{path}, of frame 1,234",
        "loaded": "world model, actor, critic, target critic, reward norm",
    }
    assert_close(agent.state_dict(), source.state_dict(), rtol=0, atol=0)
    assert {name: x.data_ptr() for name, x in agent.state_dict().items()} == places
    assert (agent.frames, agent.policy_steps, agent.updates) == (0, 0, 0)
    assert all(p.requires_grad for p in agent.world_model.parameters())
    assert not any(p.requires_grad for p in agent.actor_critic.target_critic.parameters())


def test_only_the_world_model_is_loaded(save):
    source, agent, fresh = other(), make_agent(), make_agent()
    lines = load(agent, save(source), "world_model")
    assert lines["loaded"] == "world model"
    assert lines["not loaded"] == (
        "actor, critic, target critic, reward norm (init_weights=world_model)"
    )
    assert lines.keys() == {"weights", "loaded", "not loaded"}
    assert_close(agent.world_model.state_dict(), source.world_model.state_dict(), rtol=0, atol=0)
    assert_close(agent.actor_critic.state_dict(), fresh.actor_critic.state_dict(), rtol=0, atol=0)


def test_components_come_and_go(save):
    agent, path = make_agent(), save(other(components={"my_probe": PROBE}))
    assert load(agent, path)["not loaded"] == "not in this agent: my_probe"
    assert load(agent, path, "world_model")["not loaded"] == (
        "actor, critic, target critic, reward norm, my_probe (init_weights=world_model)"
    )
    agent = make_agent(components={"my_probe": PROBE})
    lines = load(agent, save(other(), "bare.ckpt"))
    assert lines["not found"] == "my_probe"
    assert lines["loaded"] == "world model, actor, critic, target critic, reward norm"


def test_a_component_named_like_a_network_keeps_its_own_weights(save):
    source = other(components={"target_critic": PROBE})
    agent = make_agent(components={"target_critic": PROBE})
    load(agent, save(source))
    assert_close(agent.state_dict(), source.state_dict(), rtol=0, atol=0)


def test_other_actions_and_observations_leave_out_what_they_change(save):
    source = other()
    agent = make_agent(ActionSpace(5, discrete=True))
    lines = load(agent, save(source))
    assert lines["does not fit"] == (
        "world model: rssm.img_in.linear.weight (there 12 x 26, here 12 x 29); "
        "actor: out.out.weight (there 2 x 10, here 5 x 10) and 1 more"
    )
    assert lines["loaded"].endswith(" of actor, critic, target critic, reward norm")
    assert_close(agent.world_model.decoder.state_dict(), source.world_model.decoder.state_dict())

    lines = load(make_agent(CONTINUOUS, obs_shapes=IMAGE), save(source))
    assert (
        lines["not loaded"]
        == "not in this agent: world model (decoder.outputs, decoder.vector, encoder.vector)"
    )
    assert lines["not found"] == ("world model (encoder.image, decoder.image), actor (out.std)")
    assert "rssm.obs_out.linear.weight (there 12 x 27, here" in lines["does not fit"]


def test_a_long_list_is_cut(save):
    wide = dataclasses.replace(ACTOR_CRITIC.critic, units=17)
    agent = make_agent(actor_critic=dataclasses.replace(ACTOR_CRITIC, critic=wide))
    lines = load(agent, save(other()))
    first = "trunk.0.linear.weight (there 10 x 40, here 17 x 40) and 4 more"
    assert lines["does not fit"] == f"critic: {first}; target critic: {first}"
    assert lines["loaded"].endswith(
        "actor, 1 of 6 tensors of critic, 1 of 6 tensors of target critic, reward norm"
    )


def test_a_critic_without_slow_copy_gets_the_weights_of_the_critic(save):
    source = other()
    agent = make_agent(actor_critic=dataclasses.replace(ACTOR_CRITIC, slow_critic=False))
    load(agent, save(source))
    critic = source.actor_critic.critic.state_dict()
    assert_close(agent.actor_critic.critic.state_dict(), critic, rtol=0, atol=0)


def test_checkpoints_of_old_names_are_loaded(save):
    source, agent = other(), make_agent()
    state = {
        name.replace("heads.reward.", "reward_head."): value
        for name, value in source.state_dict().items()
    }
    path = save(source)
    torch.save({"state_dict": state, "counters": {"frames": 1, "updates": 2}}, path)
    assert load(agent, path).keys() == {"weights", "loaded"}
    assert_close(agent.state_dict(), source.state_dict(), rtol=0, atol=0)


def test_a_new_head_starts_fresh(save):
    heads = {**WORLD_MODEL.heads, "speed": model_head()}
    agent = make_agent(world_model=dataclasses.replace(WORLD_MODEL, heads=heads))
    assert load(agent, save(other()))["not found"] == "world model (heads.speed)"


@pytest.mark.parametrize("weights", ["all", "world_model"])
def test_weights_of_which_no_matrix_fits_are_refused(save, weights):
    agent, path = make_agent(), save(other())
    state = {name: torch.zeros(*x.shape, 3) for name, x in agent.state_dict().items() if x.ndim > 1}
    path = save(other(), **state)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    message = (
        r"`init_from` must hold weights that fit this agent, got .*some.ckpt, of which no matrix "
        r"has the name and shape of one here \(for example world_model\..*: there .* x 3, here "
    )
    with pytest.raises(ValueError, match=message):
        load(agent, path, weights)
    assert_close(agent.state_dict(), before, rtol=0, atol=0)


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, save):
    good = save(make_agent())
    torch.save({"counters": {"frames": 1, "updates": 1}}, tmp_path / "empty.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "text.ckpt").write_text("some text")
    (tmp_path / "nothing.ckpt").touch()
    (tmp_path / "bytes.ckpt").write_bytes(bytes(range(256)))
    (tmp_path / "code.ckpt").write_bytes(pickle.dumps(Path("x")))
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.pkl").write_text("some text")
    (tmp_path / "bytes.pkl").write_bytes(b"N}b.")
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(Path("x")))
    for name, reason in {
        "no.ckpt": "which does not exist",
        "folder": "it has no checkpoints/last.ckpt",
        "empty.ckpt": "it holds no weights",
        **{f"{kind}.ckpt": "is damaged" for kind in ("list", "cut", "text", "nothing")},
        **{f"{kind}.ckpt": "is damaged" for kind in ("bytes", "code")},
        **{"text.pkl": "is damaged or no pickle of arrays", "code.pkl": "arrays only"},
        **{"bytes.pkl": "is damaged or no pickle of arrays"},
    }.items():
        message = f"^`init_from` must be a run folder or a checkpoint, got {tmp_path / name}.*"
        with pytest.raises(ValueError, match=message + reason) as caught:
            load(make_agent(), tmp_path / name)
        assert "\n" not in str(caught.value)
        assert "mv " not in str(caught.value)  # no advice on resuming that run


def test_a_run_folder_means_its_last_checkpoint(finished_run):
    cfg = RunFolder(finished_run).config()
    loaded = dreamer.load(finished_run, "last").networks
    for path in (finished_run, finished_run / "checkpoints" / "last.ckpt"):
        agent = make_fresh(finished_run)
        assert load(agent, path)["weights"].endswith("checkpoints/last.ckpt, of frame 81")
        assert_close(agent.state_dict(), loaded.state_dict(), rtol=0, atol=0)
    best = load(make_fresh(finished_run), finished_run / "checkpoints" / "best.ckpt")
    assert best["weights"].split()[-1] < "81"
    assert cfg.init_from is None


def make_fresh(run_dir):
    from dreamer.envs.codecs import codec_from_dict
    from dreamer.run.build import make_agent as build

    folder = RunFolder(run_dir)
    return build(folder.config(), codec_from_dict(folder.spaces() or {}))


@pytest.mark.parametrize("part", ["", "checkpoints/last.ckpt"])
def test_a_run_of_a_later_version_is_refused(finished_run, part):
    config = finished_run / "config.yaml"
    config.write_text(config.read_text().replace(f"format: {FORMAT}", f"format: {FORMAT + 1}"))
    with pytest.raises(ValueError, match="a later version of this program wrote it") as caught:
        load(make_agent(), finished_run / part)
    assert str(caught.value).startswith("`init_from` must be a run folder or a checkpoint, got")


def test_the_authors_weights_are_loaded():
    model, heads = make_networks()
    agent = make_agent(
        ACTIONS, obs_shapes=OBS_SHAPES, world_model=model.config, actor_critic=heads.config
    )
    assert load(agent, GOLDEN / "variables.pkl") == {
        "weights": str(GOLDEN / "variables.pkl"),
        "loaded": "world model, actor, critic, target critic, reward norm",
    }
    from dreamer.convert import load_variables_pkl

    load_variables_pkl(GOLDEN / "variables.pkl", model, heads)
    assert_close(agent.world_model.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert_close(agent.actor_critic.state_dict(), heads.state_dict(), rtol=0, atol=0)


def test_the_authors_weights_of_another_size_are_refused_in_one_line():
    model, heads = make_networks(deter=8)
    agent = make_agent(
        ACTIONS, obs_shapes=OBS_SHAPES, world_model=model.config, actor_critic=heads.config
    )
    with pytest.raises(ValueError, match="`init_from` must be .* wrong shape: ") as caught:
        load(agent, GOLDEN / "variables.pkl")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


# -------------------------------------------------------------------------------- whole runs

QUIET = ("callbacks.evaluate=null",)


def first_checkpoint(monkeypatch):
    """The weights of a run right before its first update."""
    from dreamer.agent import DreamerAgent

    seen = []
    step = DreamerAgent.training_step

    def look(agent, batch, batch_idx):
        if agent.updates == 0:
            seen.append({k: v.clone() for k, v in agent.state_dict().items()})
        return step(agent, batch, batch_idx)

    monkeypatch.setattr(DreamerAgent, "training_step", look)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("kernels=auto",), ("collect=overlap",)])
def test_a_run_starts_from_the_weights_and_resumes_without_them(
    compose_tiny, trained_run, tmp_path, monkeypatch, capsys, extra
):
    seen = first_checkpoint(monkeypatch)
    source = tmp_path / "source"
    source.symlink_to(trained_run)
    options = (f"init_from={source}", f"run_dir={tmp_path}/tuned", *QUIET, *extra)
    summary = train(compose_tiny(*options))
    there = torch.load(trained_run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    (weights,) = seen
    assert_close(weights, there, rtol=0, atol=0)
    assert summary.updates == 6  # counters and replay start anew
    assert "       loaded  world model, actor, critic" in capsys.readouterr().out
    assert RunFolder(tmp_path / "tuned").config().init_from == str(trained_run)

    summary = train(compose_tiny(*options, "total_frames=96"))
    assert (len(seen), summary.updates) == (1, 8)
    out = capsys.readouterr().out
    assert "resumed at frame 81" in out and "loaded" not in out


@pytest.mark.slow
def test_a_start_that_cannot_load_leaves_nothing(compose_tiny, tmp_path):
    with pytest.raises(ValueError, match="`init_from` must be .*nowhere, which does not exist"):
        train(compose_tiny(f"init_from={tmp_path}/nowhere"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_another_source_is_another_run(compose_tiny, trained_run, finished_run, tmp_path):
    options = (f"run_dir={tmp_path}/tuned", *QUIET)
    train(compose_tiny(*options, f"init_from={trained_run}"))
    with pytest.raises(ValueError, match=rf"different in init_from \(there {trained_run}, here "):
        train(compose_tiny(*options, f"init_from={finished_run}"))


@pytest.mark.slow
def test_programs_start_from_earlier_runs_too(trained_run, tmp_path, tiny_overrides):
    pairs = dict(word.split("=", 1) for word in tiny_overrides if "logger" not in word)
    choices = {"callbacks.video": None, "logger": ["jsonl"], "callbacks.evaluate": None}
    pairs = {key: value for key, value in pairs.items() if not key.startswith("callbacks.eval")}
    run = dreamer.train(overrides={**pairs, **choices, "init_from": trained_run}, run_dir=tmp_path)
    assert RunFolder(run.run_dir).config().init_from == str(trained_run)
