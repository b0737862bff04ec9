"""What a search optimises: a number of a run's metrics.jsonl, over the seeds and tasks of a trial.

`trials.py` reads it while jobs run. It knows neither Optuna nor how jobs are started.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from dreamer.schema.types import PositiveCount, Section, doc
from dreamer.schema.words import unknown_key
from experiments.measures import DIFFERENCES, KEYS

EARLIER = ("world_model/image_nll", "world_model/vector_nll")  # names that runs no longer use
METRICS = (
    *(key for key in KEYS if key not in (*DIFFERENCES, *EARLIER)),
    *("eval/length", "collect/length", "collect/best_return", "eval_explore/return_mean"),
    *("world_model/continue_nll", "collect/visited_states"),
)
EVALUATION = "eval/"  # prefix of metrics that only evaluations write


@dataclass
class Objective(Section):
    """The keys of `objective` in a file of conf/search."""

    metric: Annotated[str, doc("A key of metrics.jsonl.")] = "eval/return_mean"
    direction: Annotated[Literal["maximize", "minimize"], doc("What is better.")] = "maximize"
    value: Annotated[
        Literal["last", "best", "mean"],
        doc("The last value of a run, its best, or the mean of the last `evaluations`."),
    ] = "last"
    evaluations: Annotated[PositiveCount, doc("Number of values of `value: mean`.")] = 3

    def check(self) -> None:
        """Check that runs log the metric.

        Raises:
            ValueError: They do not; the message names similar ones.
        """
        if self.metric not in METRICS:
            error = str(unknown_key(self.metric, METRICS)).replace("Unknown key", "got", 1)
            raise ValueError(f"`objective.metric` must be a metric of runs, {error}")

    def reduce(self, values: Sequence[float]) -> float:
        """Reduce the values of a run to one number."""
        if self.value == "last":
            return values[-1]
        if self.value == "mean":
            last = values[-self.evaluations :]
            return sum(last) / len(last)
        return max(values) if self.direction == "maximize" else min(values)


class Scale(NamedTuple):
    """The scores of a task that count as 0 and as 1."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, score: float) -> float:
        """Normalise a score."""
        return (score - self.low) / (self.high - self.low)


class Part(NamedTuple):
    """A job of a trial: its run folder, whether it is finished, and the scale of its task."""

    folder: Path
    is_finished: bool
    scale: Scale


def running_values(objective: Objective, parts: Sequence[Part]) -> list[float]:
    """Return a trial's value after each evaluation so far, for pruning; the last is the latest.

    The jobs of a trial count one after the other, as they usually run. The value after an
    evaluation is the mean over the jobs before, and this one up to there. So the same place in the
    lists of two trials is the same place in training.
    """
    values: list[float] = []
    scores: list[float] = []  # of the jobs before
    for part in parts:
        logged = read_values(part.folder, objective.metric)
        scaled = [part.scale(objective.reduce(logged[: n + 1])) for n in range(len(logged))]
        values += [(sum(scores) + score) / (len(scores) + 1) for score in scaled]
        if not part.is_finished or not scaled:
            break
        scores.append(scaled[-1])
    return values


def read_values(folder: Path, metric: str) -> list[float]:
    """Return the finite values of a metric that a run has logged, in order."""
    from experiments.run_folder import read_lines  # slow: pandas

    lines, _ = read_lines(folder / "metrics.jsonl")
    found = (line.get(metric) for line in lines)
    return [float(x) for x in found if isinstance(x, int | float) and math.isfinite(x)]
