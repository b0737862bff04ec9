"""The table of a sweep's jobs: in which state each is, how far, how good, and what is left.

`sweep.py` prints it for a dry run, and keeps it up to date while jobs run. It reads run folders.
"""

from collections import Counter
from collections.abc import Sequence
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
)  # shown first where room is short
WIDTH = 160  # columns where there is no terminal
AROUND = 6  # lines of the terminal that are not rows of the table


def make_console() -> Console:
    """The terminal; where there is none, lines are as long as they need to be."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def read_states(plan: Sequence[Planned]) -> list[State]:
    """The states of all jobs now, in their order."""
    return [read_state(one.folder, one.total_frames) for one in plan]


class StatusDisplay(AbstractContextManager):
    """Shows the jobs until it is left: redrawn on a terminal, else one line now and then."""

    def __init__(self, plan: Sequence[Planned], console: Console, *, every_seconds: float):
        """`every_seconds` is the time between two lines where there is no terminal."""
        self._plan = plan
        self._console = console
        self._every = 2.0 if console.is_terminal else every_seconds
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._done = Event()
        self._thread = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "StatusDisplay":
        """Begin to show."""
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
        """Show the end, and leave it standing."""
        self._done.set()
        self._thread.join()
        self._show()
        if self._live:
            self._live.stop()

    def _follow(self) -> None:
        while not self._done.wait(self._every):
            self._show()

    def _show(self) -> None:
        states = read_states(self._plan)
        total = summary_line(self._plan, states)
        if self._live:
            rows = self._console.height - AROUND
            self._live.update(Group(table(self._plan, states, rows), total), refresh=True)
            return
        running = [
            f"{one.job.name} {_share_done(one, state)}"
            for one, state in zip(self._plan, states, strict=True)
            if state.phase == "running"
        ]
        self._console.print("; ".join([total, *running]), soft_wrap=True, highlight=False)


def table(plan: Sequence[Planned], states: Sequence[State], rows: int | None = None) -> Table:
    """One line a job; with `rows`, the most urgent ones that fit, in the order of the grid."""
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
    """All jobs together: how many in which state, frames, and the time that is left."""
    counts = Counter(state.phase for state in states)
    parts = [f"{counts[phase]} {WORDS.get(phase, phase)}" for phase in STYLES if counts[phase]]
    done = sum(min(s.frames, one.total_frames) for one, s in zip(plan, states, strict=True))
    total = sum(one.total_frames for one in plan)
    line = f"{len(plan)} jobs: {', '.join(parts)}; {done:,} of {total:,} frames"
    seconds = _seconds_left(plan, states)
    if seconds:
        line += f"; about {duration(seconds / max(counts['running'], 1))} left at the pace so far"
    return line


def _seconds_left(plan: Sequence[Planned], states: Sequence[State]) -> float:
    """Of all jobs that will run, one after the other; a job without a pace takes that of its task.

    A task without a pace takes the mean time of the jobs that have one: frames of two tasks may
    cost very different times.
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
    """A time as people say it, in the unit that fits."""
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
    """A frame count in few letters: 3k, 1.5M, 200M."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if frames >= size:
            return f"{frames / size:.3g}{unit}"
    return str(frames)


def _share_done(one: Planned, state: State) -> str:
    return f"{min(state.frames / one.total_frames, 1):.0%}"
