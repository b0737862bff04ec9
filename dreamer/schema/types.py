"""Annotations that declare a configuration key: type, range, meaning, unit and source.

Every class and function that a `_target_` names uses them, so that a key is declared once.
`keys.py` reads them. They know no key.
"""

import re
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

MAX_COUNT = 2**53  # the largest count that a float holds exactly


def doc(text: str, *, unit: str = "", source: str = "") -> Any:
    """Describe a key in its annotation.

    Example: `total_frames: Annotated[PositiveCount, doc("Length of the run.", unit="frames")]`.

    Args:
        text: One sentence that describes the key.
        unit: Unit of its number, such as "frames"; may be empty.
        source: Source of the default.
    """
    return Field(description=text, json_schema_extra={"unit": unit, "source": source})


def allowed(what: str) -> Exception:
    """Make a validator's exception from what is allowed, such as "the name of a month"."""
    return PydanticCustomError("allowed", "{what}", {"what": what})


class Words(str):
    """Annotation metadata: the allowed values in words, if the type does not describe them."""


def _compiles(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise allowed(f"a regular expression ({error})") from error
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise allowed("the path of a folder")
    return text


Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
PositiveCount = Annotated[int, Field(ge=1, le=MAX_COUNT)]
AtLeastTwo = Annotated[int, Field(ge=2, le=MAX_COUNT)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # the range of NumPy's global generator
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Pattern = Annotated[str, AfterValidator(_compiles), Words("a regular expression")]
Folder = Annotated[str, AfterValidator(_not_empty), Words("the path of a folder")]


class Node(Protocol):
    """Any object that a node with a `_target_` makes."""


class Section:
    """Base of dataclasses that declare keys of a node, instead of a `_target_` or besides it."""
