"""Decides which code the configuration of a run folder may name.

`load.py` and `evaluate.py` ask it before they build anything, because somebody else may have made
the folder. Training does not: there, the user wrote the configuration. It builds nothing.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreamer.run.compose import SUITES
from dreamer.run.paths import CONF
from dreamer.schema.validation import find
from dreamer.schema.words import format_value

# What loading and evaluating build, by key of the configuration. The classes that the files in
# these folders of conf/ name are permitted in it, and no others.
FOLDERS = ("model", "latents", "cell", "returns", "explore", "probe", "experiment")
AGENT = ("model", "explore", "probe")  # what `build.make_agent` builds
PARTS = {**dict.fromkeys(AGENT, FOLDERS), "env": ("env",)}
# Permitted as well: what no file of conf/ names. Add a new class here, or a file that names it.
MORE = {"env": {"dreamer.envs.user.make_suite"}}
# Text in an environment's arguments that a library may import: my_module:MyEnv-v0.
IMPORTED = re.compile(r"[^\W\d][\w.]*:.*", re.DOTALL)


def check_permitted(
    cfg: DictConfig, where: Path, allow: Sequence[str], parts: Sequence[str]
) -> None:
    """Check that parts of a configuration name no code but that of this program and of `allow`.

    Args:
        cfg: Of a run folder.
        where: The folder, for the message.
        allow: Packages or modules whose classes and functions may be used as well.
        parts: Keys that are to be built: those of `PARTS`.

    Raises:
        ValueError: A part names other code, or `allow` is no list of packages.
    """
    packages = _packages(allow)
    plain = _as_plain(cfg, resolve=False)
    for part in parts:
        node = plain.get(part) or {}
        _check_text(node, part, where)
        for key, name in _names(node, part):
            if not _may_use(part, key, name, packages):
                raise ValueError(_refusal(key, name, where))


def code_of(cfg: DictConfig) -> list[str]:
    """Return the modules of the code that a user's own configuration names, to allow them."""
    modules: list[str] = []
    plain = _as_plain(cfg, resolve=True)
    for part in AGENT:
        for key, name in _names(plain.get(part) or {}, part):
            if name not in _targets(part):
                modules += [_module(key, name), getattr(find(name, key), "__module__", "")]
    return modules


def _as_plain(cfg: DictConfig, *, resolve: bool) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(cfg, resolve=resolve)
    return plain


def _packages(allow: Any) -> tuple[str, ...]:
    names = (allow,) if isinstance(allow, str) else tuple(allow or ())
    for name in names:
        if not isinstance(name, str) or not all(x.isidentifier() for x in name.split(".")):
            raise ValueError(
                "`allow` must name packages or modules, such as my_package, got "
                f"{format_value(name)}"
            )
    return names


def _check_text(node: Any, at: str, where: Path) -> None:
    """Refuse interpolations: a run writes resolved values, and they can hide what is built."""
    for key, text in _texts(node, at):
        if "${" in text:
            raise ValueError(
                f"`{key}` in {where / 'config.yaml'} must be a value, got the reference {text}. "
                "A run does not write references: somebody has edited the file."
            )


def _texts(node: Any, at: str) -> Iterator[tuple[str, str]]:
    """Yield all text in a node, keys included, by dotted key."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield at, str(key)
            yield from _texts(child, f"{at}.{key}")
    elif isinstance(node, list | tuple):
        for index, child in enumerate(node):
            yield from _texts(child, f"{at}[{index}]")
    elif isinstance(node, str):
        yield at, node


def _names(node: Any, part: str) -> Iterator[tuple[str, str]]:
    """Yield what names code, with its dotted key."""
    for key, value in _pairs(node, part):
        last = key.rpartition(".")[2]
        if last == "_target_":
            yield key, str(value)
        elif part == "env" and isinstance(value, str) and _is_code(last, value):
            yield key, value


def _is_code(key: str, value: str) -> bool:
    """Whether an environment imports this text, or may pass it to a library that does."""
    if key in ("factory", "task"):
        return key == "factory" or ":" in value
    return IMPORTED.fullmatch(value) is not None


def _pairs(node: Any, at: str) -> Iterator[tuple[str, Any]]:
    """Yield all values that are no containers, and every `_target_`, by dotted key."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            if key == "_target_":
                yield f"{at}.{key}", child
            else:
                yield from _pairs(child, f"{at}.{key}")
    elif isinstance(node, list | tuple):
        for index, child in enumerate(node):
            yield from _pairs(child, f"{at}[{index}]")
    else:
        yield at, node


def _may_use(part: str, key: str, name: str, packages: Sequence[str]) -> bool:
    """Whether a name is permitted, or leads to code that a package of `allow` defines.

    A name that only begins with such a package may lead elsewhere: `my_package.os.system`.
    """
    is_target, is_factory = key.endswith("._target_"), key.endswith(".factory")
    if (is_target and name in _targets(part)) or (is_factory and name in _suites()):
        return True
    if not _is_within(_module(key, name), packages):
        return False
    if not is_target and not is_factory:
        return True  # an environment that the module registers
    found = find(name.replace(":", "."), key)
    defined_in = getattr(found, "__module__", None) or ""
    whole = f"{defined_in}.{getattr(found, '__qualname__', '')}"
    if _is_within(defined_in, packages) or whole in _targets(part):
        return True
    raise ValueError(
        f"`{key}` must name code that {', '.join(packages)} defines, got {name}, which "
        f"{defined_in or 'another module'} defines. If you trust it, add that to `allow`."
    )


def _is_within(module: str, packages: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _module(key: str, name: str) -> str:
    """Return the module that a name leads to: of a class, a function or a registered id."""
    if key.endswith("._target_"):
        return name.rpartition(".")[0]
    return name.rpartition(":")[0] if key.endswith(".task") else name.partition(":")[0]


@functools.cache
def _targets(part: str) -> frozenset[str]:
    """Return the classes and functions that a part may name: those of the files of conf/."""
    paths = [path for group in PARTS[part] for path in (CONF / group).glob("*.yaml")]
    named = {
        str(value)
        for path in paths
        for key, value in _pairs(OmegaConf.to_container(OmegaConf.load(path)), "")
        if key.endswith("._target_")
    }
    return frozenset(named | MORE.get(part, set()))


def _suites() -> set[str]:
    """Return the functions of all installed suites, see `compose.register_suites`."""
    return {f"{point.module}:{point.attr}" for point in entry_points(group=SUITES)}


def _refusal(key: str, name: str, where: Path) -> str:
    package = re.split(r"[.:]", name)[0]
    name = name if name.isprintable() else repr(name)
    return (
        f"`{key}` in {where / 'config.yaml'} names {name}, which is not a part of this program: "
        f"loading would run its code. If you trust it: dreamer.load({str(where)!r}, "
        f"allow=[{package!r}]), or allow={package} on the command line."
    )
