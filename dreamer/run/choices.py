"""Choices by name: files of conf/, and users' classes.

`config.py` resolves names with it, and `variant.py` names variants. It knows no key's meaning.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamer.run.paths import CONF

# Groups of conf/ whose value may be a file's name, such as `collect_policy: random`.
NAMED = ("collect_policy", "collect", "explore", "probe", "replay.sampling")
ABSENT = object()  # what `look_up` returns for a missing key


def with_named(cfg: DictConfig) -> DictConfig:
    """Return a copy in which the names of files are replaced by their content; see `NAMED`.

    Raises:
        ValueError: There is no such file.
    """
    cfg = cfg.copy()
    for key in NAMED:
        name = OmegaConf.select(cfg, key)
        if not isinstance(name, str):
            continue
        files = _files(key)
        if name not in files:
            raise ValueError(
                f"`{key}` must be one of {', '.join(files)}, or a node with `_target_`, got {name}"
            )
        OmegaConf.update(cfg, key, OmegaConf.load(files[name]), merge=False)
    return cfg


def in_hydras_words(key: str, value: object) -> str:
    """Return a key as Hydra spells it with that value: replay/sampling if that chooses a file.

    Then the command line may also have keys of the file. `value` may be a multirun's, with commas.
    """
    if key not in NAMED or not isinstance(value, str):
        return key
    return key.replace(".", "/") if _files(key).keys() >= set(value.split(",")) else key


def choice_of(cfg: DictConfig, key: str) -> Any:
    """Return the value of a dotted key; for a node, the name of its file or of its target.

    A node may have no such key, for instance `explore` of a run without exploration. Then the
    result is `ABSENT`, if another file of its group has the key.

    Raises:
        ValueError: There is no such key.
    """
    try:
        value = OmegaConf.select(cfg, key, default=ABSENT)
    except OmegaConfBaseException:  # a part of the key is a value, not a node
        value = ABSENT
    if value is ABSENT and not choices_with(key):
        raise ValueError(f"`switches` must name keys of the configuration, got {key}")
    if not isinstance(value, DictConfig):
        return value
    target = value.get("_target_")
    for name, path in _files(key).items():
        if read(path).get("_target_") == target:
            return name
    return str(target).rsplit(".", 1)[-1]


def read(path: Path) -> dict[str, Any]:
    """Return the values in a file of conf/ and the choices in its defaults list."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    choices = [entry for entry in content.pop("defaults", []) if isinstance(entry, dict)]
    return content | {
        key.removeprefix("override /").replace("/", "."): name
        for entry in choices
        for key, name in entry.items()
    }


def look_up(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key in nested mappings, or `ABSENT`."""
    if key in values:
        return values[key]
    first, _, rest = key.partition(".")
    inner = values.get(first)
    return look_up(inner, rest) if rest and isinstance(inner, Mapping) else ABSENT


def default_of(cfg: DictConfig, key: str) -> Any:
    """Return the default that the chosen file of a group has for a key in it, or `ABSENT`.

    For a class of a user's own, which has no file, it is the one that all files of the group share.
    Interpolations are resolved with the values of the configuration.
    """
    for group, rest in _groups_of(key):
        files, name = _files(group), choice_of(cfg, group)
        paths = [files[name]] if name in files else files.values()
        defaults = [look_up(read(path), rest) for path in paths]
        defaults = [default for default in defaults if default is not ABSENT]
        if defaults and all(default == defaults[0] for default in defaults):
            default = defaults[0]
            if isinstance(default, str):
                return OmegaConf.create({"default": default}, parent=cfg).default
            return default
    return ABSENT


def choices_with(key: str) -> list[str]:
    """List the choices whose files have a dotted key, such as explore=random."""
    return [
        f"{group}={name}"
        for group, rest in _groups_of(key)
        for name, path in sorted(_files(group).items())
        # The whole key if the file's package is global.
        if any(look_up(read(path), part) is not ABSENT for part in (rest, key))
    ]


def _groups_of(key: str) -> list[tuple[str, str]]:
    """Split a dotted key into a group of conf/ and the key in it, in all possible ways."""
    parts = key.split(".")
    splits = [(".".join(parts[:n]), ".".join(parts[n:])) for n in range(1, len(parts))]
    return [(group, rest) for group, rest in splits if _files(group)]


def names_in(group: str) -> list[str]:
    """Return the names of the files in a group of conf/."""
    return list(_files(group))


def _files(group: str) -> dict[str, Path]:
    """Return the files of a group of conf/, by name."""
    folder = CONF / group.replace(".", "/")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
