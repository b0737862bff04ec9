"""Run folders that somebody else made: nothing in them is executed, or written outside."""

import re
import sys
from pathlib import Path

import pytest
import yaml

import dreamer
from dreamer.run.evaluate import evaluate
from dreamer.run.migrate import migrate
from dreamer.run.paths import CONF
from dreamer.run.permission import PARTS, _targets

OPTIONS = {
    "episodes": 1,
    "checkpoint": "last",
    "seed": 0,
    "sample_actions": False,
    "video_policy_steps": 0,
    "video_fps": 5,
}
# Functions that do harm with one argument, or import a module.
TARGETS = (
    *("os.system", "os.mkdir", "builtins.open", "builtins.exec", "builtins.eval"),
    *("subprocess.run", "shutil.copy", "shutil.rmtree", "pathlib.Path.mkdir", "runpy.run_path"),
    *("torch.load", "torch.hub.load", "numpy.load", "pandas.read_pickle", "joblib.load"),
    *("hydra.utils.instantiate", "importlib.import_module", "planted.run"),
    *("dreamer.convert.torch.load", "dreamer.run.folder.shutil.rmtree", "dreamer.train"),
    *("dreamer.loggers.make_wandb", "dreamer.loggers.make_tensorboard"),
    *("pytorch_lightning.Trainer", "dreamer.envs.user.make_user", "dreamer.files.write_text"),
)


