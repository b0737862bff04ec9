"""The configuration: every file composes, builds and is read; every switch does what it says."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamer.agent import AgentConfig, DreamerAgent
from dreamer.models.reward_heads import CategoricalRewardConfig, TerminalHeadConfig
from dreamer.run.build import check_device, make_agent, make_envs, make_replay_config
from dreamer.run.config import checked
from dreamer.run.load import load
from dreamer.run.permission import PARTS, check_permitted
from dreamer.run.train import train
from dreamer.types import ActionSpace, Batch

ROOT = Path(__file__).parent.parent.parent
CONF = ROOT / "conf"
MANY_RUNS = (
    "grid",
    "search",
    "sweep",
)  # folders of conf/ that list jobs; the others hold parts of one
FILES = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and path.parent.name not in MANY_RUNS
)
SOME_TASK = {  # by environment, where it is not pong
    "dummy": "memory",
    "gym": "CartPole-v1",
    "dmc_vision": "walker_walk",
    "dmc_proprio": "walker_walk",
    "minigrid": "DoorKey-6x6",
    "crafter": "reward",
    "own": "pole",
}
PACKAGES = {"atari": "ale_py", "dmc_vision": "dm_control", "dmc_proprio": "dm_control"}
WORLDS = {  # of experiments that are made for one: environment and task, and the package it needs
    "carried_state": ("dummy", "vector_memory", "torch"),
    "cartpole": ("gym", "CartPole-v1", "gymnasium"),
    "pendulum": ("gym", "Pendulum-v1", "gymnasium"),
    "cartpole_balance": ("dmc_proprio", "cartpole_balance", "dm_control"),
    "empty_room": ("minigrid", "Empty-5x5", "minigrid"),
    "four_rooms": ("minigrid", "FourRooms", "minigrid"),
    "map_probe": ("minigrid", "SimpleCrossingS9N3", "minigrid"),
    "crafter_small": ("crafter", "noreward", "crafter"),
    "maze": ("dummy", "maze", "torch"),
}
OF_OTHER_CLASSES = (  # head or loss
    *("atari_small", "categorical_reward", "terminal_head", "auxiliary_critic"),
)
EXPERIMENTS = [name for group, name in FILES if group == "experiment"]
SMALL = ("debug=fast", "total_frames=120", "prefill_policy_steps=48", "train_every_policy_steps=8")

AFTER_DEBUG = {  # what an experiment is about, and debug=fast replaces; or what is too long for it
    "atari_small": ["env.count=1"],
    "carried_state": ["replay/sampling=sequential", "replay.across_episodes=false"]
    + ["batch.length=4", "env.rounds=1", "env.corridor=1", "env.doors=3"],
}


def make_tiny_agent(cfg: DictConfig) -> DreamerAgent:
    torch.manual_seed(0)
    envs = make_envs(cfg, seed=0)
    return make_agent(cfg, envs)


def some_batch() -> Batch:
    """Seven steps of three memory worlds."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(256, (7, 3, 1, 64, 64), dtype=torch.uint8, generator=generator)
    action = torch.eye(2)[torch.randint(2, (7, 3), generator=generator)]
    is_first, is_terminal = torch.zeros(2, 7, 3, dtype=torch.bool)
    is_first[0] = True
    return Batch({"image": image}, action, torch.ones(7, 3), is_first, is_terminal)


# ---------------------------------------------------------------------------------- every file


