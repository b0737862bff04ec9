"""Configurations composed by programs, from dictionaries in the place of a command line.

The library uses it. What it composes is what `train.py` would; Hydra's own state stays as it was.
All that composes a configuration calls `register_suites` before.
"""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamer.command_line import explain, replacement
from dreamer.paths import CONF

SUITES = "dreamer.envs"  # the group of entry points
GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()} - {"grid", "sweep"}
# New keys may be set below these, and below every key that gets another `_target_`.
OPEN = (
    "env.kwargs.",
    "model.world_model.loss_scales.",
    "model.world_model.heads.",
    "model.components.",
)


def register_suites() -> None:
    """Let `env=` choose the suites that other packages declare: entry points of `dreamer.envs`.

    Each is a function, see `dreamer.envs.own.make_suite`; its keys are those of conf/env/gym.yaml.

    Raises:
        ValueError: a suite has the name of another one, or of one of ours.
    """
    taken = {path.stem: "this program" for path in (CONF / "env").glob("*.yaml")}
    for point in entry_points(group=SUITES):
        package = point.dist.name if point.dist else point.module
        if point.name in taken and taken[point.name] != package:
            raise ValueError(
                f"The entry point `{point.name}` of {package} has a name that "
                f"{taken[point.name]} uses already; {SUITES} must differ"
            )
        taken[point.name] = package
        node = {
            "defaults": ["gym", "_self_"],
            "env_name": point.name,
            "env": {
                "_target_": "dreamer.envs.own.make_suite",
                "factory": f"{point.module}:{point.attr}",
            },
        }
        ConfigStore.instance().store(
            group="env", name=point.name, node=node, package="_global_", provider=package
        )


def compose(*overrides: Mapping[str, Any]) -> DictConfig:
    """Compose conf/train.yaml with overrides; later ones win.

    Args:
        overrides: Keys and values, dotted or nested. The name of a group of conf/ with a string,
            or a list of them, chooses its files: `{"model": "tiny", "logger": ["jsonl"]}`.

    Raises:
        ValueError: There is no such key or file, or a value that a configuration cannot hold.
    """
    flat = {key: value for one in overrides for key, value in _leaves(one)}
    choices = {key: flat.pop(key) for key in GROUPS & flat.keys()}
    register_suites()
    try:
        with _own_hydra(), hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("train", [_choice(*choice) for choice in choices.items()])
    except HydraException as error:
        raise ValueError(explain(error)) from error
    targets = tuple(key.removesuffix("_target_") for key in flat if key.endswith("._target_"))
    for key, value in flat.items():
        _set(cfg, key, value, may_be_new=key.startswith((*OPEN, *targets)))
    return cfg


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Hydra is one for all of a process; the program may be using it."""
    theirs, base = GlobalHydra.instance(), VersionBase.instance()
    in_use, version = theirs.hydra, base.getbase()
    theirs.clear()
    try:
        yield
    finally:
        theirs.hydra, base.version_base = in_use, version
        GlobalHydra.set_instance(theirs)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _choice(group: str, value: Any) -> str:
    """A choice as Hydra's command line says it."""
    names = [value] if isinstance(value, str) else value
    if value is None and group in ("experiment", "debug"):
        return f"{group}=null"
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"Expect `{group}` to be a name, of a file in conf/{group}, actually: {value!r}"
        )
    return f"{group}={value}" if isinstance(value, str) else f"{group}=[{','.join(names)}]"


def _set(cfg: DictConfig, key: str, value: Any, *, may_be_new: bool) -> None:
    value = str(value) if isinstance(value, Path) else value
    value = value.item() if hasattr(value, "item") else value  # NumPy's numbers
    try:
        OmegaConf.update(cfg, key, value, force_add=may_be_new)
    except OmegaConfBaseException as error:
        if remedy := replacement(key):
            raise ValueError(remedy) from error
        known = [name for name, _ in _leaves(_as_plain(cfg))]
        if key not in known and OmegaConf.select(cfg, key) is None:
            nearest = difflib.get_close_matches(key, known, cutoff=0.5) or sorted(map(str, cfg))
            raise ValueError(f"Unknown key `{key}`. The nearest: {', '.join(nearest)}") from error
        raise ValueError(f"`{key}` cannot be {value!r}: {explain(error)}") from error


def _as_plain(cfg: DictConfig) -> Any:
    return OmegaConf.to_container(cfg)
