"""Choices of the configuration by name: the names of files in conf/, and of users' classes.

`config.py` reads names with it, and run folders are named with it. It knows no key's meaning.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreamer.run.paths import CONF

# Groups of conf/ of which a name may stand for the content, `collect_policy: random` for instance.
NAMED = ("collect_policy", "collect", "explore", "replay.sampling")


def with_named(cfg: DictConfig) -> DictConfig:
    """A copy in which the content of a file stands where only its name stood; see `NAMED`.

    Raises:
        ValueError: there is no such file.
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
    """The value of a key; of a node, the name of its file or of the class that it describes.

    Raises:
        ValueError: there is no such key.
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
    """The files of a group of conf/, by name."""
    folder = CONF / group.replace(".", "/")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
