"""The results of a search for the report: best trial, importances, trials, charts and figures.

`experiments/report.py` uses it for a folder with a study. It reads the study and run folders.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from experiments import tables
from experiments.page import Chart, ChartGroup, LegendEntry, Line
from experiments.plots.search import FINISHED, PRUNED, SearchTable
from experiments.plots.style import BLUE, GREY, VERMILION
from experiments.results import Results
from experiments.run_folder import read_lines
from experiments.search.status import commands, short_names, shown
from experiments.search.study import (
    DEFINITION,
    JOBS,
    JOURNAL,
    REASON,
    begun,
    best,
    importances,
    phase,
    read_study,
    values_of,
)

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

KINDS = {  # colours of the lines of trials, by the name in the legend
    "best": ("the best trial", VERMILION),
    FINISHED: ("trials that ran to their end", BLUE),
    PRUNED: ("trials that were stopped early", GREY),
    "running": ("trials that are not over", GREY),
}


def is_search(folder: Path) -> bool:
    """Return whether a folder is the root of a search."""
    return (folder / JOURNAL).is_file()


def of_search(folder: Path) -> Results:
    """Compute the results of a search.

    Raises:
        ValueError: There is no trial.
        ImportError: Optuna is not installed.
    """
    study = read_study(folder)
    if study is None or not begun(study):
        raise ValueError(f"The search in {folder} must have a trial, got none")
    definition: dict[str, Any] = study.user_attrs[DEFINITION]
    table = search_table(study, definition)
    winner = best(study)
    results = Results(
        title=f"Search in {folder}",
        tidy=pd.DataFrame(columns=list(tables.TIDY)),
        extra={"trials.csv": table.trials},
        search=table,
        notes=_notes(study, table),
        problems=[
            f"Trial {trial.number} failed: {trial.user_attrs[REASON]}"
            for trial in begun(study)
            if REASON in trial.user_attrs
        ],
    )
    if winner is not None:
        results.shown["Best trial"] = _best_table(winner, table)
        results.notes += [f"Best trial's command: `{line}`" for line in commands(winner)]
    if table.importance:
        shares = pd.DataFrame({"importance": dict(table.importance)}).round(3)
        results.shown["Importance"] = shares.rename_axis("key").reset_index()
        results.extra["importance.csv"] = results.shown["Importance"]
    results.shown["Trials"] = _trials_table(table)
    results.charts = _charts(study, folder, definition["objective"]["metric"], table)
    return results


def search_table(study: "Study", definition: dict[str, Any]) -> SearchTable:
    """Put the trials into a table, with a column per key."""
    keys = list(definition["space"])
    rows = []
    for trial in begun(study):
        reported = trial.intermediate_values
        value = trial.value
        if phase(trial) == "running" and reported:
            value = reported[max(reported)]
        row = {"trial": trial.number, "state": phase(trial), "evaluations": len(reported)}
        values = values_of(trial)
        rows.append(row | {"value": value} | {key: values.get(key) for key in keys})
    trials = pd.DataFrame(rows).astype({"value": float})
    winner = best(study)
    objective = definition["objective"]
    several = len(definition["tasks"]) > 1
    return SearchTable(
        trials=trials,
        names=short_names(keys),
        log=[key for key in keys if _is_log(study, key)],
        importance=importances(study),
        metric="mean normalised score" if several else objective["metric"],
        is_maximized=objective["direction"] == "maximize",
        best=winner.number if winner else None,
    )


def _is_log(study: "Study", key: str) -> bool:
    distributions = (trial.distributions.get(key) for trial in begun(study))
    return any(getattr(one, "log", False) for one in distributions)


def _notes(study: "Study", table: SearchTable) -> list[str]:
    counts = table.trials["state"].value_counts()
    states = ", ".join(f"{counts[state]} {state}" for state in counts.index)
    word = "largest" if table.is_maximized else "smallest"
    objective = study.user_attrs[DEFINITION]["objective"]
    value = {
        "last": "the last value",
        "best": "the best value",
        "mean": f"the mean of the last {objective['evaluations']} values",
    }[objective["value"]]
    notes = [
        f"{len(table.trials)} trials: {states}.",
        f"The value of a trial is {value} of {objective['metric']} in each of its runs, averaged "
        f"over them; the {word} is the best. Trials that were stopped early show their latest "
        "value and do not count as best.",
        "The best of many noisy values is too good: repeat it with other seeds before quoting it.",
    ]
    if not table.importance:
        notes.append("Importances need four trials that ran to their end with different values.")
    return notes


def _best_table(winner: "FrozenTrial", table: SearchTable) -> pd.DataFrame:
    values = {key: shown(value) for key, value in values_of(winner).items()}
    rows = {"trial": str(winner.number), table.metric: shown(winner.value), **values}
    return pd.DataFrame({"key": list(rows), "value": list(rows.values())})


def _trials_table(table: SearchTable) -> pd.DataFrame:
    """Make a table of all trials, the best first."""
    order = table.trials.sort_values("value", ascending=not table.is_maximized, kind="stable")
    ranks = [FINISHED, "running", PRUNED, "failed"]
    order = order.sort_values("state", key=lambda x: x.map(ranks.index), kind="stable")
    result = order.rename(columns=dict(table.names)).reset_index(drop=True)
    for name in ("value", *table.names.values()):
        is_missing = result[name].isna() & (name == "value")
        result[name] = [
            "–" if missing else shown(value)
            for value, missing in zip(result[name], is_missing, strict=True)
        ]
    return result


def _charts(study: "Study", folder: Path, metric: str, table: SearchTable) -> list[ChartGroup]:
    """Make a chart of the values of all trials over their frames."""
    lines = []
    for trial in begun(study):
        kind = "best" if trial.number == table.best else phase(trial)
        frames = _frames(trial, folder, metric)
        values = list(trial.intermediate_values.values())
        count = min(len(frames), len(values))
        if kind in KINDS and count:
            label = f"trial {trial.number}"
            color = KINDS[kind][1]
            lines.append(Line(kind, label, color, "", frames[:count], values[:count]))
    lines.sort(key=lambda line: line.name == "best")  # drawn last, on top
    if not lines:
        return []
    chart = Chart(
        "Value by evaluation",
        table.metric,
        lines,
        "A line is a trial: its value after each evaluation. Its jobs follow each other.",
    )
    kinds = {line.name for line in lines}
    legend = [LegendEntry(k, text, color, "") for k, (text, color) in KINDS.items() if k in kinds]
    return [ChartGroup("Trials", [chart], legend)]


def _frames(trial: "FrozenTrial", folder: Path, metric: str) -> list[float]:
    """Return the frames of a trial's evaluations, counted over its jobs one after the other."""
    frames, before = [], 0
    for words in trial.user_attrs.get(JOBS, []):
        given = dict(word.split("=", 1) for word in words[:4])  # env, task, variant, seed
        name = "{env}/{task}/{variant}/seed{seed}".format(**given)
        lines, _ = read_lines(folder / name / "metrics.jsonl")
        frames += [before + line["frames"] for line in lines if _is_finite(line.get(metric))]
        before += max((line["frames"] for line in lines), default=0)
    return frames


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
