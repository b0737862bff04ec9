"""A W&B report on the runs of a project: `python -m experiments.dashboard project=dreamerv2`.

It lays out variants x tasks x seeds: a section per task with one curve per variant, its seeds
averaged, and the videos; normalised scores over all tasks; how the learning goes. W&B draws it from
the runs as they are, so it stays up to date; for new tasks, `update=` lays an earlier one out anew.

It knows the keys that runs write, and W&B's public API; it writes no run.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import pandas as pd
import wandb

from dreamer.schema.help import Usage, head, keys, print_lines
from dreamer.schema.types import Section, doc
from dreamer.schema.validation import check, validate_words

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import PanelGrid, Report

INSTALL = "pip install 'wandb-workspaces>=0.4.13,<0.5'"
GRID = ["env_name", "task", "variant", "seed"]  # where a run stands, in W&B's config


class Panel(NamedTuple):
    """A key that runs write, and what to call it."""

    title: str
    key: str


# One curve per variant, the mean of its seeds; once for each task.
TASK_CURVES = (
    Panel("Return of training episodes", "collect/return"),
    Panel("Return in evaluation", "eval/return_mean"),
)
TASK_FILMS = (
    Panel("Truth, dream and error", "video/open_loop"),
    Panel("Evaluation", "video/policy"),
)
# One curve per variant and task.
LEARNING_CURVES = (
    Panel("KL, nats", "world_model/kl"),
    Panel("Image loss, nats", "observations/image_nll"),
    Panel("Reward loss, nats", "world_model/reward_nll"),
    Panel("Entropy of the posterior, nats", "world_model/posterior_entropy"),
    Panel("Entropy of the actor, nats", "actor/entropy"),
    Panel("Value of imagined states", "critic/value"),
    Panel("Norm of the world model's gradient", "grad_norm/world_model"),
    Panel("Updates per second", "perf/updates_per_second"),
    Panel("Frames per second", "perf/frames_per_second"),
)

INTRODUCTION = (
    "A curve is the mean over the seeds of a variant, its band the standard error, and frames are "
    "emulator frames. Returns are raw. Bars are means over whatever runs there are: the table says "
    "which, and `python -m experiments.report` what that is worth."
)


USAGE = Usage(
    "Create a W&B report on the runs of a project.",
    "python -m experiments.dashboard [key=value ...]",
    (
        ("python -m experiments.dashboard project=dreamerv2", "Lays out all runs of a project."),
        (
            "python -m experiments.dashboard update=https://wandb.ai/...",
            "Lays an earlier report out anew, such as for new tasks.",
        ),
    ),
)


@dataclass(frozen=True)
class Request(Section):
    """What was typed."""

    project: Annotated[str, doc("Project on W&B.")] = "dreamerv2"
    entity: Annotated[str, doc("Whose project it is; empty: the key's own.")] = ""
    title: Annotated[str, doc("Title of the report.")] = "DreamerV2: variants x tasks x seeds"
    update: Annotated[str, doc("Address of an earlier report, to be replaced.")] = ""

    def __post_init__(self):
        check(self)


class Runs(NamedTuple):
    """What a project holds."""

    table: pd.DataFrame  # a row per run: GRID and state
    scores: list[str]  # keys of normalised scores
    foreign: int  # runs of other programs


def main(words: Sequence[str]) -> int:
    """Create the report, and return the exit status: 2 if there is none."""
    if {"-h", "--help"} & set(words):
        print_lines([*head(USAGE), *keys({}, Request)])
        return 0
    try:
        request = parse(words)
        api = connect()
        request = replace(request, entity=request.entity or api.default_entity)
        runs = read_runs(api, f"{request.entity}/{request.project}")
        report = lay_out(request, runs)
        report.save()
    except (ValueError, ImportError, wandb.Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if runs.foreign:
        print(f"Left out {runs.foreign} runs that are none of this program.")
    print(f"A report on {len(runs.table)} runs: {report.url}")
    return 0


def parse(words: Sequence[str]) -> Request:
    """Understand the command line.

    Raises:
        ValueError: Naming the word that makes no sense, and what would.
    """
    return Request(**validate_words(words, Request))


def connect() -> Any:
    """W&B's public API.

    Raises:
        ImportError: The package that makes reports is not installed.
        ValueError: There is no key.
    """
    try:
        import wandb_workspaces.reports.v2  # noqa: F401 -- before anybody is asked for a key
    except ImportError as error:
        raise ImportError(f"W&B reports need `{INSTALL}`") from error
    if not wandb.login(prompt=False):
        raise ValueError(
            "W&B wants a key: run `wandb login`, or set WANDB_API_KEY. Runs that were written "
            "without one go up with `wandb sync <run folder>/wandb/offline-run-*`."
        )
    return wandb.Api()


def read_runs(api: Any, path: str) -> Runs:
    """Where the runs of a project stand in the grid, and which scores they have.

    Raises:
        ValueError: None of them is of this program.
    """
    rows, scores, foreign = [], set(), 0
    for run in api.runs(path, lazy=False):
        if all(key in run.config for key in GRID):
            rows.append([*(str(run.config[key]) for key in GRID), run.state])
            scores |= {key for key in run.summary.keys() if key.startswith("score/")}  # noqa: SIM118
        else:
            foreign += 1
    if not rows:
        raise ValueError(
            f"No run of this program in {path} ({foreign} others). project= and entity= choose "
            "another one; `wandb sync <run folder>/wandb/offline-run-*` uploads runs."
        )
    return Runs(pd.DataFrame(rows, columns=[*GRID, "state"]), sorted(scores), foreign)


def lay_out(request: Request, runs: Runs) -> "Report":
    """The report, not yet saved."""
    import wandb_workspaces.reports.v2 as wr

    tasks = runs.table[["env_name", "task"]].drop_duplicates().sort_values(["env_name", "task"])
    blocks: list[Any] = [wr.MarkdownBlock(text=f"{INTRODUCTION}\n\n{coverage(runs.table)}")]
    if runs.scores:
        blocks += [wr.H1("All tasks"), _score_bars(request, runs.scores)]
    for env, task in tasks.itertuples(index=False):
        blocks += [wr.H1(f"{env} {task}"), _task_panels(request, env, task)]
    blocks += [wr.H1("Learning"), _learning_panels(request)]
    report = wr.Report(
        project=request.project,
        entity=request.entity,
        title=request.title,
        blocks=blocks,
        width="fluid",
    )
    if request.update:
        report.id = wr.Report.from_url(request.update).id
    return report


def coverage(table: pd.DataFrame) -> str:
    """Which seeds there are of every variant on every task, as a Markdown table.

    A run that has not finished is named with its state, and so is a seed that is there twice: W&B
    averages over them all.
    """
    cells = {
        where: "; ".join(
            _seed(str(seed), list(group["state"])) for seed, group in runs.groupby("seed")
        )
        for where, runs in table.groupby(["env_name", "task", "variant"])
    }
    shown = pd.Series(cells).unstack(fill_value="none")
    header = ["task", *map(str, shown.columns)]
    rows = [[" ".join(map(str, task)), *row] for task, *row in shown.itertuples()]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _seed(seed: str, states: list[str]) -> str:
    return seed if states == ["finished"] else f"{seed} {' and '.join(states)}"


def _score_bars(request: Request, scores: Iterable[str]) -> "PanelGrid":
    """A bar per variant: the mean of its newest normalised scores over tasks and seeds."""
    import wandb_workspaces.reports.v2 as wr

    bars: list[Any] = [
        wr.BarPlot(
            title=score.removeprefix("score/").replace("_", " "),
            metrics=[score],
            groupby=wr.Config("variant"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
            layout=wr.Layout(w=12, h=8),
        )
        for score in scores
    ]
    runset = wr.Runset(
        entity=request.entity, project=request.project, name="variants", groupby=["config.variant"]
    )
    return wr.PanelGrid(runsets=[runset], panels=bars)


def _task_panels(request: Request, env: str, task: str) -> "PanelGrid":
    """The runs on one task, by variant."""
    import wandb_workspaces.expr as expr
    import wandb_workspaces.reports.v2 as wr

    runset = wr.Runset(
        entity=request.entity,
        project=request.project,
        name=f"{task} by variant",
        filters=expr.And(expr.Config("env_name") == env, expr.Config("task") == task),
        groupby=["config.variant"],
    )
    films = [
        wr.MediaBrowser(
            title=film.title,
            media_keys=[film.key],
            num_columns=3,
            layout=wr.Layout(w=12, h=10),
        )
        for film in TASK_FILMS
    ]
    curves = _curves(TASK_CURVES, wr.Config("variant"), width=12)
    return wr.PanelGrid(runsets=[runset], panels=[*curves, *films])


def _learning_panels(request: Request) -> "PanelGrid":
    """All runs, by what they are seeds of."""
    import wandb_workspaces.reports.v2 as wr

    runset = wr.Runset(
        entity=request.entity, project=request.project, name="all", groupby=["group"]
    )
    return wr.PanelGrid(
        runsets=[runset], panels=_curves(LEARNING_CURVES, wr.Metric("Group"), width=8)
    )


def _curves(panels: Iterable[Panel], groupby: Any, *, width: int) -> list[Any]:
    """Mean curves over frames; a report is 24 units wide."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title=panel.title,
            x="frames",
            y=[panel.key],
            title_x="emulator frames",
            groupby=groupby,
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
            layout=wr.Layout(w=width, h=8),
        )
        for panel in panels
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
