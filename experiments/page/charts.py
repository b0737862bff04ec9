"""The content of the charts that a page draws: lines, bands and legends as plain numbers.

`page.js` draws them in the browser. It knows neither runs nor scores.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

DIGITS = 5  # of a number in the page


@dataclass(frozen=True)
class Line:
    """A line over frames, with an optional band.

    Attributes:
        name: of the entry in the legend that shows and hides it.
        label: what it is, where the values under the pointer are listed.
        color: in CSS.
        dash: lengths in pixels as in SVG; empty for a solid line.
        x: (P,) frames, rising.
        y: (P,) values.
        low: (P,) lower edge of the band; empty without one.
        high: (P,) upper edge.
        stops: frames where a run stops early; a cross is drawn there.
    """

    name: str
    label: str
    color: str
    dash: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    stops: Sequence[float] = ()

    def data(self) -> dict[str, Any]:
        """Return what JSON holds of it."""
        numbers = ("x", "y", "low", "high", "stops")
        return asdict(self) | {key: _short(getattr(self, key)) for key in numbers}


@dataclass(frozen=True)
class Chart:
    """Lines of one measure.

    Attributes:
        title: the measure.
        unit: of the y axis; may be empty.
        lines: in the order of drawing.
        note: a sentence on how to read it; may be empty.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    note: str = ""

    def data(self) -> dict[str, Any]:
        """Return what the page's script reads."""
        return {"title": self.title, "unit": self.unit, "lines": [x.data() for x in self.lines]}


@dataclass(frozen=True)
class LegendEntry:
    """An entry of a legend: the lines of that name, in all charts of the group."""

    name: str
    label: str
    color: str
    dash: str


@dataclass(frozen=True)
class ChartGroup:
    """Charts with one legend and one range of frames, such as all measures of a task.

    Attributes:
        title: the task.
        charts: its measures.
        legend: its lines.
        counter: what the x axis counts, frames or updates.
    """

    title: str
    charts: Sequence[Chart]
    legend: Sequence[LegendEntry] = field(default_factory=list)
    counter: str = "frames"


def _short(numbers: Iterable[float]) -> list[float | int | None]:
    """Round to a few digits; missing numbers are None, which JSON can hold."""
    return [_rounded(float(x)) if math.isfinite(x) else None for x in numbers]


def _rounded(number: float) -> float | int:
    if number == int(number):
        return int(number)
    return float(f"{number:.{DIGITS}g}")
