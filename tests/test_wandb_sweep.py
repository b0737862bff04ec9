"""The W&B sweep: what its server would hand out are jobs of train.py, each of them another run."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dreamer.run.build import make_envs
from dreamer.run.config import checked
from dreamer.run.folder import RunFolder

ROOT = Path(__file__).parent.parent
FILE = ROOT / "conf" / "sweep" / "wandb.yaml"

pytestmark = pytest.mark.slow  # it takes seconds to load what reads such files


def agent() -> Any:
    """What W&B's agent reads sweeps with."""
    from wandb.sdk.launch.sweeps import utils  # a second, which one worker need pay and no more

    return utils


@pytest.fixture
def sweep() -> dict[str, Any]:
    config = agent().load_sweep_config(str(FILE))
    assert config is not None
    return config


def words_of_jobs(sweep: dict[str, Any]) -> list[list[str]]:
    """What W&B's agent makes of every point of the grid, as words of a command line."""
    choices = [
        [(key, {"value": value}) for value in parameter.get("values", [parameter.get("value")])]
        for key, parameter in sweep["parameters"].items()
    ]
    return [
        agent().create_sweep_command_args({"args": dict(point)})["args_no_hyphens"]
        for point in itertools.product(*choices)
    ]


def test_every_job_is_another_run_of_a_variant_on_a_task_with_a_seed(sweep, compose_any):
    jobs = [dict(word.split("=") for word in words) for words in words_of_jobs(sweep)]
    assert len({tuple(job.values()) for job in jobs}) == 9 * 2 * 3
    for job in (jobs[0], jobs[31], jobs[-1]):  # not all: composing takes a while
        cfg = checked(compose_any(*(f"{key}={value}" for key, value in job.items())))
        folder = Path("runs", "atari", job["task"], job["experiment"], f"seed{job['seed']}")
        assert RunFolder.of(cfg).path == folder.absolute()


def leaves(node: Any, prefix: str = "") -> set[str]:
    """The dotted keys of all values."""
    if not isinstance(node, dict):
        return {prefix}
    return {
        leaf
        for key, child in node.items()
        for leaf in leaves(child, f"{prefix}.{key}" if prefix else key)
    }


def keys_changed_by(path: Path) -> set[str]:
    """The keys of an experiment, and those whose files it chooses."""
    content = OmegaConf.to_container(OmegaConf.load(path))
    choices = [
        key for choice in content.pop("defaults", []) if choice != "_self_" for key in choice
    ]
    return {*leaves(content), *(key.removeprefix("override /") for key in choices)} - {
        "experiment_name"
    }


def test_the_sweep_holds_every_ablation(sweep):
    """All experiments that differ from the full agent in switches of the paper only."""
    of_pydreamer = {"returns", "reward_input"}
    switches = {*OmegaConf.load(ROOT / "conf" / "train.yaml").switches} - of_pydreamer
    files = (ROOT / "conf" / "experiment").glob("*.yaml")
    changes = {path.stem: keys_changed_by(path) for path in files}
    ablations = {name for name, keys in changes.items() if keys <= switches}
    assert set(sweep["parameters"]["experiment"]["values"]) == ablations


def test_every_task_is_a_game(sweep, compose_any):
    for task in sweep["parameters"]["task"]["values"]:
        make_envs(compose_any(f"task={task}"), seed=0).close()


def test_the_metric_is_one_that_runs_write(sweep, trained_run):
    assert sweep["method"] == "grid"
    assert f'"{sweep["metric"]["name"]}"' in (trained_run / "metrics.jsonl").read_text()


def test_the_command_composes_what_the_sweep_asks_for(sweep, tmp_path):
    words = words_of_jobs(sweep)[-1]
    macros = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": [sys.executable],
        "${program}": [str(ROOT / sweep["program"])],
        "${args_no_hyphens}": words,
    }
    command = [
        word for part in agent().create_sweep_command(sweep["command"]) for word in macros[part]
    ]
    shown = subprocess.run([*command, "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    cfg = OmegaConf.create(shown.stdout)
    assert (cfg.env_name, cfg.task, cfg.seed) == ("atari", "boxing", 2)
    assert cfg.experiment_name == "random_collection"
    assert cfg.collect_policy._target_ == "dreamer.policy.choose_random"
