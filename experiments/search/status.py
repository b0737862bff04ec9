"""The table of a search: its trials, with state, value and proposed values.

`command.py` prints it for a dry run, and updates it while trials run.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from experiments.search.study import JOBS, begun, best, phase, values_of
from experiments.sweep.jobs import IN_CHECKOUT
from experiments.sweep.state import State
from experiments.sweep.status import STYLES

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

PRUNED = "magenta"
RUNNING, FAILED = "running", "failed"
OF_ONE_RUN = ("variant=", "seed=", "root=")  # arguments that name the run of a trial


class Board:
    """What is shown of a search."""

    def __init__(self, study: "Study | None", trials: int, keys: Sequence[str]):
        """Prepare it.

        Args:
            study: None before the first trial.
            trials: number of trials in the end.
            keys: of the space.
        """
        self.states: Mapping[int, Sequence[State]] = {}  # of the jobs of trials that run now
        self._study, self._trials, self._keys = study, trials, keys

    def table(self, rows: int | None = None) -> RenderableType:
        """Make the table; with `rows`, of the trials that run, and the last of the others."""
        trials = begun(self._study) if self._study else []
        result = Table(box=None, pad_edge=False, caption_justify="left", header_style="bold")
        for column in ("trial", "state", "value", "evaluations", "done"):
            justify = "left" if column == "state" else "right"
            result.add_column(column, justify=justify, no_wrap=True)
        for name in short_names(self._keys).values():
            result.add_column(name, justify="right")
        shown = trials if rows is None else self._urgent(trials, max(rows, 1))
        for trial in shown:
            result.add_row(*self._cells(trial))
        if len(shown) < len(trials):
            result.caption = f"... and {len(trials) - len(shown)} more"
        return Group(result, self.line())

    def line(self) -> str:
        """Summarise the search: trials by state, and the best value."""
        trials = begun(self._study) if self._study else []
        counts = Counter(self._word(trial) for trial in trials)
        words = ("finished", "pruned", RUNNING, "interrupted", FAILED)
        parts = [f"{counts[word]} {word}" for word in words if counts[word]]
        left = self._trials - len(trials)
        parts += [f"{left} missing"] if left > 0 else []
        text = f"{max(self._trials, len(trials))} trials: {', '.join(parts)}"
        winner = best(self._study) if self._study else None
        if winner is not None:
            text += f"; best value {winner.value:.5g}, of trial {winner.number}"
        return text

    def best_commands(self) -> list[str]:
        """Return the commands that train with the best values; empty before the first value."""
        winner = best(self._study) if self._study else None
        return commands(winner) if winner else []

    def _word(self, trial: "FrozenTrial") -> str:
        word = phase(trial)
        return "interrupted" if word == RUNNING and trial.number not in self.states else word

    def _urgent(self, trials: "list[FrozenTrial]", rows: int) -> "list[FrozenTrial]":
        latest = sorted(trials, key=lambda t: (self._word(t) == RUNNING, t.number))
        return sorted(latest[-rows:], key=lambda trial: trial.number)

    def _cells(self, trial: "FrozenTrial") -> list[RenderableType]:
        word = self._word(trial)
        reported = trial.intermediate_values
        value = reported[max(reported)] if trial.value is None and reported else trial.value
        states = self.states.get(trial.number, ())
        done = sum(state.phase == "finished" for state in states)
        values = values_of(trial)
        return [
            str(trial.number),
            Text(word, PRUNED if word == "pruned" else STYLES[word]),
            "" if value is None else f"{value:.5g}",
            str(len(reported)),
            f"{done} of {len(states)}" if len(states) > 1 else "",
            *(shown(values.get(key, "")) for key in self._keys),
        ]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest ends of dotted keys that differ: batch.size as size."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        names[key] = next(e for e in ends if not any(o.endswith(f".{e}") for o in others))
    return names


def shown(value: object) -> str:
    """Format a value with few digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return {None: "null", True: "true", False: "false"}.get(value, str(value))  # type: ignore[arg-type]


def commands(trial: "FrozenTrial") -> list[str]:
    """Return the commands that train with a trial's values, one for each task."""
    program = ["python", "train.py"] if IN_CHECKOUT else ["dreamer-train"]
    lines = []
    for words in trial.user_attrs.get(JOBS, []):
        kept = [word for word in words if not word.startswith(OF_ONE_RUN)]
        lines.append(shlex.join([*program, *kept]))
    return list(dict.fromkeys(lines))
