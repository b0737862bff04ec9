"""The names of variants: what a run changes, in a name that a file system takes."""

import pytest
from omegaconf import OmegaConf

from dreamer.run.config import checked
from dreamer.run.folder import RunFolder
from dreamer.run.variant import variant_of

RUN = "runs/dummy/maze_noreward/tiny-explore_plan2explore/seed0"


@pytest.fixture
def variant(compose_any):
    """The variant of a run of the tiny agent with these overrides, without the agent's name."""

    def name(*overrides):
        cfg = compose_any("env=dummy", "task=memory", *overrides)
        return variant_of(cfg).removeprefix("tiny").removeprefix("-")

    return name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (RUN, "maze_noreward-tiny-explore_plan2explore-seed0"),
        (f"{RUN}/", "maze_noreward-tiny-explore_plan2explore-seed0"),
        (f"{RUN}/checkpoints/best.ckpt", "maze_noreward-tiny-explore_plan2explore-seed0-best"),
        ("/far/away/mine", "mine"),
        ("../authors/variables.pkl", "variables.pkl"),
        ("'/it/has a blank, and ü:*'", "has_a_blank__and____"),
        ("/", "_"),
    ],
)
@pytest.mark.parametrize("key", ["init_from", "data.prefill"])
def test_an_earlier_run_names_the_variant(variant, key, path, name):
    assert variant(f"{key}={path}") == f"{key}_{name}"


def test_both_sources_and_the_weights_name_the_variant(variant):
    overrides = (f"init_from={RUN}", "init_weights=world_model", "data.prefill=/my/run")
    assert variant(*overrides) == (
        "init_from_maze_noreward-tiny-explore_plan2explore-seed0-init_weights_world_model-"
        "data.prefill_run"
    )


def test_long_names_are_cut_and_still_differ(variant):
    a, b = (variant(f"init_from=/{folder}/{'x' * 150}/{'y' * 90}") for folder in "ab")
    assert a != b
    assert {len(name) for name in (a, b)} == {len("init_from_") + 80}
    assert a.startswith(f"init_from_{'y' * 71}-")
    everything = (
        *("latents=gaussian", "kl_balance=false", "image_gradients=false", "layer_norm=false"),
        *("reward_gradients=false", "actor_gradient=reinforce", "collect_policy=random"),
        *(f"init_from=/{'x' * 90}", "init_weights=world_model"),
    )
    names = {variant(*everything, f"data.prefill=/{'y' * 90}/{end}{'z' * 90}") for end in "ab"}
    assert len(names) == 2
    assert {len(name) + len("tiny-") for name in names} == {200}


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["switches=[batch.size]"], ""),
        (["switches=[model.horizon,batch.length]", "batch.length=9"], "model.horizon_8-batch"),
        (["switches=[replay.sampling]"], ""),
        (["switches=[replay.sampling]", "replay/sampling=steps"], "replay.sampling_steps"),
        (["switches=[replay.device]", "replay.device=cuda"], "replay.device_cuda"),
        (["switches=[replay.device]"], ""),
        (["switches=[latents.variables]", "stochastic.variables=5"], ""),  # an interpolation
        (["switches=[callbacks.evaluate.episodes]", "callbacks.evaluate=null"], ""),
        (["switches=[env.full_action_space]"], ""),  # a key of other environments only
    ],
)
def test_dotted_keys_are_switches(variant, overrides, name):
    assert variant(*overrides).startswith(name)
    assert bool(variant(*overrides)) == bool(name)


@pytest.mark.parametrize(
    "key", ["batch.sise", "data.prefil", "seed.x", "replay.wings", "wings.x", "explore.wings"]
)
def test_dotted_keys_that_do_not_exist_are_refused(variant, key):
    with pytest.raises(ValueError, match=f"`switches` must name keys of the .*, got {key}"):
        variant(f"switches=[{key}]")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], ""),
        (["explore=plan2explore"], ""),
        (["explore=plan2explore", "explore.until_frames=700"], "explore.until_frames_700"),
        (["latents=gaussian"], ""),
        (["latents=gaussian", "latents.min_std=0.7"], "latents.min_std_0.7"),
        (["explore=plan2explore", "explore.ensemble.layers=3"], "explore.ensemble.layers_3"),
        (["explore=plan2explore", "sizes.layers=3"], ""),  # its default interpolates it
    ],
)
def test_a_key_of_one_choice_names_only_the_variants_that_have_it(variant, overrides, name):
    switches = "switches=[explore.until_frames,latents.min_std,explore.ensemble.layers]"
    assert variant(switches, *overrides) == name


@pytest.mark.parametrize(
    ("overrides", "name"), [([], ""), (["explore.until_frames=7"], "explore.until_frames_7")]
)
def test_an_explorer_of_a_users_own_has_the_defaults_that_all_files_share(variant, overrides, name):
    own = ("explore=random", "explore._target_=my.Own", "switches=[explore.until_frames]")
    assert variant(*own, *overrides) == name


def test_relative_and_absolute_paths_are_the_same_run(compose_any, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "link").symlink_to(home)
    paths = ("runs/a", "./b/../runs/a/", f"{home}/runs/a", "'~/runs/a'", f"{tmp_path}/link/runs/a")
    configs = [
        checked(
            compose_any(
                *("env=dummy", "task=memory", f"root={tmp_path}"),
                *(f"init_from={path}", f"data.prefill={path}"),
            )
        )
        for path in paths
    ]
    assert {cfg.init_from for cfg in configs} == {f"{home}/runs/a"}
    assert {cfg.data.prefill for cfg in configs} == {f"{home}/runs/a"}
    assert len({RunFolder.of(cfg).path for cfg in configs}) == 1
    assert len({OmegaConf.to_yaml(cfg) for cfg in configs}) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init_weights=world_model"], "`init_weights` must be all without init_from, got world"),
        (["init_from="], "`init_from` must be a path or null, got ''"),
        (["data.prefill="], "`data.prefill` must be an address or null, got ''"),
        (["init_weights=critic"], "`init_weights` must be all or world_model, got `critic`"),
        (["prefill_policy_steps=0"], "`prefill_policy_steps` must be at least 1 without data.pre"),
        (["+data.prefil=x"], r"Unknown key `data\.prefil`. The nearest: data\.prefill"),
    ],
)
def test_settings_without_effect_are_refused(compose_any, overrides, message):
    with pytest.raises(ValueError, match=message):
        checked(compose_any("env=dummy", "task=memory", *overrides))
