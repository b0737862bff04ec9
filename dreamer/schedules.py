"""Schedules: numbers that change over a run, written as strings in the configuration.

Learning rates, the scale of the KL loss, the actor's entropy scale and its gradient mix may be
schedules. Time is counted in policy steps, as in the authors' code.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator

from dreamer.schema.types import NonNegative, Positive, Words, allowed

Schedule = Callable[[int], float]

_FORMS = "a number, linear(a,b,d), warmup(w,v), exp(a,b,h) or horizon(a,b,d)"


def parse_schedule(text: str | float) -> Schedule:
    """Parse a number or a schedule string to a function of the policy step.

    linear(a,b,d)   from a to b over d policy steps, then b
    warmup(w,v)     from 0 to v over w policy steps, then v
    exp(a,b,h)      from a towards b, half of the distance every h policy steps
    horizon(a,b,d)  the discount 1 - 1/x of a horizon x >= 1 from a to b over d policy steps

    Raises:
        ValueError: the text is not one of these.

    Source: `schedule` of the authors' code.
    """
    call = re.fullmatch(r"([a-z]+)\((.*)\)", str(text).replace(" ", ""))
    name, numbers = call.groups() if call else ("", str(text))
    try:
        arguments = [float(x) for x in numbers.split(",")]
    except ValueError:
        arguments = []
    if all(map(math.isfinite, arguments)):
        match name, arguments:
            case "", [constant]:
                return partial(_constant, value=constant)
            case "linear", [start, end, duration] if duration > 0:
                return partial(_linear, start=start, end=end, duration=duration)
            case "warmup", [duration, value] if duration > 0:
                return partial(_linear, start=0.0, end=value, duration=duration)
            case "exp", [start, end, half_life] if half_life > 0:
                return partial(_exponential, start=start, end=end, half_life=half_life)
            case "horizon", [start, end, duration] if min(start, end) >= 1 and duration > 0:
                return partial(_horizon, start=start, end=end, duration=duration)
    raise ValueError(f"A schedule must be {_FORMS}, got {text!r}")


def _check(text: Any, forms: str = _FORMS) -> str | float:
    try:
        parse_schedule(text)
    except ValueError:
        raise allowed(forms) from None
    return text


def _check_range(text: Any, *, positive: bool, forms: str) -> str | float:
    """Check all values of a schedule; a number becomes a float.

    A schedule is monotonic, so its first and last value are its extremes. It may touch 0.
    """
    schedule = parse_schedule(_check(text, forms))
    if is_constant(text):
        value = schedule(0)
        if value < 0 or (positive and value == 0):
            raise allowed("greater than 0" if positive else "at least 0")
        return value
    if min(schedule(0), schedule(_END)) < 0:
        raise allowed("a schedule whose values are at least 0")
    return text


_END = 10**30  # policy steps; every schedule has ended
_POSITIVE = _FORMS.replace("a number", "a number greater than 0", 1)
_NON_NEGATIVE = _FORMS.replace("a number", "a number of at least 0", 1)

ScheduleText = Annotated[str | float, BeforeValidator(_check), Words(_FORMS)]
PositiveSchedule = Annotated[
    str | Positive,
    BeforeValidator(partial(_check_range, positive=True, forms=_POSITIVE)),
    Words(_POSITIVE),
]
NonNegativeSchedule = Annotated[
    str | NonNegative,
    BeforeValidator(partial(_check_range, positive=False, forms=_NON_NEGATIVE)),
    Words(_NON_NEGATIVE),
]


def is_constant(text: str | float) -> bool:
    """Whether the schedule is a plain number."""
    return "(" not in str(text)


# Named functions, not lambdas: an agent may be pickled.


def _constant(step: int, value: float) -> float:
    return value


def _exponential(step: int, start: float, end: float, half_life: float) -> float:
    return (start - end) * 0.5 ** (step / half_life) + end


def _horizon(step: int, start: float, end: float, duration: float) -> float:
    return 1 - 1 / _linear(step, start, end, duration)


def _linear(step: int, start: float, end: float, duration: float) -> float:
    mix = min(max(step / duration, 0.0), 1.0)
    return (1 - mix) * start + mix * end