@pytest.fixture
def plant(finished_run, tmp_path, monkeypatch):
    """Change config.yaml of a run; importing the module `planted` leaves a file behind."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "planted.py").write_text(
        f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'imported').touch()\n"
        "import gymnasium, os, dreamer.models.latents\n"
        "from dreamer.models.latents import CategoricalLatent\n"
        "def run(*args, **kwargs): pathlib.Path(__file__).with_name('ran').touch()\n"
    )

    def change(key: str, value: object) -> Path:
        path = finished_run / "config.yaml"
        config = yaml.safe_load(path.read_text())
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
        path.write_text(yaml.safe_dump(config))
        return finished_run

    yield change
    sys.modules.pop("planted", None)
    left = {p.name for p in tmp_path.iterdir()} - {"planted.py", "dummy", "__pycache__"}
    assert left <= {"imported"} if "planted" in getattr(change, "allowed", ()) else not left


@pytest.mark.parametrize("target", TARGETS)
def test_no_target_of_other_code_is_loaded(target, plant, tmp_path):
    call = {"_target_": target, "_args_": [str(tmp_path / "ran")]}
    run_dir = plant("model.planted", call)
    with pytest.raises(ValueError, match=rf"`model.planted._target_` in .* names {target}.*allow="):
        dreamer.load(run_dir)
    with pytest.raises(ValueError, match="which is not a part of this program"):
        evaluate(run_dir, **OPTIONS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.world_model.heads", [{"x": [{"_target_": "planted.run"}]}]),
        ("model.world_model.latent._target_", "planted.run"),
        ("model.world_model.latent._target_", ["planted.run"]),
        ("model._target_", "planted.run"),
        ("explore", {"_target_": "planted.run", "_partial_": False}),
    ],
)
def test_no_part_of_the_agent_names_other_code(key, value, plant):
    with pytest.raises(ValueError, match="names .*planted.run.*, which is not a part"):
        dreamer.load(plant(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.world_model.latent", "${hidden}"),
        ("model.world_model.latent._target_", "${hidden._target_}"),
        ("model.world_model.latent._target_", "\\${hidden._target_}"),
        ("model.world_model.${hidden}", 1),
    ],
)
def test_nothing_hides_behind_a_reference(key, value, plant):
    plant("hidden", {"_target_": "planted.run"})
    with pytest.raises(ValueError, match="must be a value, got the reference"):
        dreamer.load(plant(key, value))


USER, GYM = "dreamer.envs.user.make_user", "dreamer.envs.gym.make_gym"


@pytest.mark.parametrize(
    ("env", "key"),
    [
        ({"_target_": "planted.run"}, "env._target_"),
        ({"_target_": USER, "factory": "planted:run"}, "env.factory"),
        ({"_target_": USER, "factory": "planted"}, "env.factory"),
        ({"_target_": "dreamer.envs.user.make_suite", "factory": "os:system"}, "env.factory"),
        ({"_target_": GYM, "task": "planted:Env-v0"}, "env.task"),
        ({"_target_": GYM, "kwargs": {"env_id": "planted:Env-v0"}}, "env.kwargs.env_id"),
        ({"_target_": GYM, "kwargs": {"ids": ["planted:a b\n"]}}, r"env.kwargs.ids\[0\]"),
        ({"_target_": GYM, "kwargs": {"x": {"_target_": "planted.run"}}}, "env.kwargs.x._target_"),
    ],
)
@pytest.mark.parametrize("spaces", ["with spaces", "without spaces"])
def test_no_environment_of_other_code_is_made(env, key, spaces, plant):
    run_dir = plant("env", env)
    with pytest.raises(ValueError, match=rf"`{key}` in .* is not a part of this program.*allow="):
        evaluate(run_dir, **OPTIONS)
    if spaces == "with spaces":  # they take the environment's place
        agent = dreamer.load(run_dir)
        with pytest.raises(ValueError, match=rf"`{key}` in .* is not a part of this program"):
            agent.make_env()
        return
    for folder in (run_dir, run_dir / "checkpoints"):
        (folder / "spaces.json").unlink()
    with pytest.raises(ValueError, match=f"`{key}`"):
        dreamer.load(run_dir)


def test_what_a_package_defines_may_be_allowed_but_not_what_it_imports(plant):
    plant.allowed = ["planted"]
    key = "model.world_model.latent._target_"
    for name in ("planted.os.system", "planted.gymnasium.make", "planted.os.path.join"):
        with pytest.raises(ValueError, match="must name code that planted defines, got planted"):
            dreamer.load(plant(key, name), allow=["planted"])
    again = "planted.CategoricalLatent"  # a class of this program, by another name
    assert dreamer.load(plant(key, again), allow=["planted"]).frames
    with pytest.raises(ValueError, match="is not a part of this program"):
        dreamer.load(plant(key, again), allow=["plant", "planted.py"])


@pytest.mark.parametrize("allow", [["os; rm"], ["."], [""], [3], "my-package"])
def test_allow_names_packages(allow, trained_run):
    with pytest.raises(ValueError, match="`allow` must name packages or modules"):
        dreamer.load(trained_run, allow=allow)


# Parts that only training builds, of the configuration that its user wrote.
OF_TRAINING = ("callbacks.", "logger", "replay", "collect_policy", "trainer", "evaluate", "sweep")


def test_every_class_that_a_file_of_conf_names_is_permitted_or_only_for_training():
    permitted = set().union(*map(_targets, PARTS))
    for path in sorted(CONF.rglob("*.yaml")):
        where = ".".join(path.relative_to(CONF).with_suffix("").parts)
        for key, name in re.findall(
            r"^([^#\n]*)\b_target_: *(\S+)", path.read_text(), re.MULTILINE
        ):
            if where.startswith(OF_TRAINING):
                assert name not in permitted, f"{key}{name} in {path}"
            else:
                assert name in permitted, f"{key}{name} in {path}"


def test_earlier_names_of_classes_are_permitted(tmp_path):
    """`migrate` writes them into the configurations of earlier versions."""
    source = Path(migrate.__code__.co_filename).read_text()
    added = set(re.findall(r'"(dreamer\.models\.\w+\.[A-Z]\w+)"', source))
    assert "dreamer.models.returns.LambdaReturns" in added
    assert added - {"dreamer.models.observations.ObservationConfig"} <= _targets("model")
