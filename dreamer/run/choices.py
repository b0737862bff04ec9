"""Choices by name: files of conf/, and users' classes.

`config.py` resolves names with it, and `folder.py` names run folders. It knows no key's meaning.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreamer.run.paths import CONF

# Groups of conf/ whose value may be a file's name, such as `collect_policy: random`.
NAMED = ("collect_policy", "collect", "explore", "replay.sampling")


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


def choice_of(cfg: DictConfig, key: str) -> Any:
    """Return the value of a key; for a node, the name of its file or of its target.

    Raises:
        ValueError: There is no such key.
    """
    if key not in cfg:
        raise ValueError(f"`switches` must name keys of the configuration, got {key}")
    value = cfg[key]
    if not isinstance(value, DictConfig):
        return value
    target = value.get("_target_")
    for name, path in _files(key).items():
        content = OmegaConf.load(path)
        if isinstance(content, DictConfig) and content.get("_target_") == target:
            return name
    return str(target).rsplit(".", 1)[-1]


def _files(group: str) -> dict[str, Path]:
    """Return the files of a group of conf/, by name."""
    folder = CONF / group.replace(".", "/")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
