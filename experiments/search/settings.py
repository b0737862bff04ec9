"""Reads a search: a file of conf/search or a user's, and the command line.

`command.py` uses it. It knows the arguments of train.py, but neither Optuna nor how jobs run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from dreamer.schema.types import Count, PositiveCount, Section, Seed, doc
from dreamer.schema.validation import validate
from dreamer.schema.words import format_value
from experiments.search.objective import Objective, Scale
from experiments.search.space import Space, Value, all_points, read_space, words_of
from experiments.sweep.args import Command
from experiments.sweep.grid import Choice, Grid, Job, key_of, load_file, with_env

KEYS = (
    *("space", "objective", "tasks", "seeds", "overrides"),
    *("trials", "sampler", "pruner", "seed"),
)


@dataclass
class PrunerSettings(Section):
    """The keys of `pruner`."""

    name: Annotated[
        Literal["median", "hyperband", "none"], doc("What stops trials that are worse.")
    ] = "median"
    startup_trials: Annotated[Count, doc("Finished trials before `median` stops others.")] = 5
    warmup: Annotated[Count, doc("Evaluations of a trial before `median` may stop it.")] = 2


@dataclass
class SearchSettings(Section):
    """The keys of a file that are not about its jobs."""

    objective: Annotated[Objective, doc("What is optimised.")] = field(default_factory=Objective)
    trials: Annotated[PositiveCount | None, doc("Number of trials.")] = None
    sampler: Annotated[Literal["tpe", "random", "grid"], doc("What proposes values.")] = "tpe"
    pruner: Annotated[PrunerSettings, doc("What stops trials early.")] = field(
        default_factory=PrunerSettings
    )
    seed: Annotated[Seed, doc("Of the sampler.")] = 0


@dataclass
class TaskSettings(Section):
    """The keys of a task."""

    low: Annotated[float | None, doc("A score that counts as 0.")] = None
    high: Annotated[float | None, doc("A score that counts as 1.")] = None
    overrides: Annotated[dict[str, Any], doc("Keys of train.py.")] = field(default_factory=dict)


class Search(NamedTuple):
    """A search: which values to choose, for which jobs, by which number.

    Attributes:
        name: of the file, without suffix.
        space: the values to choose, by key; keys of the command line are not among them.
        objective: what is optimised.
        scales: of the scores of each task.
        grid: makes the jobs of a trial.
        trials: number of trials.
        sampler: what proposes values.
        pruner: what stops trials early.
        seed: of the sampler.
        points: with `sampler: grid`, all combinations; else empty.
    """

    name: str
    space: Space
    objective: Objective
    scales: dict[tuple[str, str], Scale]
    grid: Grid
    trials: int
    sampler: str
    pruner: PrunerSettings
    seed: int
    points: list[dict[str, Value]]

    @classmethod
    def read(cls, command: Command) -> "Search":
        """Read the file that a command names, and apply the command line.

        Raises:
            ValueError: A key or a value is not allowed.
        """
        path, content = load_file("search", command.search, KEYS)
        own = {key: content[key] for key in KEYS if key in content}
        settings = _validated(own, path)
        settings.objective.check()
        space = read_space(content.get("space"), f"`space` of {path}")
        fixed = {key_of(word) for word in command.choice.words}
        space = {key: one for key, one in space.items() if key_of(key) not in fixed}
        if not space:
            raise ValueError(f"The command line must leave a key of the space of {path} to search")
        tasks = _read_tasks(content.get("tasks"), path)
        content["tasks"] = {name: task.overrides for name, task in tasks.items()}
        grid = Grid.of(content, {}, path, command.choice)
        _check_disjoint(space, grid, path)
        points = all_points(space, f"`space` of {path}") if settings.sampler == "grid" else []
        return cls(
            name=path.stem,
            space=space,
            objective=settings.objective,
            scales=_scales(tasks, grid, command.choice, path),
            grid=grid,
            trials=_trials(command.trials or settings.trials, points, path),
            sampler=settings.sampler,
            pruner=settings.pruner,
            seed=settings.seed,
            points=points,
        )

    def jobs(self, variant: str, values: Mapping[str, Value], root: Path) -> list[Job]:
        """Return the jobs of a trial, in the order of tasks and seeds.

        Args:
            variant: the name of the trial in its run folders.
            values: the chosen values.
            root: of all run folders.
        """
        return self.grid._replace(variants={variant: words_of(values)}).jobs(root)

    def definition(self) -> dict[str, Any]:
        """Return what must not change while a search continues, as JSON holds it."""
        return {
            "space": {key: [*map(str, one)] for key, one in self.space.items()},
            "objective": vars(self.objective),
            "tasks": {
                "/".join(task): [*words, *map(str, self.scales[task])]
                for task, words in self.grid.tasks.items()
            },
            "seeds": self.grid.seeds,
            "overrides": [*self.grid.common, *self.grid.words],
        }


def _validated(content: Mapping[str, Any], path: Path) -> SearchSettings:
    own = {key: x for key, x in content.items() if key not in ("space", "tasks", "seeds")}
    own.pop("overrides", None)
    if isinstance(own.get("pruner"), str):  # pruner: none
        own["pruner"] = {"name": own["pruner"]}
    try:
        valid = validate(own, SearchSettings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if "objective" in valid:
        valid["objective"] = Objective(**valid["objective"])
    if "pruner" in valid:
        valid["pruner"] = PrunerSettings(**valid["pruner"])
    return SearchSettings(**valid)


def _read_tasks(node: Any, path: Path) -> dict[str, TaskSettings]:
    """Read tasks from a list of names, or a mapping of names to low, high and overrides."""
    if isinstance(node, list):
        node = {str(name): {} for name in node}
    if node is not None and not isinstance(node, Mapping):
        raise ValueError(f"`tasks` of {path} must be a list or names, got {format_value(node)}")
    tasks = {}
    for name, child in (node or {}).items():
        try:
            if not isinstance(child or {}, Mapping):
                raise ValueError(f"must be low, high and overrides, got {format_value(child)}")
            task = TaskSettings(**validate(child or {}, TaskSettings))
        except ValueError as error:
            raise ValueError(f"Task `{name}` of {path}: {error}") from error
        given = [x for x in (task.low, task.high) if x is not None]
        if len(given) == 1 or (len(given) == 2 and not given[0] < given[1]):
            raise ValueError(
                f"Task `{name}` of {path} must have a `low` that is less than its `high`, or "
                f"neither, got {format_value(task.low)} and {format_value(task.high)}"
            )
        tasks[str(name)] = task
    return tasks


def _scales(
    tasks: Mapping[str, TaskSettings], grid: Grid, choice: Choice, path: Path
) -> dict[tuple[str, str], Scale]:
    """Return the scale of every task; one task may have none."""
    envs = {task: env for env, task in grid.tasks}
    known = {with_env(name, envs.get(name)): task for name, task in tasks.items()}
    scales = {}
    for name in grid.tasks:
        task = known.get(name, TaskSettings())
        if task.low is not None and task.high is not None:
            scales[name] = Scale(task.low, task.high)
        elif len(grid.tasks) == 1:
            scales[name] = Scale()
        else:
            raise ValueError(
                f"Task `{'/'.join(name)}` must have `low` and `high` in {path}: the mean over "
                "several tasks needs normalised scores"
            )
    return scales


def _trials(asked: int | None, points: list[dict[str, Value]], path: Path) -> int:
    if asked is None and not points:
        raise ValueError(f"`trials` must be given, for example trials=40: {path} has none")
    if points and asked is not None and asked > len(points):
        raise ValueError(
            f"`trials` must be at most {len(points)}, the combinations of {path}, got {asked}"
        )
    return asked or len(points)


def _check_disjoint(space: Space, grid: Grid, path: Path) -> None:
    """Check that a searched key is set nowhere else in the file; it would have no effect there."""
    words = [*grid.common, *(word for words in grid.tasks.values() for word in words)]
    for key in space:
        if key_of(key) in map(key_of, words):
            raise ValueError(f"`{key}` must not be set in {path}, as its space has it, too")
