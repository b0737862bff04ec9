"""Names the variant of a run: its experiment, and the switches that it changes.

`folder.py` names run folders with it, and reports read the names. It knows no key's meaning.
"""

import hashlib
import re
from pathlib import PurePosixPath
from typing import Any

from omegaconf import DictConfig

from dreamer.run.choices import ABSENT, choice_of, default_of, look_up, read
from dreamer.run.paths import CONF, SOURCES, absolute, is_remote

LONGEST = 200  # bytes of a variant; file systems allow 255 in a name
LONGEST_SOURCE = 80  # bytes of the name of an earlier run


def variant_of(cfg: DictConfig) -> str:
    """Return the experiment's name, followed by the switches that the run changes.

    Raises:
        ValueError: `switches` names a key that does not exist.
    """
    files = [CONF / "experiment" / f"{cfg.experiment_name}.yaml", CONF / "train.yaml"]
    defaults = [read(path) for path in files if path.exists()]
    parts = [cfg.experiment_name]
    for key in cfg.switches:
        value = choice_of(cfg, key)
        expected = [look_up(values, key) for values in defaults]
        expected.append(default_of(cfg, key) if "." in key else ABSENT)
        default = next((x for x in expected if x is not ABSENT), None)
        if value is not ABSENT and value != default:
            parts.append(f"{key}_{_text(key, value)}".lower())
    name = "-".join(parts)
    return _shortened(name, LONGEST, identity=name)


def _text(key: str, value: Any) -> str:
    if key not in SOURCES or value is None:
        return str(value)
    if isinstance(value, str):
        return _source_name(value)
    names = [f"{_source_name(x['address'])}_{x['weight']:g}" for x in value]
    return _shortened("+".join(names), LONGEST_SOURCE, identity=str(value))


def _source_name(path: str) -> str:
    """Name a run folder, a checkpoint in it, or data, in a way that fits into a folder's name.

    A run folder has the name of its task, variant and seed; any other folder or file its own.
    """
    whole = PurePosixPath(path) if is_remote(path) else absolute(path)
    folder, checkpoint = whole, ()
    if whole.suffix == ".ckpt" and whole.parent.name == "checkpoints":
        folder, checkpoint = whole.parent.parent, (whole.stem,)
    count = 3 if re.fullmatch(r"seed\d+", folder.name) else 1
    name = "-".join([*folder.parts[-count:], *checkpoint])
    safe = re.sub(r"[^\w.=+-]", "_", name, flags=re.ASCII)
    return _shortened(safe, LONGEST_SOURCE, identity=str(whole))


def _shortened(name: str, longest: int, *, identity: str) -> str:
    """Cut a name to so many bytes; then it ends with a hash of what it identifies."""
    if len(name.encode()) <= longest:
        return name
    end = "-" + hashlib.sha256(identity.encode()).hexdigest()[:8]
    return name.encode()[: longest - len(end)].decode(errors="ignore") + end
