"""The line that shows the progress of a run: its numbers, and which of them fit into a terminal.

`progress.py` shows it. This file knows no agent and no clock.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

STYLES = {"prefill": "yellow", "learning": "green", "evaluating": "cyan", "saving": "magenta"}
GAP = 2  # columns between two parts
SHORTEST_BAR, LONGEST_BAR = 6, 40  # columns
BAR = "bar"
# From the most to the least important: if the terminal is narrow, the last ones are left out.
RANKS = (
    *("phase", "return", "eval", "share", "left", "updates", BAR),
    *("count", "best", "frame rate", "elapsed"),
)


class Snapshot(NamedTuple):
    """The numbers at one moment; None: not known yet."""

    phase: str
    count: int  # of frames, or of `counter`
    total: int  # of the run; in the prefill, that of the prefill
    elapsed: float  # seconds, in this process
    last_return: float | None = None
    best_return: float | None = None
    evaluation: float | None = None  # mean return of the last evaluation
    updates_per_second: float | None = None
    frames_per_second: float | None = None
    seconds_left: float | None = None
    counter: str = "frames"  # or updates

    @property
    def share(self) -> float:
        """The part that is done, in [0, 1]."""
        return min(self.count / self.total, 1.0) if self.total else 1.0


class ProgressLine:
    """The line in a terminal: whenever it is drawn, it has the latest numbers that fit."""

    def __init__(self, read: Callable[[], Snapshot]):
        """`read` returns the latest numbers."""
        self._read = read

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the line in the present width of the terminal."""
        yield fitted(self._read(), options.max_width)


def fitted(now: Snapshot, width: int) -> Table:
    """Lay out the most important parts that fit into so many columns; none of them is cut."""
    parts = _parts(now)
    kept, used = set[str](), -GAP
    for name in RANKS:
        if name not in parts:
            continue
        needed = GAP + (SHORTEST_BAR if name == BAR else len(parts[name]))
        if used + needed > width:
            break
        kept.add(name)
        used += needed
    bar_width = min(SHORTEST_BAR + width - used, LONGEST_BAR)
    table = Table.grid(padding=(0, GAP), pad_edge=False)
    cells = []
    for name, text in parts.items():
        if name in kept:
            table.add_column(no_wrap=True)
            style = STYLES.get(now.phase, "") if name == "phase" else ""
            bar = ProgressBar(total=1.0, completed=now.share, width=bar_width)
            cells.append(bar if name == BAR else Text(text, style))
    table.add_row(*cells)
    return table


def as_text(now: Snapshot) -> str:
    """Return the same line for a file: all parts, without a bar."""
    parts = _parts(now)
    del parts[BAR]
    phase, *others = (text.strip() for text in parts.values())
    return f"{phase}: {', '.join(others)}"


def _parts(now: Snapshot) -> dict[str, str]:
    """Return what is known, from left to right; widths change little, so that the line is calm."""
    parts = {
        "phase": f"{now.phase:<10}",
        "return": _labelled("return", now.last_return),
        "eval": _labelled("eval", now.evaluation),
        "best": _labelled("best", now.best_return),
        BAR: "bar",
        "share": f"{_percent(now.share):>4}",
        "count": f"{_short(now.count)} of {_short(now.total)} {now.counter}",
        "updates": _rate(now.updates_per_second, "updates/s"),
        "frame rate": _rate(now.frames_per_second, "frames/s"),
        "elapsed": f"{duration(now.elapsed)} elapsed",
        "left": "" if now.seconds_left is None else f"{duration(now.seconds_left)} left",
    }
    return {name: text for name, text in parts.items() if text}


def _labelled(label: str, value: float | None) -> str:
    return "" if value is None else f"{label} {_number(value):<5}"


def _rate(value: float | None, unit: str) -> str:
    return "" if value is None else f"{_number(value):>4} {unit}"


def _number(value: float) -> str:
    """Format a number with about three digits, and at least its whole part."""
    if not math.isfinite(value):
        return str(value)
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def _percent(share: float) -> str:
    """Format a share; it is 100 % at the end only, and has a digit more at the beginning."""
    tenths = math.floor(share * 1000)
    return f"{tenths / 10:.1f}%" if 0 < tenths < 100 else f"{tenths // 10}%"


def _short(count: int) -> str:
    """Format a count: 950, 1.26k, 200M."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{math.floor(count / size * 100) / 100:.3g}{unit}"
    return str(count)


def duration(seconds: float) -> str:
    """Format a time: 0:07, 12:34, 1h 02m, 3d 4h."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes_rest = divmod(minutes, 60)
    days, hours_rest = divmod(hours, 24)
    if days:
        return f"{days}d {hours_rest}h"
    if hours:
        return f"{hours}h {minutes_rest:02}m"
    return f"{minutes}:{rest:02}"
