"""Validates a configuration against the declarations of its keys, before anything is built.

All code that reads configurations uses it, and so do the classes that they name. It knows no key,
no Hydra and no OmegaConf.
"""

import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from pydantic import ValidationError

from dreamer.schema.keys import ANY, REQUIRED, Keys, bare_type, is_union, keys_of
from dreamer.schema.sources import keys_in_source
from dreamer.schema.types import Section
from dreamer.schema.values import adapter, is_plain
from dreamer.schema.words import describe, format_value, must, unknown_key

HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_")
MISSING = "???"

# Returns the keys of a `_target_`; the second argument is the key of the target itself.
Reader = Callable[[Any, str], Keys]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def imported(target: Any, at: str) -> Keys:
    """Return the keys of a target, which is imported.

    Raises:
        ValueError: There is no such target.
        ImportError: Its module needs a package that is missing.
    """
    return keys_of(find(target, at))


def in_source(target: Any, at: str) -> Keys:
    """Return the keys of a target without importing it; any keys if it is not in this project."""
    return keys_in_source(target) or ANY


def validate(
    node: Mapping[str, Any], declared: type, at: str = "", read: Reader = imported
) -> dict[str, Any]:
    """Check a node and all its children against a dataclass that declares its keys.

    Args:
        node: Of plain values, with interpolations resolved.
        declared: The dataclass.
        at: The node's own dotted key; empty for the whole configuration.
        read: Returns the keys of targets; `in_source` is fast, and checks less.

    Returns:
        The node with values of the declared types: 100000 for the text `1e5`.

    Raises:
        ValueError: A value is not allowed; the message names the key, the value and the rule.
    """
    return _validate_keys(node, keys_of(declared), at, read)


def validate_words(words: Sequence[str], declared: type) -> dict[str, Any]:
    """Check the words of a command line, each key=value; `null` is None.

    Raises:
        ValueError: A word is not key=value, a key is unknown, or a value is not allowed.
    """
    for word in words:
        if "=" not in word:
            raise ValueError(f"Arguments must be key=value, got `{word}`")
    pairs = (word.split("=", 1) for word in words)
    return validate({key: None if value == "null" else value for key, value in pairs}, declared)


def check(config: Any) -> None:
    """Check the fields of a dataclass; to be called in its `__post_init__`.

    Raises:
        ValueError: A value is not allowed; the message names the field, the value and the rule.
    """
    for name, declared in keys_of(type(config)).named.items():
        old = getattr(config, name)
        new = validate_value(old, declared.annotation, name)
        if new is not old:
            object.__setattr__(config, name, new)  # the dataclass may be frozen


def checked_call(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a function to check its described arguments, as `check` does for a dataclass.

    Raises:
        ValueError: Of a call, if an argument is not allowed.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        bound = signature.bind(*args, **kwargs)
        for name, declared in keys_of(function).named.items():
            if declared.text and name in bound.arguments:
                value = bound.arguments[name]
                bound.arguments[name] = validate_value(value, declared.annotation, name)
        return function(*bound.args, **bound.kwargs)

    return call


def _validate_keys(node: Mapping[str, Any], keys: Keys, at: str, read: Reader) -> dict[str, Any]:
    prefix = f"{at}." if at else ""
    unknown = [name for name in node if name not in keys.named and name not in HYDRA_KEYS]
    if unknown and not keys.others:
        raise unknown_key(f"{prefix}{unknown[0]}", [f"{prefix}{name}" for name in keys.named])
    valid = dict(node)
    for (
        name,
        declared,
    ) in keys.named.items():  # this order reports a key before those that interpolate it
        if name in node:
            valid[name] = validate_value(node[name], declared.annotation, f"{prefix}{name}", read)
        elif declared.default is REQUIRED and declared.text:
            raise ValueError(
                f"`{prefix}{name}` is missing: it must be {describe(declared.annotation)}"
            )
    for name in unknown:
        valid[name] = validate_value(node[name], Any, f"{prefix}{name}", read)
    return valid


def validate_value(value: Any, annotation: Any, at: str, read: Reader = imported) -> Any:
    """Check one value and all its children; return it in the annotated type.

    Raises:
        ValueError: The value is not allowed; the message names the key `at`, the value and the
            rule.
    """
    if isinstance(value, str) and value == MISSING:
        raise ValueError(f"`{at}` is missing: it must be {describe(annotation)}")
    bare = bare_type(annotation)
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    if isinstance(value, Mapping):
        keys = keys_of_node(value, annotation, at, read)
        if keys:
            return _validate_keys(value, keys, at, read)
        if bare is Any or origin in (dict, Mapping):
            inner = arguments[1] if arguments else Any
            return {k: validate_value(v, inner, f"{at}.{k}", read) for k, v in value.items()}
    elif isinstance(value, list | tuple):
        if bare is Any:
            return value
        if origin in (list, Sequence) or (origin is tuple and arguments[1:] == (...,)):
            items = [
                validate_value(v, arguments[0], f"{at}[{i}]", read) for i, v in enumerate(value)
            ]
            return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    try:
        return adapter(annotation).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"`{at}` {must(error, annotation)}, got {format_value(value)}") from error


def keys_of_node(
    node: Mapping[str, Any], annotation: Any, at: str, read: Reader = imported
) -> Keys | None:
    """Return the keys of a node: its target's and those of a `Section`; None if it has neither.

    `read` returns the keys of a target.

    Raises:
        ValueError: There is no such target.
        ImportError: The target's module needs a package that is missing.
    """
    bare = bare_type(annotation)
    kinds = typing.get_args(bare) if is_union(typing.get_origin(bare)) else (bare,)
    sections = [k for k in kinds if inspect.isclass(k) and issubclass(k, Section)]
    declared = {name: key for section in sections for name, key in keys_of(section).named.items()}
    if "_target_" not in node or all(map(is_plain, kinds)):
        return Keys(declared) if declared else None
    keys = read(node["_target_"], f"{at}._target_")
    # Keys of a target are optional in a section.
    declared = {name: key._replace(default=None) for name, key in declared.items()}
    return Keys(keys.named | declared, keys.others)


def find(target: Any, at: str) -> Callable[..., Any]:
    """Import the class or function of a `_target_`.

    Raises:
        ValueError: There is no such class or function.
        ImportError: Its module needs a package that is missing.
    """
    module, _, name = str(target).rpartition(".")
    names, missing = [name], ""
    while module and not module.startswith("."):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module exists, but a package that it needs is missing
            missing = error.name
            module, _, name = module.rpartition(".")
            names.insert(0, name)
            continue
        for name in names:
            found = getattr(found, name, None)
        if callable(found):
            return found
        break
    reason = f"; there is no module `{missing}`" if missing else ""
    raise ValueError(f"`{at}` must name a class or a function, got {format_value(target)}{reason}")
