"""Configurations composed by programs, from dictionaries in the place of a command line.

The library uses it. What it composes is what `train.py` would; Hydra's own state stays as it was.
All that composes a configuration calls `register_suites` before.
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

from dreamer.run.overrides import OPTIONAL, explain, replacement
from dreamer.run.paths import CONF, GROUPS
from dreamer.run.settings import TrainSettings
from dreamer.schema.help import Usage, head, keys, line, written
from dreamer.schema.words import shown, unknown_key

SUITES = "dreamer.envs"  # the group of entry points
# New keys may be set below these, and below every key that gets another `_target_`.
OPEN = (
    "env.kwargs.",
    "model.world_model.loss_scales.",
    "model.world_model.heads.",
    "model.components.",
)


def register_suites() -> None:
    """Let `env=` choose the suites that other packages declare: entry points of `dreamer.envs`.

    Each is a function, see `dreamer.envs.user.make_suite`; its keys are those of conf/env/gym.yaml.

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
                "_target_": "dreamer.envs.user.make_suite",
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


def help_lines(usage: Usage, words: Iterable[str] = (), own: Iterable[str] = ()) -> Iterator[str]:
    """The help of a command that takes the words of train.py.

    Args:
        usage: What stands above the keys.
        words: Of the command line. The files that they choose decide which keys there are.
        own: Lines of the command's own keys.
    """
    yield from head(usage)
    yield from own
    yield from ("", "Files of conf/ to choose from; every group with its default:")
    file: Any = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"))
    for choice in file["defaults"]:
        for group in sorted(GROUPS & choice.keys()) if isinstance(choice, dict) else ():
            names = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
            yield from line(f"{group}={written(choice[group])}", names)
    plain: Any = OmegaConf.to_container(_compose_choices(words))
    yield from keys(plain, TrainSettings, title="The run:", headings=TrainSettings.headings)


def known_keys(words: Iterable[str] = ()) -> list[str]:
    """The dotted keys of conf/train.yaml with the files that the words of a command line choose."""
    return list(_dotted(OmegaConf.to_container(_compose_choices(words))))


def _compose_choices(words: Iterable[str]) -> DictConfig:
    """The configuration with those words of a command line that choose files, if they can."""
    choices = [word for word in words if word.partition("=")[0] in GROUPS]
    register_suites()
    with _own_hydra(), hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return hydra.compose("train", choices)
        except (HydraException, ValueError):
            return hydra.compose("train")


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
    if value is None and group in OPTIONAL:
        return f"{group}=null"
    if value is None and group == "logger":
        return "logger=none"
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"`{group}` must be the name of a file in conf/{group}, got {shown(value)}"
        )
    return f"{group}={value}" if isinstance(value, str) else f"{group}=[{','.join(names)}]"


def _set(cfg: DictConfig, key: str, value: Any, *, may_be_new: bool) -> None:
    value = str(value) if isinstance(value, Path) else value
    value = value.item() if getattr(value, "ndim", None) == 0 else value  # NumPy's numbers
    try:
        OmegaConf.update(cfg, key, value, force_add=may_be_new)
    except OmegaConfBaseException as error:
        if remedy := replacement(key):
            raise ValueError(remedy) from error
        known = list(_dotted(OmegaConf.to_container(cfg)))
        if key not in known and not isinstance(error, UnsupportedValueType):
            raise unknown_key(key, known) from error
        raise ValueError(
            f"`{key}` must be a number, text, true, false, null, or a list or a dictionary of "
            f"these, got {shown(value)}"
        ) from error


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    """The keys of a node and of all nodes in it."""
    for key, child in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _dotted(child, f"{prefix}{key}.")
