"""Which keys a node of a configuration has: read from the annotations of what it names.

The schema of a node with a `_target_` is the annotated parameters of that class or function, so a
user's class is checked and documented like ours. It imports nothing and checks no value.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Union

from pydantic.fields import FieldInfo

REQUIRED = inspect.Parameter.empty  # the default of a key that has none


class Key(NamedTuple):
    """What is declared of one key."""

    annotation: Any = Any
    default: Any = REQUIRED
    text: str = ""
    unit: str = ""
    source: str = ""


class Keys(NamedTuple):
    """What is declared of the keys of a node."""

    named: dict[str, Key]
    others: bool = False  # whether there may be more


@functools.cache
def keys_of(target: Callable[..., Any]) -> Keys:
    """The keys of a class or a function: its parameters.

    Where `doc` describes some of them, those are its keys, and a program gives the others.
    """
    if dataclasses.is_dataclass(target):
        hints = _hints(target)
        named = {
            field.name: _read(hints.get(field.name, Any), _default(field))
            for field in dataclasses.fields(target)
            if field.init
        }
        return Keys(named)
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # of a built-in
        return Keys({}, others=True)
    hints = _hints(target.__init__ if inspect.isclass(target) else target)
    named, others = {}, False
    for parameter in parameters:
        hint = hints.get(parameter.name, Any)
        if parameter.kind == parameter.VAR_KEYWORD:
            rest = typing.get_args(hint) if typing.get_origin(hint) is typing.Unpack else ()
            for typed in rest:
                named |= {k: _read(h, REQUIRED) for k, h in _hints(typed).items()}
            others = not rest
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            named[parameter.name] = _read(hint, parameter.default)
    described = {name: key for name, key in named.items() if key.text}
    return Keys(described or named, others)


def _hints(annotated: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except (NameError, AttributeError, TypeError):  # of names that exist for type checkers only
        raw = getattr(annotated, "__annotations__", {})
        return {name: Any if isinstance(hint, str) else hint for name, hint in raw.items()}


def _default(field: Any) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _read(hint: Any, default: Any) -> Key:
    for note in getattr(hint, "__metadata__", ()):
        if isinstance(note, FieldInfo) and note.description:
            extra: Any = note.json_schema_extra or {}
            return Key(
                hint, default, note.description, extra.get("unit", ""), extra.get("source", "")
            )
    return Key(hint, default)


def bare_type(annotation: Any) -> Any:
    """The annotated type without its notes."""
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def notes_of(annotation: Any) -> list[Any]:
    """All constraints of an annotation."""
    notes = []
    for note in getattr(annotation, "__metadata__", ()):
        notes += note.metadata if isinstance(note, FieldInfo) else [note]
    return notes


def is_union(origin: Any) -> bool:
    """Whether this is what `get_origin` gives for `int | None`."""
    return origin in (Union, types.UnionType)
