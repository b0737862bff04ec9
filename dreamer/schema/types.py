"""Words to declare a configuration key with: what it may be, its unit, its meaning, its source.

Every class and function that a `_target_` names uses them in its annotations, so that a key is
declared once. `schema.py` reads them. They know no key.
"""

import re
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

MOST = 2**53  # the largest count that every step on its way, a float among them, holds exactly


def doc(text: str, *, unit: str = "", source: str = "") -> Any:
    """Describe a key, among the notes of its annotation.

    As in `total_frames: Annotated[PositiveCount, doc("Length of the run.", unit="frames")]`.

    Args:
        text: One sentence that says what the key is for.
        unit: Of its number, such as "frames"; empty where the sentence is enough.
        source: Where the default comes from.
    """
    return Field(description=text, json_schema_extra={"unit": unit, "source": source})


def allowed(what: str) -> Exception:
    """Say, from a validator, what a value must be: `"the name of a month"`."""
    return PydanticCustomError("allowed", "{what}", {"what": what})


class Words(str):
    """Among the notes of an annotation: what a value may be, where its type does not say."""


def _compiles(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise allowed(f"a regular expression ({error})") from error
    return text


Count = Annotated[int, Field(ge=0, le=MOST)]
PositiveCount = Annotated[int, Field(ge=1, le=MOST)]
AtLeastTwo = Annotated[int, Field(ge=2, le=MOST)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # NumPy's global generator takes no more
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Pattern = Annotated[str, AfterValidator(_compiles), Words("a regular expression")]


class Node(Protocol):
    """What a node with a `_target_` makes, whatever it is."""


class Section:
    """Base of dataclasses that declare keys of a node without a `_target_`, or more of one with."""
