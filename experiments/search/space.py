"""The values that a search may choose: a range or a list for each key of train.py.

`settings.py` reads spaces from files with it, `study.py` samples from them. It knows no job.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from dreamer.schema.types import Positive, Section, doc
from dreamer.schema.validation import validate
from dreamer.schema.words import format_value
from experiments.sweep.grid import check_free, check_unique, key_of, quoted

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str | None


@dataclass
class RangeSettings(Section):
    """The keys of a range in a file."""

    low: Annotated[float, doc("The lowest value.")]
    high: Annotated[float, doc("The highest value.")]
    log: Annotated[bool, doc("Sample the logarithm uniformly.")] = False
    int: Annotated[bool, doc("Whole numbers only.")] = False
    step: Annotated[Positive | None, doc("Distance of the values from `low` on.")] = None


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False
    step: float | None = None

    @property
    def edges(self) -> tuple[Value, ...]:
        """The values to check before a search: if these are allowed, so are those between."""
        return (self.low, self.high)

    def distribution(self) -> "BaseDistribution":
        """Return Optuna's form of it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            step = int(self.step or 1)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


class Choices(NamedTuple):
    """A list of values, numbers or texts."""

    values: tuple[Value, ...]

    @property
    def edges(self) -> tuple[Value, ...]:
        """The values to check before a search: all."""
        return self.values

    def distribution(self) -> "BaseDistribution":
        """Return Optuna's form of it."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


Space = dict[str, Range | Choices]


def read_space(node: Any, where: str) -> Space:
    """Read a mapping of keys to ranges and lists.

    Args:
        node: of plain values.
        where: what it is, for messages, such as "`space` of conf/search/my.yaml".

    Raises:
        ValueError: A key belongs elsewhere, or a range or a list is not valid.
    """
    if not isinstance(node, Mapping) or not node:
        raise ValueError(
            f"{where} must have keys of train.py with values to search, as in "
            f"batch.size: [8, 16], got {format_value(node)}"
        )
    space: Space = {}
    for key, child in node.items():
        check_free(key_of(str(key)), where)
        space[str(key)] = _read(child, f"`{key}` in {where}")
    return space


def words_of(values: Mapping[str, Value]) -> tuple[str, ...]:
    """Return the arguments for train.py that set values."""
    return tuple(f"{key}={quoted(value)}" for key, value in values.items())


def all_points(space: Space, where: str) -> list[dict[str, Value]]:
    """Return all combinations of the values of lists, and of ranges of few numbers.

    Raises:
        ValueError: A range has no step.
    """
    options = [_values(one, f"`{key}` in {where}") for key, one in space.items()]
    return [dict(zip(space, values, strict=True)) for values in product(*options)]


def _values(one: Range | Choices, what: str) -> list[Value]:
    if isinstance(one, Choices):
        return list(one.values)
    step = one.step or (1 if one.whole and not one.log else None)
    if step is None:
        raise ValueError(f"{what} must be a list or have a `step` with sampler: grid")
    count = round((one.high - one.low) / step) + 1
    values = [one.low + i * step for i in range(count)]
    return [int(value) for value in values] if one.whole else list(values)


def _read(node: Any, what: str) -> Range | Choices:
    if isinstance(node, list):
        return _read_choices(node, what)
    if isinstance(node, Mapping):
        return _read_range({str(key): value for key, value in node.items()}, what)
    raise ValueError(
        f"{what} must be a list of values or a range with low and high, got {format_value(node)}"
    )


def _read_choices(node: list[Any], what: str) -> Choices:
    if len(node) < 2:
        raise ValueError(f"{what} must have at least two values, got {node}")
    for value in node:
        if not isinstance(value, Value):
            raise ValueError(
                f"{what} must be a list of numbers, texts, true, false or null, got {value}"
            )
    try:
        check_unique("value", [repr(value) for value in node])
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    return Choices(tuple(node))


def _read_range(node: dict[str, Any], what: str) -> Range:
    try:
        valid = validate(node, RangeSettings)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    settings = RangeSettings(**valid)
    low, high, step = settings.low, settings.high, settings.step
    if not low < high or not math.isfinite(high - low):
        raise ValueError(f"{what}: `low` must be less than `high`, got {low:g} and {high:g}")
    if settings.log and low <= 0:
        raise ValueError(f"{what}: `low` must be greater than 0 with log: true, got {low:g}")
    if settings.log and step is not None:
        raise ValueError(f"{what}: `step` must be left out with log: true, got {step:g}")
    if settings.int and any(number % 1 for number in (low, high, step or 1)):
        raise ValueError(
            f"{what}: `low`, `high` and `step` must be whole numbers with int: true, got "
            f"{', '.join(f'{number:g}' for number in (low, high, step or 1))}"
        )
    if step is not None and not math.isclose((high - low) / step, round((high - low) / step)):
        raise ValueError(
            f"{what}: `high` must be `low` plus a multiple of `step`, got {low:g}, {high:g} and "
            f"{step:g}"
        )
    if settings.int:
        low, high, step = int(low), int(high), None if step is None else int(step)
    return Range(low, high, settings.log, settings.int, step)
