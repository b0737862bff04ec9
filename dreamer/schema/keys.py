"""The keys of a configuration node, read from the annotations of its target.

The schema of a node with a `_target_` is the annotated parameters of that class or function, so
users' classes are validated and documented as well. It imports no target and checks no value.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple, Union

from pydantic.fields import FieldInfo

REQUIRED = inspect.Parameter.empty  # stands for the default of a required key


class Key(NamedTuple):
    """The declaration of one key."""

    annotation: Any = Any
    default: Any = REQUIRED
    text: str = ""
    unit: str = ""
    source: str = ""


class Keys(NamedTuple):
    """The declarations of the keys of a node."""

    named: dict[str, Key]
    others: bool = False  # whether further keys are allowed


ANY = Keys({}, others=True)  # any keys, as nothing is known of them


@functools.cache
def keys_of(target: Callable[..., Any]) -> Keys:
    """Return the keys of a class or function: its parameters.

    If `doc` describes some of the parameters, only those are keys; code passes the others.
    """
    if dataclasses.is_dataclass(target):
        hints = _hints(target)
        named = {
            field.name: declaration(hints.get(field.name, Any), _default(field))
            for field in dataclasses.fields(target)
            if field.init
        }
        return Keys(named)
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # a built-in without a signature
        return Keys({}, others=True)
    hints = _hints(target.__init__ if inspect.isclass(target) else target)
    return of_parameters(x.replace(annotation=hints.get(x.name, Any)) for x in parameters)


def of_parameters(parameters: Iterable[inspect.Parameter]) -> Keys:
    """Return the keys of a function with these parameters, whose annotations are evaluated."""
    named, others = {}, False
    for parameter in parameters:
        hint = parameter.annotation
        if parameter.kind == parameter.VAR_KEYWORD:
            rest = typing.get_args(hint) if typing.get_origin(hint) is typing.Unpack else ()
            for typed in rest:
                named |= {k: declaration(h, REQUIRED) for k, h in _hints(typed).items()}
            others = not rest
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            named[parameter.name] = declaration(hint, parameter.default)
    described = {name: key for name, key in named.items() if key.text}
    return Keys(described or named, others)


def _hints(annotated: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except (NameError, AttributeError, TypeError):  # names that exist for type checkers only
        raw = getattr(annotated, "__annotations__", {})
        return {name: Any if isinstance(hint, str) else hint for name, hint in raw.items()}


def _default(field: Any) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def declaration(hint: Any, default: Any) -> Key:
    """Return the key that an annotation declares."""
    for note in getattr(hint, "__metadata__", ()):
        if isinstance(note, FieldInfo) and note.description:
            extra: Any = note.json_schema_extra or {}
            return Key(
                hint, default, note.description, extra.get("unit", ""), extra.get("source", "")
            )
    return Key(hint, default)


def bare_type(annotation: Any) -> Any:
    """Return the annotated type without its metadata."""
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def notes_of(annotation: Any) -> list[Any]:
    """Return all metadata of an annotation."""
    notes = []
    for note in getattr(annotation, "__metadata__", ()):
        notes += note.metadata if isinstance(note, FieldInfo) else [note]
    return notes


def is_union(origin: Any) -> bool:
    """Whether this is the `get_origin` of a union, such as `int | None`."""
    return origin in (Union, types.UnionType)
