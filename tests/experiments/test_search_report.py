"""The report of a search: its tables, figures and page, read back."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from drawing import bars

from experiments import plots, report
from experiments.plots import search as figures
from experiments.search import study as studies
from experiments.search.report import of_search
from experiments.search.settings import Search
from experiments.sweep.args import parse

pytestmark = pytest.mark.slow  # all need the search below

SEARCH = {
    "tasks": ["dummy/memory"],
    "overrides": {"total_frames": 500},
    "space": {
        "model.horizon": {"low": 2, "high": 40, "int": True},
        "model.actor_optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "latents": ["categorical", "gaussian"],
    },
    "trials": 14,
    "pruner": "none",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A search whose value is the horizon; its eleventh trial was pruned, the twelfth failed."""
    root = tmp_path_factory.mktemp("search")
    (root / "my.yaml").write_text(yaml.safe_dump(SEARCH, sort_keys=False))
    search = Search.read(parse([f"search={root / 'my.yaml'}"]))
    studies.check_optuna()
    with studies.open_study(search, root) as study:
        for number in range(13):
            trial = studies.ask(study, search)
            values = studies.values_of(trial)
            jobs = search.jobs(f"trial{number:03}", values, root)
            trial.set_user_attr(studies.JOBS, [job.words for job in jobs])
            run = root / jobs[0].name
            run.mkdir(parents=True)
            scores = [float(values["model.horizon"]) * share for share in (0.5, 1.0)]
            records = [
                {"frames": 250 * n, "eval/return_mean": score} for n, score in enumerate(scores, 1)
            ]
            lines = "".join(json.dumps(record) + "\n" for record in records)
            (run / "metrics.jsonl").write_text(lines)
            for step, score in enumerate(scores[: 1 if number == 10 else 2]):
                trial.report(score, step)
            if number == 10:
                studies.tell_pruned(study, trial)
            elif number == 11:
                studies.tell_failed(study, trial, "dummy/memory/trial011/seed0: no luck")
            elif number < 12:
                studies.tell_value(study, trial, scores[-1])
    return root


def test_the_best_trial_the_importances_and_all_trials_are_shown(folder):
    results = of_search(folder)
    table = results.search
    assert table is not None
    ends = table.trials[table.trials["state"] == "finished"]
    best = ends.loc[ends["model.horizon"].idxmax()]
    assert len(ends) == 10
    assert table.best == best["trial"]
    shown = results.shown["Best trial"].set_index("key")["value"]
    assert shown["model.horizon"] == str(best["model.horizon"])
    assert float(shown["eval/return_mean"]) == best["model.horizon"]
    assert next(iter(table.importance)) == "model.horizon"
    assert sum(table.importance.values()) == pytest.approx(1)
    assert table.log == ["model.actor_optimizer.learning_rate"]
    trials = results.shown["Trials"]
    assert list(trials.columns[-3:]) == ["horizon", "learning_rate", "latents"]
    assert trials.loc[0, "trial"] == table.best
    assert list(trials["state"]) == 10 * ["finished"] + ["running", "pruned", "failed"]
    assert results.notes[0] == "13 trials: 10 finished, 1 pruned, 1 failed, 1 running."
    command = f"python train.py env=dummy task=memory total_frames=500 model.horizon={best.iloc[4]}"
    assert any(f"`{command} model.actor_optimizer" in note for note in results.notes)
    assert results.problems == ["Trial 11 failed: dummy/memory/trial011/seed0: no luck"]


def test_a_chart_has_the_evaluations_of_every_trial(folder):
    results = of_search(folder)
    (group,) = results.charts
    lines = {line.label: line for line in group.charts[0].lines}
    assert len(lines) == 12  # one failed
    best = lines[f"trial {results.search.best}"]
    assert (best.name, list(best.x)) == ("best", [250, 500])
    assert group.charts[0].lines[-1] is best  # on top
    assert list(lines["trial 10"].x) == [250]
    assert [entry.name for entry in group.legend] == ["best", "finished", "pruned", "running"]


def test_figures_show_every_trial_the_best_so_far_and_the_importances(folder):
    table = of_search(folder).search
    (axis,) = figures.history(table).axes
    assert sum(len(dots.get_offsets()) for dots in axis.collections) == 1 + 10 + 1  # best twice
    ends = table.trials[table.trials["state"] == "finished"]
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), np.maximum.accumulate(ends["value"]))
    (axis,) = figures.importance(table).axes
    np.testing.assert_allclose(bars(axis), list(table.importance.values()))
    axes = {axis.get_xlabel(): axis for axis in figures.slices(table).axes}
    assert set(axes) == {"horizon", "learning_rate", "latents"}
    assert axes["learning_rate"].get_xscale() == "log"
    texts = [text.get_text() for text in axes["latents"].get_xticklabels()]
    assert texts == ["categorical", "gaussian"]
    finished = axes["horizon"].collections[1].get_offsets()
    np.testing.assert_array_equal(finished[:, 0], finished[:, 1])  # the value is the horizon


def test_of_a_minimum_the_line_falls(folder):
    table = of_search(folder).search._replace(is_maximized=False)
    values = figures.history(table).axes[0].lines[0].get_ydata()
    assert (np.diff(values) <= 0).all()


def test_the_command_writes_tables_figures_and_a_page(folder, tmp_path, capsys):
    assert report.main([str(folder), f"out={tmp_path / 'out'}"]) == 0
    assert "Best trial's command: `python train.py" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "out" / "figures").glob("*.png")}
    assert written == {"history.png", "importance.png", "slices.png"}
    table = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert len(table) == 13 and "model.horizon" in table
    page = (tmp_path / "out" / report.PAGE).read_text()
    assert "Value by evaluation" in page and page.count("data:image/png") == 3


def test_a_search_without_an_end_has_no_importances_and_no_best(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "importances", lambda study: {})
    results = of_search(folder)
    empty = results.search._replace(trials=results.search.trials.assign(value=np.nan), best=None)
    assert plots.search_figures(empty, tmp_path) == []
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(SEARCH))
    search = Search.read(parse([f"search={tmp_path / 'my.yaml'}"]))
    with studies.open_study(search, tmp_path / "new") as study:
        with pytest.raises(ValueError, match="must have a trial, got none"):
            of_search(tmp_path / "new")
        trial = studies.ask(study, search)
        trial.report(3.0, 0)
    new = of_search(tmp_path / "new")
    assert list(new.shown) == ["Trials"]
    assert "Importances need four trials" in new.notes[-1]
