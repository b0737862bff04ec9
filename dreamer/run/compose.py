"""Composes configurations from dictionaries instead of a command line, for programs.

`dreamer.api` uses it. The result equals that of `train.py`; Hydra's state is not changed. Call
`register_suites` before composing a configuration in any other way.
"""

from collections.abc import Iterable, Iterator, Mapping
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
from omegaconf.errors import OmegaConfBaseException, UnsupportedValueType

from dreamer.run.choices import in_hydras_words
from dreamer.run.overrides import OPTIONAL, explain, explain_unknown, may_name_file, replacement
from dreamer.run.paths import CONF, GROUPS
from dreamer.run.settings import TrainSettings
from dreamer.schema.help import Usage, as_typed, head, keys, line
from dreamer.schema.words import format_value

SUITES = "dreamer.envs"  # group of entry points
# Nodes that accept new keys, as does every node whose `_target_` is overridden.
OPEN = (
    "env.kwargs.",
    "model.world_model.loss_scales.",
    "model.world_model.heads.",
    "model.world_model.encoder.classes.",
    "model.world_model.auxiliary.",
    "model.components.",
)


def register_suites() -> None:
    """Register the suites of other packages, their `dreamer.envs` entry points, for `env=`.

    Each is a function, see `dreamer.envs.user.make_suite`; its keys are those of conf/env/gym.yaml.

    Raises:
        ValueError: Two suites have the same name, or a suite has the name of a built-in one.
    """
    taken = {path.stem: "this program" for path in (CONF / "env").glob("*.yaml")}
    for point in entry_points(group=SUITES):
        package = point.dist.name if point.dist else point.module
        if point.name in taken and taken[point.name] != package:
            raise ValueError(
                f"Entry points of {SUITES} must have different names, got `{point.name}` from "
                f"{taken[point.name]} and {package}"
            )
        taken[point.name] = package
        node = {
            "defaults": ["gym", "_self_"],
            "env_name": point.name,
            "env": {
                "_target_": "dreamer.envs.user.make_suite",
                "factory": f"{point.module}:{point.attr}",
            },
        }
        ConfigStore.instance().store(
            group="env", name=point.name, node=node, package="_global_", provider=package
        )


def compose(*overrides: Mapping[str, Any]) -> DictConfig:
    """Compose conf/train.yaml with overrides; later ones take precedence.

    Args:
        overrides: Keys and values, dotted or nested. A group of conf/ with a name, or a list of
            names, chooses its files: `{"model": "tiny", "logger": ["jsonl"]}`.

    Raises:
        ValueError: There is no such key or file, or a value has a type that is not supported.
    """
    flat = {in_hydras_words(key, value): value for one in overrides for key, value in _leaves(one)}
    choices = {key: flat.pop(key) for key in list(flat) if _chooses(key)}
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


def help_lines(usage: Usage, words: Iterable[str] = (), own: Iterable[str] = ()) -> Iterator[str]:
    """Yield the help of a command that takes the arguments of train.py.

    Args:
        usage: The text above the keys.
        words: Of the command line. The files that they choose determine the keys.
        own: Lines of the command's own keys.
    """
    yield from head(usage)
    yield from own
    yield from ("", "Files of conf/ to choose from, with the default of each group:")
    file: Any = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"))
    for choice in file["defaults"]:
        for group in sorted(GROUPS & choice.keys()) if isinstance(choice, dict) else ():
            names = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
            yield from line(f"{group}={as_typed(choice[group])}", names)
    plain: Any = OmegaConf.to_container(_compose_choices(words))
    yield from keys(plain, TrainSettings, title="The run:", headings=TrainSettings.headings)


def known_keys(words: Iterable[str] = ()) -> list[str]:
    """The dotted keys of conf/train.yaml with the files that the words of a command line choose."""
    return list(_dotted(OmegaConf.to_container(_compose_choices(words))))


def _compose_choices(words: Iterable[str]) -> DictConfig:
    """The configuration with those words of a command line that choose files, if they can."""
    choices = [word for word in words if _chooses(word.partition("=")[0])]
    register_suites()
    with _own_hydra(), hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return hydra.compose("train", choices)
        except (HydraException, ValueError):
            return hydra.compose("train")


def _chooses(key: str) -> bool:
    """Whether a key chooses a file of conf/, as do model and replay/sampling."""
    return key.partition("/")[0] in GROUPS


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Save and restore Hydra's global state, which the program may be using."""
    hydra_state, base = GlobalHydra.instance(), VersionBase.instance()
    in_use, version = hydra_state.hydra, base.getbase()
    hydra_state.clear()
    try:
        yield
    finally:
        hydra_state.hydra, base.version_base = in_use, version
        GlobalHydra.set_instance(hydra_state)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _choice(group: str, value: Any) -> str:
    """Format a choice for Hydra's command line."""
    if value is None and group in OPTIONAL:
        return f"{group}=null"
    if value is None and group == "logger":
        return "logger=none"
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(map(may_name_file, names)):
        raise ValueError(
            f"`{group}` must be the name of a file in conf/{group}, got {format_value(value)}"
        )
    return f"{group}={value}" if isinstance(value, str) else f"{group}=[{','.join(names)}]"


def _set(cfg: DictConfig, key: str, value: Any, *, may_be_new: bool) -> None:
    value = str(value) if isinstance(value, Path) else value
    value = value.item() if getattr(value, "ndim", None) == 0 else value  # NumPy's numbers
    try:
        OmegaConf.update(cfg, key, value, force_add=may_be_new)
    except (OmegaConfBaseException, ValueError) as error:  # a key below a list is a ValueError
        if remedy := replacement(key):
            raise ValueError(remedy) from error
        known = list(_dotted(OmegaConf.to_container(cfg)))
        if key not in known and not isinstance(error, UnsupportedValueType):
            raise ValueError(explain_unknown(key, known)) from error
        raise ValueError(
            f"`{key}` must be a number, text, true, false, null, or a list or a dictionary of "
            f"these, got {format_value(value)}"
        ) from error


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys of a node and of all its children."""
    for key, child in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _dotted(child, f"{prefix}{key}.")
