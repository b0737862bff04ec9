"""One value: read in the type that an annotation asks for.

pydantic does it, with the project's own reading of numbers, flags and text: a configuration comes
from YAML, from a command line and from programs.
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
    """What reads a value in the annotated type; it raises a ValidationError."""
    try:
        return _adapter(annotation)
    except TypeError:  # of notes that cannot be hashed
        return TypeAdapter(_strict(annotation))


@functools.cache  # making one takes far longer than using it
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_strict(annotation))


def is_plain(bare: Any) -> bool:
    """Whether the type has no room for a node: a number, a text, a flag or a choice of words."""
    return bare in READERS or typing.get_origin(bare) is Literal


def _whole(value: Any) -> int:
    """A whole number however it is written: 100000, 1e5 or the text `1e5`, but no bool."""
    number = _number(value)
    if isinstance(value, str):  # digits that no float holds
        with_digits = value.strip().replace("_", "").lstrip("+-")
        number = int(value) if with_digits.isdecimal() else number
    if number % 1:
        raise PydanticCustomError("whole", "no whole number")
    return int(number)


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        raise PydanticCustomError("number", "no number")
    try:
        number = value if isinstance(value, int) else float(value)
    except ValueError:
        raise PydanticCustomError("number", "no number") from None
    if isinstance(number, float) and not math.isfinite(number):
        raise PydanticCustomError("number", "no number")
    return number


def _flag(value: Any) -> Any:
    """True and false, however they arrive: from YAML as they are, or as text."""
    text = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(text, bool):
        raise PydanticCustomError("flag", "neither true nor false")
    return text


def _text(value: Any) -> Any:
    """YAML reads a name such as 2024 as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


READERS = {
    int: BeforeValidator(_whole),
    float: BeforeValidator(_number),
    bool: BeforeValidator(_flag),
    str: BeforeValidator(_text),
}


def _strict(annotation: Any) -> Any:
    """The annotation for pydantic, with the project's own reading of numbers, text and flags."""
    if typing.get_origin(annotation) is Annotated:
        inner, *notes = typing.get_args(annotation)
        return Annotated[(_strict(inner), *notes)]  # type: ignore[return-value]
    if annotation in READERS:
        return Annotated[annotation, READERS[annotation]]
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
    return Any  # a class of somebody else's, of which only it knows what it takes


def _object(value: Any) -> Any:
    """What a node's `_target_` has made, or will."""
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        raise PydanticCustomError("object", "no object")
    return value
