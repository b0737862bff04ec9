"""A W&B report on the runs of a project: `python -m experiments.dashboard project=dreamerv2`.

The report has a section per task with the videos and one curve per variant, the mean over seeds;
normalised scores over all tasks; curves of the learning. W&B draws it from the current runs, so it
stays up to date. For new tasks, `update=` replaces an earlier report.

It knows the keys that runs write, and W&B's public API; it changes no run.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from dreamer.cli.command import HELP, interruptible, loaded, start
from dreamer.schema.help import Usage, head, keys, print_lines
from dreamer.schema.types import Section, doc
from dreamer.schema.validation import check, validate_words

if TYPE_CHECKING:
    import pandas as pd
    from wandb_workspaces.reports.v2 import PanelGrid, Report

INSTALL = "pip install 'wandb-workspaces>=0.4.13,<0.5'"
GRID = ["env_name", "task", "variant", "seed"]  # keys of W&B's config that identify a run


class Panel(NamedTuple):
    """A key that runs write, and its title."""

    title: str
    key: str


# For each task: one curve per variant, the mean over its seeds.
TASK_CURVES = (
    Panel("Return of training episodes", "collect/return"),
    Panel("Return in evaluation", "eval/return_mean"),
)
TASK_VIDEOS = (
    Panel("Truth, prediction and error", "video/open_loop"),
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
    "A curve is the mean over the seeds of a variant, its band the standard error. Frames are "
    "emulator frames, returns are raw. Bars are means over the existing runs, which the table "
    "lists; `python -m experiments.report` gives intervals."
)


USAGE = Usage(
    "Create a W&B report on the runs of a project.",
    "python -m experiments.dashboard [key=value ...]",
    (
        (
            "python -m experiments.dashboard project=dreamerv2",
            "Creates a report on all runs of a project.",
        ),
        (
            "python -m experiments.dashboard update=https://wandb.ai/...",
            "Replaces an earlier report, for example to add tasks.",
        ),
    ),
)


@dataclass(frozen=True)
class Request(Section):
    """The arguments of the command line."""

    project: Annotated[str, doc("Project on W&B.")] = "dreamerv2"
    entity: Annotated[str, doc("Owner of the project; empty: that of the API key.")] = ""
    title: Annotated[str, doc("Title of the report.")] = "DreamerV2: variants x tasks x seeds"
    update: Annotated[str, doc("Address of an earlier report to replace.")] = ""

    def __post_init__(self):
        check(self)


class Runs(NamedTuple):
    """The runs of a project."""

    table: "pd.DataFrame"  # a row per run: GRID and state
    scores: list[str]  # keys of normalised scores
    others: int  # number of runs of other programs


def main(words: Sequence[str]) -> int:
    """Create the report, and return the exit status: 2 on an error."""
    if HELP & set(words):
        print_lines([*head(USAGE), *keys({}, Request)])
        return 0
    try:
        request = parse(words)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import wandb  # slow

    loaded()
    try:
        api = connect()
        request = replace(request, entity=request.entity or api.default_entity)
        runs = read_runs(api, f"{request.entity}/{request.project}")
        report = make_report(request, runs)
        report.save()
    except (ValueError, ImportError, wandb.Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if runs.others:
        print(f"Left out {runs.others} run(s) of other programs.")
    print(f"Report on {len(runs.table)} run(s): {report.url}")
    return 0


def parse(words: Sequence[str]) -> Request:
    """Parse the command line.

    Raises:
        ValueError: An argument is not allowed; the message names it and the allowed ones.
    """
    return Request(**validate_words(words, Request))


def connect() -> Any:
    """Return W&B's public API.

    Raises:
        ImportError: The package that makes reports is not installed.
        ValueError: There is no key.
    """
    try:
        import wandb_workspaces.reports.v2  # noqa: F401 -- before asking for a key
    except ImportError as error:
        raise ImportError(f"W&B reports need `{INSTALL}`") from error
    import wandb

    if not wandb.login(prompt=False):
        raise ValueError(
            "W&B needs an API key: run `wandb login`, or set WANDB_API_KEY. To upload runs that "
            "were recorded without one: `wandb sync <run folder>/wandb/offline-run-*`."
        )
    return wandb.Api()


def read_runs(api: Any, path: str) -> Runs:
    """Read which runs a project has, and the keys of their scores.

    Raises:
        ValueError: None of them is from this program.
    """
    import pandas as pd

    rows, scores, others = [], set(), 0
    for run in api.runs(path, lazy=False):
        if all(key in run.config for key in GRID):
            rows.append([*(str(run.config[key]) for key in GRID), run.state])
            scores |= {key for key in run.summary.keys() if key.startswith("score/")}  # noqa: SIM118
        else:
            others += 1
    if not rows:
        raise ValueError(
            f"No run of this program in {path} ({others} others). Choose another project with "
            "project= and entity=, or upload runs with "
            "`wandb sync <run folder>/wandb/offline-run-*`."
        )
    return Runs(pd.DataFrame(rows, columns=[*GRID, "state"]), sorted(scores), others)


def make_report(request: Request, runs: Runs) -> "Report":
    """Make the report without saving it."""
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


def coverage(table: "pd.DataFrame") -> str:
    """Return the seeds of every variant on every task, as a Markdown table.

    Unfinished runs and repeated seeds have their states: W&B averages over all of them.
    """
    import pandas as pd

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
    """Make a bar per variant: the mean of its latest normalised scores over tasks and seeds."""
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
    """Make the panels of one task, by variant."""
    import wandb_workspaces.expr as expr
    import wandb_workspaces.reports.v2 as wr

    runset = wr.Runset(
        entity=request.entity,
        project=request.project,
        name=f"{task} by variant",
        filters=expr.And(expr.Config("env_name") == env, expr.Config("task") == task),
        groupby=["config.variant"],
    )
    videos = [
        wr.MediaBrowser(
            title=video.title,
            media_keys=[video.key],
            num_columns=3,
            layout=wr.Layout(w=12, h=10),
        )
        for video in TASK_VIDEOS
    ]
    curves = _curves(TASK_CURVES, wr.Config("variant"), width=12)
    return wr.PanelGrid(runsets=[runset], panels=[*curves, *videos])


def _learning_panels(request: Request) -> "PanelGrid":
    """Make the panels of all runs, grouped by variant and task."""
    import wandb_workspaces.reports.v2 as wr

    runset = wr.Runset(
        entity=request.entity, project=request.project, name="all", groupby=["group"]
    )
    return wr.PanelGrid(
        runsets=[runset], panels=_curves(LEARNING_CURVES, wr.Metric("Group"), width=8)
    )


def _curves(panels: Iterable[Panel], groupby: Any, *, width: int) -> list[Any]:
    """Make panels of mean curves over frames; a report is 24 units wide."""
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
    start("a report on W&B:", sys.argv[1:])
    interruptible(main, sys.argv[1:])