@pytest.mark.parametrize(("group", "name"), FILES, ids=map("/".join, FILES))
def test_every_file_composes_and_what_it_describes_is_built(
    compose_any, tmp_path, group, name, request
):
    world = ["env=dummy", "task=memory"]
    if group == "experiment" and name in WORLDS:
        env, task, package = WORLDS[name]
        pytest.importorskip(package)
        world = [f"env={env}", f"task={task}"]
    if group == "env":
        world = [f"task={SOME_TASK.get(name, 'pong')}"]
        if name in ("atari", "minigrid", "crafter", "dmc_vision", "dmc_proprio"):
            pytest.importorskip(PACKAGES.get(name, name))
        if name == "dmc_vision":
            request.getfixturevalue("renderer")
        if name == "own":
            world += ["env.factory=gymnasium:make", "+env.kwargs.id=CartPole-v1"]
    cfg = compose_any(*world, f"{group}={name}")
    OmegaConf.resolve(cfg)
    check_permitted(cfg, tmp_path, ["gymnasium"] if name == "own" else [], tuple(PARTS))
    config = instantiate(cfg.model, _convert_="all")
    assert isinstance(config, AgentConfig)
    if name != "offline":  # it has no environment
        envs = make_envs(cfg, seed=0)
        assert envs.reset().is_first.all()
        envs.close()
    instantiate(cfg.replay)
    instantiate(cfg.trainer, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    for part in (*cfg.callbacks.values(), *cfg.logger.values()):
        assert part is None or callable(instantiate(part))  # null leaves a callback out


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_learns_for_a_moment(compose_any, tmp_path, name, trained_run):
    env, task, package = WORLDS.get(name, ("dummy", "memory", "torch"))
    pytest.importorskip(package)
    cfg = compose_any(
        f"env={env}",
        f"task={task}",
        f"experiment={name}",
        *SMALL,
        "logger=jsonl",
        "callbacks.evaluate=null",
        "callbacks.video=null",
        f"root={tmp_path}",
        *AFTER_DEBUG.get(name, []),
        *([f"data.train={trained_run}", "total_updates=3"] if name == "offline" else []),
    )
    summary = train(cfg)
    assert summary.updates >= 2
    assert summary.frames >= (0 if name == "offline" else 120)
    assert load(summary.run_dir, "last").frames == summary.frames  # it names permitted classes only


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_a_difference_that_begins_with_its_question(name):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    package, question, *_ = text.splitlines()
    assert package == "# @package _global_"
    assert re.fullmatch(r"# [A-Z].*[.?]", question), question
    assert f"experiment_name: {name}" in text
    if name not in OF_OTHER_CLASSES:
        assert "_target_" not in text, "an experiment changes numbers, it describes no new object"
    changed = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{name}.yaml"))
    assert isinstance(changed, dict)
    assert len(changed) > 1 or name == "dreamerv2", "only the whole agent differs in nothing"


# --------------------------------------------------------------------------------- every key


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys of all values outside of described objects: those are constructor arguments."""
    if isinstance(node, dict) and "_target_" in node:
        return {}
    if isinstance(node, dict):
        return {
            key: value
            for name, child in node.items()
            for key, value in leaves(child, f"{prefix}.{name}" if prefix else name).items()
        }
    return {prefix: node}


def keys_read_from_cfg() -> set[str]:
    """Dotted names read as `cfg.a.b` in the program."""
    sources = [*(ROOT / "dreamer").rglob("*.py"), ROOT / "train.py"]
    chains = set()
    for node in ast.walk(ast.parse("\n".join(path.read_text() for path in sources))):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text.startswith("cfg."):
                chains.add(text.removeprefix("cfg."))
    return chains


def keys_interpolated() -> set[str]:
    text = "\n".join(path.read_text() for path in CONF.rglob("*.yaml"))
    return set(re.findall(r"\$\{(?:\w+:\$\{)?([\w.]+)\}", text))


@pytest.mark.slow
def test_every_key_of_the_configuration_is_read(compose_any):
    cfg = compose_any("env=atari", "task=pong")
    keys = leaves(OmegaConf.to_container(cfg, resolve=False))
    assert {"seed", "batch.size", "kl_balance", "sizes.deter"} <= keys.keys()
    assert sorted(keys.keys() - keys_read_from_cfg() - keys_interpolated()) == []


def test_every_field_of_every_config_dataclass_is_read(compose_any):
    """A field that no source file mentions as an attribute is a knob that turns nothing."""

    def fields(config: Any) -> set[str]:
        if not dataclasses.is_dataclass(config):
            return set()
        names = {field.name for field in dataclasses.fields(config)}
        return names.union(*(fields(getattr(config, name)) for name in names))

    sources = "\n".join(path.read_text() for path in (ROOT / "dreamer").rglob("*.py"))
    read = {node.attr for node in ast.walk(ast.parse(sources)) if isinstance(node, ast.Attribute)}
    cfg = compose_any("env=atari", "task=pong")
    named = fields(instantiate(cfg.model, _convert_="all")) | fields(instantiate(cfg.replay))
    assert {"horizon", "free_nats", "across_episodes"} <= named
    assert sorted(named - read) == []


def test_a_key_that_nobody_reads_is_refused_with_its_nearest(compose_tiny):
    with pytest.raises(ValueError, match="Unknown key `kl_balanse`. The nearest: kl_balance"):
        train(compose_tiny("+kl_balanse=false"))


@pytest.mark.parametrize("part", ["model", "replay", "env", "callbacks.metrics", "latents"])
def test_a_key_that_no_constructor_knows_is_refused(compose_tiny, part):
    with pytest.raises(ValueError, match=rf"Unknown key `{part}\.wings`\. The nearest: {part}\."):
        train(compose_tiny(f"+{part}.wings=2"))


@pytest.mark.parametrize(
    ("choice", "loggers"),
    [
        ("[jsonl,tensorboard]", ["jsonl", "tensorboard"]),
        ("jsonl", ["jsonl"]),
        ("none", []),
        ("[jsonl,tensorboard,wandb]", ["jsonl", "tensorboard", "wandb"]),
    ],
)
def test_loggers_are_chosen_by_name(compose_any, choice, loggers):
    cfg = compose_any("env=dummy", "task=memory", f"logger={choice}")
    assert list(cfg.logger) == loggers


# ------------------------------------------------------------------------------ every switch


def differences(cfg: DictConfig, other: DictConfig) -> dict[str, Any]:
    """Leaves of the resolved agent in which two configurations differ, as (old, new)."""

    def flat(node: Any, prefix: str = "") -> dict[str, Any]:
        items = node.items() if isinstance(node, dict) else ()
        found = {} if items else {prefix: node}
        for key, child in items:
            found |= flat(child, f"{prefix}.{key}" if prefix else key)
        return found

    a, b = (flat(OmegaConf.to_container(c.model, resolve=True)) for c in (cfg, other))
    return {k: (a.get(k), b.get(k)) for k in a.keys() | b.keys() if a.get(k) != b.get(k)}


@pytest.mark.parametrize(
    ("switch", "changes"),
    [
        ("kl_balance=true", {}),
        ("kl_balance=false", {"world_model.kl.balance": (0.8, 0.5)}),
        ("kl_balance=0.3", {"world_model.kl.balance": (0.8, 0.3)}),
        ("image_gradients=false", {"world_model.image_gradients": (True, False)}),
        ("reward_gradients=false", {"world_model.heads.reward.gradients": (True, False)}),
        ("layer_norm=false", {"world_model.rssm.cell.layer_norm": (True, False)}),
        ("iwae_samples=3", {"world_model.iwae_samples": (1, 3)}),
        ("actor_gradient=both", {"actor_critic.actor.gradient": ("auto", "both")}),
        ("collect_policy=random", {}),
        ("reward_input=true", {"world_model.encoder.reward_input": (False, True)}),
    ],
)
def test_a_switch_changes_what_it_names_and_nothing_else(compose_tiny, switch, changes):
    assert differences(compose_tiny(), compose_tiny(switch)) == changes


def test_gaussian_latents_change_the_latents_only(compose_tiny):
    changes = differences(compose_tiny(), compose_tiny("latents=gaussian"))
    assert {key.rsplit(".", 1)[0] for key in changes} == {"world_model.latent"}
    agent = make_tiny_agent(compose_tiny("latents=gaussian"))
    state = agent.world_model.rssm.initial(3)
    assert state.stoch.shape == (3, 4, 1)
    assert state.stats.shape == (3, 4, 2)  # mean and raw standard deviation


@pytest.mark.parametrize(("switch", "learns"), [("true", True), ("false", False)])
def test_image_gradients_decide_whether_pixels_train_the_encoder(compose_tiny, switch, learns):
    model = make_tiny_agent(compose_tiny(f"image_gradients={switch}")).world_model
    model.loss(some_batch()).obs_losses["image"].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.encoder.parameters()) == learns
    assert all(p.grad is not None for p in model.decoder.parameters())  # itself it learns always


@pytest.mark.parametrize(("switch", "learns"), [("true", True), ("false", False)])
def test_reward_gradients_decide_whether_rewards_train_the_encoder(compose_tiny, switch, learns):
    model = make_tiny_agent(compose_tiny(f"reward_gradients={switch}")).world_model
    with torch.no_grad():  # a fresh head's output layer may be zero; then nothing flows anyway
        for parameter in model.heads["reward"].parameters():
            parameter.add_(0.1)
    model.loss(some_batch()).losses["reward"].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.encoder.parameters()) == learns
    assert all(p.grad is not None for p in model.heads["reward"].parameters())


def test_layer_norm_is_in_the_gru_or_nowhere(compose_tiny):
    with_norm, without = (
        {name for name, _ in make_tiny_agent(compose_tiny(switch)).named_parameters()}
        for switch in ("layer_norm=true", "layer_norm=false")
    )
    gru = "world_model.rssm.gru.norm"
    assert with_norm - without == {f"{gru}.weight", f"{gru}.bias"}
    assert without <= with_norm


@pytest.mark.parametrize(
    ("task", "choice", "gradient"),
    [
        ("memory", "auto", "reinforce"),
        ("point", "auto", "dynamics"),
        ("memory", "dynamics", "dynamics"),
        ("point", "both", "both"),
    ],
)
def test_actor_gradient_is_chosen_by_the_actions_where_it_is_auto(
    compose_tiny, task, choice, gradient
):
    agent = make_tiny_agent(compose_tiny(f"task={task}", f"actor_gradient={choice}"))
    assert agent.actor_critic.gradient == gradient


@pytest.mark.slow
def test_random_collection_never_asks_the_actor(compose_tiny, monkeypatch):
    from dreamer.policy import DreamerPolicy

    acted = []
    act = DreamerPolicy.__call__
    monkeypatch.setattr(
        DreamerPolicy, "__call__", lambda self, *args: acted.append(1) or act(self, *args)
    )
    train(compose_tiny("collect_policy=random", "callbacks.evaluate=null"))
    assert not acted
    train(compose_tiny("collect_policy=actor", "callbacks.evaluate=null"))
    assert acted


def test_the_paper_preset_is_table_d1(compose_any):
    cfg = compose_any("env=atari", "task=pong", "experiment=paper_table_d1")
    assert (cfg.batch.size, cfg.batch.length, cfg.train_every_policy_steps) == (50, 50, 4)
    assert cfg.model.world_model.discount == 0.995


def test_the_settings_for_small_tasks_are_the_defaults_of_env_gym(compose_any):
    plain, preset = (
        compose_any("env=gym", "task=CartPole-v1", *words) for words in ((), ("experiment=small",))
    )
    assert preset == plain
    assert "calibrated" in plain.model.world_model._target_


def test_the_default_is_the_released_configuration(compose_any):
    cfg = compose_any("env=atari", "task=pong")
    assert (cfg.batch.size, cfg.batch.length, cfg.train_every_policy_steps) == (16, 50, 16)
    assert cfg.model.world_model.discount == 0.999
    assert cfg.env.full_action_space is True
    assert cfg.total_frames == 200_000_000
    assert cfg.pretrain_updates == 2  # the first builds the authors' graph


def test_cuda_graphs_without_a_cuda_device_are_refused(compose_tiny, tmp_path):
    cfg = compose_tiny("cuda_graphs=true", "trainer.accelerator=cpu")
    with pytest.raises(ValueError, match="`cuda_graphs` must be false without a CUDA device"):
        train(cfg)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "key",
    ["prefill_policy_steps", "pretrain_updates", "train_every_policy_steps", "batch.size"],
)
def test_a_count_that_no_float_holds_exactly_is_refused(compose_tiny, tmp_path, key):
    for value in ("1e30", f"{2**53 + 1}", f"1{'0' * 400}"):
        with pytest.raises(ValueError, match=rf"`{key}` must be at most {2**53}, got 1?9?0*"):
            train(compose_tiny(f"{key}={value}"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_largest_seed_is_as_good_as_any(compose_tiny):
    assert train(compose_tiny(f"seed={2**32 - 1}")).updates == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.devices=2", "`trainer.devices` must be 1: training on .* got 2$"),
        ("trainer.devices='2'", "`trainer.devices` must be 1: training on .* got 2$"),
        ("trainer.devices=[0,1]", r"`trainer.devices` must be 1: training on .* got \[0, 1\]$"),
        ("trainer.devices='0,1'", "`trainer.devices` must be 1: training on .* got 0,1$"),
        ("trainer.devices=0", "`trainer.devices` must be 1, got 0$"),
        ("trainer.devices=many", "`trainer.devices` must be 1, got many$"),
        ("+trainer.num_nodes=2", "`trainer.num_nodes` must be 1: training on .* got 2$"),
        ("+trainer.strategy=ddp", "`trainer.strategy` must be auto: training in .* got ddp$"),
        ("+trainer.strategy._target_=a.Strategy", "`trainer.strategy` must be auto: .* got {"),
    ],
)
def test_more_than_one_device_is_refused(compose_tiny, tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        train(compose_tiny(override))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("devices", ["auto", "-1"])
def test_all_devices_are_refused_where_there_are_several(compose_tiny, monkeypatch, devices):
    cfg = compose_tiny(f"trainer.devices={devices}")
    check_device(cfg)  # one CPU
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    message = f"`trainer.devices` must be 1: .* not supported yet, got {devices}, which is 3 here"
    with pytest.raises(ValueError, match=message):
        check_device(cfg)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    check_device(cfg)


@pytest.mark.parametrize(
    "override", ["trainer.devices=[1]", "trainer.devices='1,'", "+trainer.strategy=auto"]
)
def test_one_device_is_allowed_however_it_is_written(compose_tiny, override):
    checked(compose_tiny(override))


def test_the_control_presets_are_the_released_configuration(compose_any):
    for name, observation in (("dmc_vision", "vision"), ("dmc_proprio", "proprio")):
        cfg = compose_any(f"env={name}", "task=walker_walk")
        assert (cfg.env.observation, cfg.env.action_repeat) == (observation, 2)
        assert (cfg.prefill_policy_steps, cfg.pretrain_updates) == (1000, 101)
        assert (cfg.train_every_policy_steps, cfg.batch.size, cfg.batch.length) == (5, 16, 50)
        model = instantiate(cfg.model, _convert_="all")
        assert (model.world_model.rssm.deter, model.world_model.rssm.hidden) == (200, 200)
        assert model.world_model.heads["discount"] is None
        assert (model.world_model.reward_transform, model.world_model.discount) == (
            "identity",
            0.99,
        )
        assert (model.world_model.kl.free_nats, model.world_model.loss_scales["kl"]) == (1, 1)
        assert model.actor_critic.actor.entropy_scale == 1e-4
        assert learning_rates(model) == (3e-4, 8e-5, 8e-5)


def test_the_minigrid_preset_is_the_authors_example(compose_any):
    cfg = compose_any("env=minigrid", "task=DoorKey-6x6")
    assert (cfg.prefill_policy_steps, cfg.train_every_policy_steps) == (100_000, 10)
    assert cfg.pretrain_updates == 2
    model = instantiate(cfg.model, _convert_="all")
    assert (model.world_model.discount, model.actor_critic.actor.entropy_scale) == (0.99, 3e-3)
    assert model.world_model.loss_scales == {"kl": 1, "observations": {}}
    assert {name: head.scale for name, head in model.world_model.heads.items()} == {
        "reward": 1,
        "discount": 1,
    }
    assert model.world_model.rssm.deter == 1024
    assert learning_rates(model) == (1e-4, 8e-5, 2e-4)


def test_the_crafter_preset_is_the_released_configuration(compose_any):
    cfg = compose_any("env=crafter", "task=reward")
    assert (cfg.prefill_policy_steps, cfg.train_every_policy_steps) == (10_000, 5)
    assert cfg.pretrain_updates == 2
    model = instantiate(cfg.model, _convert_="all")
    assert (model.world_model.discount, model.actor_critic.actor.entropy_scale) == (0.999, 3e-3)
    assert (model.world_model.rssm.deter, model.world_model.rssm.hidden) == (1024, 1024)
    assert learning_rates(model) == (1e-4, 1e-4, 1e-4)
    world, acting = model.world_model, model.actor_critic
    parts = (world.rssm, world.encoder.image, world.decoder.image)
    parts += (*world.heads.values(), acting.actor, acting.critic)
    assert {part.norm for part in parts} == {"layer"}


def test_the_appendices_change_what_they_say(compose_any):
    vision = ("env=dmc_vision", "task=humanoid_walk")
    assert differences(compose_any(*vision), compose_any(*vision, "experiment=humanoid")) == {
        "world_model.loss_scales.kl": (1.0, 2.0),
        "actor_critic.actor.entropy_scale": (1e-4, 1e-5),
    }
    atari = ("env=atari", "task=montezuma_revenge")
    assert differences(compose_any(*atari), compose_any(*atari, "experiment=montezuma")) == {
        "world_model.discount": (0.999, 0.99)
    }


def test_the_presets_of_appendix_c_change_what_they_say(compose_any):
    atari = ("env=atari", "task=pong")
    plain = compose_any(*atari)
    assert differences(plain, compose_any(*atari, "experiment=long_term_entropy")) == {
        "actor_critic.entropy_in_target": (False, True)
    }
    assert differences(plain, compose_any(*atari, "experiment=free_nats")) == {
        "world_model.kl.balance": (0.8, 0.5),
        "world_model.kl.free_nats": (0.0, 3.0),
    }
    noisy = compose_any(*atari, "experiment=action_noise")
    assert (plain.exploration_noise, noisy.exploration_noise) == (0, 0.1)
    assert differences(plain, noisy) == {"actor_critic.actor.entropy_scale": (1e-3, 0.0)}
    some = differences(plain, compose_any(*atari, "experiment=schedules"))
    every = differences(plain, compose_any(*atari, "experiment=all_schedules"))
    assert some["actor_critic.actor.gradient_mix"] == (0.1, "linear(0.1,0,5e7)")
    assert some.items() <= every.items()
    rates = {f"{name}_optimizer.learning_rate" for name in ("world_model", "actor", "critic")}
    assert every.keys() - some.keys() == rates | {"world_model.loss_scales.kl"}


@pytest.mark.parametrize(
    ("name", "millions"), [("dreamerv2", 22.2), ("dreamerv1_size", 12.8), ("binary_latents", 22.2)]
)
def test_sizes_of_appendix_c_have_the_parameters_that_the_file_says(compose_any, name, millions):
    cfg = compose_any("env=atari", "task=pong", f"experiment={name}")
    config = instantiate(cfg.model, _convert_="all")
    with torch.device("meta"):
        agent = config.build({"image": (1, 64, 64)}, ActionSpace(18, discrete=True))
    trained = sum(p.numel() for p in agent.parameters() if p.requires_grad)
    assert trained == pytest.approx(millions * 1e6, abs=1e5)


def test_the_search_space_is_that_of_table_d1_for_sweeps_and_for_wandb(compose_any):
    values = {
        "model.world_model.loss_scales.kl": [0.1, 0.3, 1, 3],
        "model.actor_critic.actor.entropy_scale": [3e-5, 1e-4, 3e-4, 1e-3],
        "model.world_model.discount": [0.99, 0.999],
    }
    search: Any = OmegaConf.load(CONF / "search/paper_table_d1.yaml")
    assert search.space == values
    wandb: Any = OmegaConf.to_container(OmegaConf.load(CONF / "sweep/paper_table_d1.yaml"))
    parameters = wandb["parameters"]
    assert {k: v["values"] for k, v in parameters.items() if k in values} == values
    words = [f"{key}={options[1]}" for key, options in values.items()]
    variant = f"variant={parameters['variant']['value']}"
    cfg = checked(compose_any("env=atari", "task=pong", variant, *words))
    assert cfg.variant == "table_d1-kl_0.3-entropy_0.0001-discount_0.999"


def learning_rates(model: AgentConfig) -> tuple[float, float, float]:
    parts = (model.world_model_optimizer, model.actor_optimizer, model.critic_optimizer)
    a, b, c = (part.learning_rate for part in parts)
    return a, b, c


# ------------------------------------------------------------------------- parts of PyDreamer


def test_returns_change_the_actor_critics_and_nothing_else(compose_tiny):
    plain, gae = (
        compose_tiny(f"returns={name}", "explore=model_loss") for name in ("lambda", "gae")
    )
    changes = differences(plain, gae)
    assert {key.rsplit(".", 1)[0] for key in changes} == {"actor_critic.returns"}
    returns = gae.model.actor_critic.returns
    assert returns.discount == gae.model.world_model.discount
    assert gae.explore.actor_critic.returns == returns


def test_presets_choose_heads_and_auxiliary_losses(compose_tiny):
    names = "[categorical_reward,terminal_head,auxiliary_critic,gae,reward_input]"
    model = make_tiny_agent(compose_tiny(f"experiment={names}")).world_model
    assert model.heads.keys() == {"reward", "terminal"}
    assert isinstance(model.config.heads["reward"], CategoricalRewardConfig)
    assert isinstance(model.config.heads["terminal"], TerminalHeadConfig)
    assert model.auxiliary.keys() == {"aux_critic"}
    assert model.encoder.reads_reward
    metrics = model.loss(some_batch()).metrics
    assert metrics.keys() >= {
        *(f"world_model/reward_nll_where_{k}" for k in range(5)),
        *("world_model/terminal_nll", "world_model/aux_critic_value"),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["replay.carry_state=true"], "`replay.carry_state` must be false .* EpisodeSampler. Set"),
        (
            ["replay.carry_state=true", "replay.sampling._target_=extensions.Recent"],
            "`replay.carry_state` must be false .* true with Recent. Set replay",
        ),
        (
            ["replay/sampling=sequential", "replay.across_episodes=true"],
            "`replay.across_episodes` must be false with replay.sampling=sequential, got true",
        ),
        (
            ["replay/sampling=sequential", "batch.length=100"],
            "`replay.sampling.reset_interval` must be 0, or at least .* = 201, got 200",
        ),
        (
            ["replay/sampling=sequential", "replay.carry_state=true", "model.carry_state=false"],
            r"`model.carry_state` must be \$\{replay.carry_state\} in a model of your own, .*False",
        ),
    ],
)
def test_states_are_carried_along_streams_only(compose_any, words, message):
    with pytest.raises(ValueError, match=message):
        checked(compose_any("env=dummy", "task=memory", "replay.across_episodes=false", *words))


def test_carrying_states_is_one_switch_for_replay_and_agent(compose_any):
    words = ["task=pong", "replay/sampling=sequential"]
    for carry_state in (False, True):
        cfg = checked(compose_any(*words, f"replay.carry_state={carry_state}"))
        assert instantiate(cfg.model, _convert_="all").carry_state == carry_state
        assert make_replay_config(cfg).carry_state == carry_state
