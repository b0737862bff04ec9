"""The table of a sweep's jobs: state, progress, return and remaining time.

`sweep.py` prints it for a dry run, and updates it while jobs run. It reads run folders.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from threading import Event, Thread
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.sweep.jobs import Planned
from experiments.sweep.state import State, read_state

WORDS = {"empty": "missing"}
STYLES = {
    "finished": "green",
    "running": "bold cyan",
    "interrupted": "yellow",
    "failed": "bold red",
    "empty": "dim",
}
URGENT = (
    "running",
    "failed",
    "interrupted",
    "empty",
    "finished",
)  # order of display if the terminal is too small
LINE_SECONDS = 60  # between lines without a terminal
WIDTH = 160  # columns without a terminal
OTHER_LINES = 6  # lines of the terminal outside the rows of the table


def make_console() -> Console:
    """Make a console for the terminal, or one with long lines without a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def read_states(plan: Sequence[Planned]) -> list[State]:
    """Read the current states of all jobs, in order."""
    return [read_state(one.folder, one.total_frames) for one in plan]


class StatusDisplay(AbstractContextManager):
    """Shows a table while it is open, live on a terminal, otherwise lines of text."""

    def __init__(
        self,
        table: Callable[[int | None], RenderableType],
        line: Callable[[], str],
        console: Console,
    ):
        """Prepare the display.

        Args:
            table: returns what a terminal shows; its argument is the number of rows.
            line: returns what is printed every minute without a terminal, and at the end.
            console: to show it on.
        """
        self._table, self._line = table, line
        self._console = console
        self._every = 2.0 if console.is_terminal else LINE_SECONDS
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._done = Event()
        self._thread = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "StatusDisplay":
        """Start the display."""
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the final state, and leave it on the terminal."""
        self._done.set()
        self._thread.join()
        self._show()
        if self._live:
            self._live.stop()

    def _follow(self) -> None:
        while not self._done.wait(self._every):
            self._show()

    def _show(self) -> None:
        if self._live:
            rows = self._console.height - OTHER_LINES
            self._live.update(self._table(rows), refresh=True)
        else:
            self._console.print(self._line(), soft_wrap=True, highlight=False)


def one_line(plan: Sequence[Planned]) -> str:
    """Summarise all jobs in a line, with the progress of those that run."""
    states = read_states(plan)
    running = [
        f"{one.job.name} {_share_done(one, state)}"
        for one, state in zip(plan, states, strict=True)
        if state.phase == "running"
    ]
    return "; ".join([summary_line(plan, states), *running])


def with_summary(plan: Sequence[Planned], rows: int | None = None) -> Group:
    """Make the table of the jobs, and a line that summarises them."""
    states = read_states(plan)
    return Group(table(plan, states, rows), summary_line(plan, states))


def table(plan: Sequence[Planned], states: Sequence[State], rows: int | None = None) -> Table:
    """Make a table with a row per job; with `rows`, only the most urgent jobs, in grid order."""
    shown = list(range(len(plan)))
    if rows is not None and len(plan) > rows:
        urgent = sorted(shown, key=lambda n: (URGENT.index(states[n].phase), n))
        shown = sorted(urgent[: max(rows, 1)])
    result = Table(box=None, pad_edge=False, caption_justify="left", header_style="bold")
    for column in ("task", "variant", "seed", "state"):
        result.add_column(column, no_wrap=True)
    for column in ("frames", "done", "return", "frames/s", "left"):
        result.add_column(column, justify="right", no_wrap=True)
    result.add_column("")
    for n in shown:
        result.add_row(*_cells(plan[n], states[n]))
    if len(shown) < len(plan):
        result.caption = f"... and {len(plan) - len(shown)} more"
    return result


def summary_line(plan: Sequence[Planned], states: Sequence[State]) -> str:
    """Summarise all jobs: numbers by state, frames, and remaining time."""
    counts = Counter(state.phase for state in states)
    parts = [f"{counts[phase]} {WORDS.get(phase, phase)}" for phase in STYLES if counts[phase]]
    done = sum(min(s.frames, one.total_frames) for one, s in zip(plan, states, strict=True))
    total = sum(one.total_frames for one in plan)
    line = f"{len(plan)} jobs: {', '.join(parts)}; {done:,} of {total:,} frames"
    seconds = _seconds_left(plan, states)
    if seconds:
        line += f"; about {duration(seconds / max(counts['running'], 1))} left at the current speed"
    return line


def _seconds_left(plan: Sequence[Planned], states: Sequence[State]) -> float:
    """Estimate the time of all unfinished jobs, one after the other.

    A job without a speed gets the mean time of its task. A task without one gets the mean time of
    all jobs, as frames of different tasks may take very different times.
    """
    pairs = list(zip(plan, states, strict=True))
    times: dict[str, list[float]] = {}  # seconds of whole jobs, by task
    for one, state in pairs:
        if state.frames_per_second:
            time = one.total_frames / state.frames_per_second
            times.setdefault(f"{one.job.env}/{one.job.task}", []).append(time)
    known = [time for group in times.values() for time in group]
    left = 0.0
    for one, state in pairs:
        if known and state.phase in ("running", "interrupted", "empty"):
            group = times.get(f"{one.job.env}/{one.job.task}", known)
            left += max(1 - state.frames / one.total_frames, 0) * sum(group) / len(group)
    return left


def duration(seconds: float) -> str:
    """Format a time in a suitable unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _cells(one: Planned, state: State) -> list[RenderableType]:
    job, style = one.job, STYLES[state.phase]
    left = ""
    if state.phase == "running" and state.frames_per_second:
        left = duration(max(one.total_frames - state.frames, 0) / state.frames_per_second)
    score = "" if state.last_return is None else f"{state.last_return:.2f}"
    return [
        f"{job.env}/{job.task}",
        job.variant,
        str(job.seed),
        Text(WORDS.get(state.phase, state.phase), style),
        _short(one.total_frames),
        _share_done(one, state) if state.frames else "",
        score,
        f"{state.frames_per_second:.0f}" if state.frames_per_second else "",
        left,
        Text(state.detail, "dim", overflow="ellipsis", no_wrap=True),
    ]


def _short(frames: int) -> str:
    """Format a frame count: 3k, 1.5M, 200M."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if frames >= size:
            return f"{frames / size:.3g}{unit}"
    return str(frames)


def _share_done(one: Planned, state: State) -> str:
    return f"{min(state.frames / one.total_frames, 1):.0%}"
