"""Parses one value into its annotated type.

pydantic does it, with stricter parsers of numbers, bools and text, because values come from YAML,
command lines and programs.
"""

import dataclasses
import functools
import math
import numbers
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, TypeAdapter
from pydantic_core import PydanticCustomError

from dreamer.schema.keys import is_union


def adapter(annotation: Any) -> TypeAdapter[Any]:
    """Return the parser of an annotated type; it raises pydantic's ValidationError."""
    try:
        return _adapter(annotation)
    except TypeError:  # metadata that cannot be hashed
        return TypeAdapter(_strict(annotation))


@functools.cache  # making one is far slower than using it
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_strict(annotation))


def is_plain(bare: Any) -> bool:
    """Whether the type is a number, text, bool or Literal, and so cannot be a node."""
    return bare in PARSERS or typing.get_origin(bare) is Literal


def _parse_int(value: Any) -> int:
    """Parse a whole number: 100000, 1e5 or the text `1e5`, but no bool."""
    number = _parse_float(value)
    if isinstance(value, str):  # a float would lose digits
        with_digits = value.strip().replace("_", "").lstrip("+-")
        number = int(value) if with_digits.isdecimal() else number
    if number % 1:
        raise PydanticCustomError("whole", "no whole number")
    return int(number)


def _parse_float(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        raise PydanticCustomError("number", "no number")
    try:
        number = value if isinstance(value, int) else float(value)
    except ValueError:
        raise PydanticCustomError("number", "no number") from None
    if isinstance(number, float) and not math.isfinite(number):
        raise PydanticCustomError("number", "no number")
    return number


def _parse_bool(value: Any) -> Any:
    """Parse a bool or the text `true` or `false`."""
    text = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(text, bool):
        raise PydanticCustomError("flag", "neither true nor false")
    return text


def _parse_str(value: Any) -> Any:
    """Convert an int to text: YAML parses a name such as 2024 as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


PARSERS = {
    int: BeforeValidator(_parse_int),
    float: BeforeValidator(_parse_float),
    bool: BeforeValidator(_parse_bool),
    str: BeforeValidator(_parse_str),
}


def _strict(annotation: Any) -> Any:
    """Return the annotation for pydantic, with the parsers of this file."""
    if typing.get_origin(annotation) is Annotated:
        inner, *notes = typing.get_args(annotation)
        return Annotated[(_strict(inner), *notes)]  # type: ignore[return-value]
    if annotation in PARSERS:
        return Annotated[annotation, PARSERS[annotation]]
    origin: Any = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if is_union(origin):
        return Union[tuple(_strict(one) for one in arguments)]  # noqa: UP007
    if origin in (list, tuple, dict, Sequence, Mapping):
        generic: Any = origin
        return generic[tuple(one if one is ... else _strict(one) for one in arguments)]
    if origin is Literal or annotation in (None, type(None), list, tuple, dict, Sequence, Mapping):
        return annotation
    if dataclasses.is_dataclass(annotation) or getattr(annotation, "_is_protocol", False):
        return Annotated[Any, BeforeValidator(_object)]
    return Any  # any other class validates its values itself


def _object(value: Any) -> Any:
    """Accept any object that a node's `_target_` can make."""
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        raise PydanticCustomError("object", "no object")
    return value
