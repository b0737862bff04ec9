"""The W&B report: what would be sent to W&B, with its public API in place of W&B itself."""

import json
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import wandb

from experiments import dashboard

ADDRESS = "https://wandb.example/us/dreamerv2/reports/old--VmlldzoxMjM"


class FakeApi:
    """W&B's public API as far as the report needs it; keeps what is sent."""

    default_entity = "us"
    app_url = "https://wandb.example"

    def __init__(self, runs):
        self._runs, self.asked, self.sent = runs, [], []
        self._service_api = self

    def runs(self, path, lazy):
        assert not lazy  # else every configuration would be a request of its own
        self.asked.append(path)
        return self._runs

    def projects(self, entity):
        return [SimpleNamespace(name="dreamerv2")]

    def execute_graphql(self, query, variables):
        if "upsertView" not in query:
            return {"project": {"internalId": "UHJvamVjdDox"}, "view": self._view("{}")}
        self.sent.append(variables)
        return {"upsertView": {"view": self._view(variables["spec"])}}

    def _view(self, spec):
        project = {"name": "dreamerv2", "entityName": "us"}
        return {"id": "VmlldzoxMjM", "displayName": "old", "project": project, "spec": spec}


def run(task, variant, seed, state="finished", *, env="atari", **summary):
    config = {"env_name": env, "task": task, "variant": variant, "seed": seed, "batch": {"size": 3}}
    return SimpleNamespace(config=config, state=state, summary=summary)


GRID = [
    run("pong", "dreamerv2", 0, **{"score/gamer_normalised": 1.1, "collect/return": 18.0}),
    run("pong", "dreamerv2", 1, "running"),
    run("pong", "no_layer_norm", 0),
    run("pong", "no_layer_norm", 0, "failed"),
    run("memory", "dreamerv2", 7, env="dummy", **{"score/optimum_normalised": 0.9}),
    SimpleNamespace(config={"lr": 1}, state="finished", summary={}),
]


@pytest.fixture
def api(monkeypatch) -> FakeApi:
    """A W&B that lets everybody in."""
    api = FakeApi(GRID)
    monkeypatch.setattr(wandb, "login", lambda prompt: True)
    monkeypatch.setattr(wandb, "Api", lambda: api)
    return api


def grids(api) -> list[dict]:
    """The panel grids of the one report that was sent."""
    (sent,) = api.sent
    blocks = json.loads(sent["spec"])["blocks"]
    return [block["metadata"] for block in blocks if block["type"] == "panel-grid"]


def panels(grid) -> list[dict]:
    return [panel["config"] for panel in grid["panelBankSectionConfig"]["panels"]]


# --------------------------------------------------------------------------- what it shows


def test_every_panel_shows_what_runs_write(trained_run):
    lines = (trained_run / "metrics.jsonl").read_text().splitlines()
    written = set().union(*(json.loads(line) for line in lines))
    shown = {panel.key for panel in (*dashboard.TASK_CURVES, *dashboard.LEARNING_CURVES)}
    assert shown - written == set()
    # The videos: tests/test_loggers_wandb.py, in a whole run.


@pytest.mark.slow
def test_a_project_becomes_a_section_per_task_with_a_curve_per_variant(api, capsys):
    assert dashboard.main(["project=dreamerv2"]) == 0
    assert api.asked == ["us/dreamerv2"]
    scores, *tasks, learning = grids(api)
    assert [panel["metrics"] for panel in panels(scores)] == [
        ["score/gamer_normalised"],
        ["score/optimum_normalised"],
    ]
    filters = [
        [(f["key"]["name"], f["value"]) for f in grid["runSets"][0]["filters"]["filters"]]
        for grid in tasks
    ]
    assert filters == [
        [("env_name", "atari"), ("task", "pong")],
        [("env_name", "dummy"), ("task", "memory")],
    ]
    for grid in tasks:
        assert grid["runSets"][0]["grouping"] == [{"section": "config", "name": "variant.value"}]
        curves, films = panels(grid)[:2], panels(grid)[2:]
        assert [c["metrics"] for c in curves] == [["collect/return"], ["eval/return_mean"]]
        assert {(c["xAxis"], c["groupBy"], c["groupAgg"]) for c in curves} == {
            ("frames", "variant.value", "mean")
        }
        assert [f["mediaKeys"] for f in films] == [["video/open_loop"], ["video/policy"]]
    assert {c["groupBy"] for c in panels(learning)} == {"group"}
    assert len(panels(learning)) == len(dashboard.LEARNING_CURVES)
    output = capsys.readouterr().out
    assert "Report on 5 run(s): https://wandb.example/us/dreamerv2/reports/" in output
    assert "Left out 1 run(s) of other programs" in output


def test_an_earlier_report_is_replaced_on_request(api):
    assert dashboard.main(["title=Mine"]) == 0
    assert dashboard.main(["title=Mine", f"update={ADDRESS}", "entity=them"]) == 0
    assert [(s["id"], s["displayName"], s["entityName"]) for s in api.sent] == [
        (None, "Mine", "us"),
        ("VmlldzoxMjM", "Mine", "them"),
    ]


def test_the_table_names_seeds_and_what_is_not_as_it_should_be():
    rows = [[*(str(r.config[k]) for k in dashboard.GRID), r.state] for r in GRID[:5]]
    table = pd.DataFrame(rows, columns=[*dashboard.GRID, "state"])
    assert dashboard.coverage(table).splitlines() == [
        "| task | dreamerv2 | no_layer_norm |",
        "| --- | --- | --- |",
        "| atari pong | 0; 1 running | 0 finished and failed |",
        "| dummy memory | 7 | none |",
    ]


# ----------------------------------------------------------------------------- bad input


def error_of(capsys, *words) -> str:
    assert dashboard.main(words) == 2
    output = capsys.readouterr().err
    assert output.startswith("error: ") and output.count("\n") == 1
    return output


def test_without_a_key_it_says_what_to_do(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "run `wandb login`, or set WANDB_API_KEY" in error_of(capsys)


def test_without_the_package_it_says_what_to_install(capsys, monkeypatch, api):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    error = error_of(capsys)
    assert "`pip install 'wandb-workspaces>=" in error
    assert "wandb-workspaces>=0.4.13,<0.5" in error


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dreamerv2", "Arguments must be key=value, got `dreamerv2`"),
        ("projct=x", "Unknown key `projct`. The nearest: project"),
    ],
)
def test_a_word_that_makes_no_sense_is_named(capsys, api, word, message):
    assert message in error_of(capsys, word)


def test_help_explains_every_key(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert dashboard.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "  python -m experiments.dashboard project=dreamerv2" in printed
    assert "  entity=                           Owner of the project;" in printed


def test_a_project_without_our_runs_is_an_error(capsys, api):
    api._runs = GRID[-1:]
    assert "No run of this program in us/empty (1 others)" in error_of(capsys, "project=empty")
    assert api.sent == []


def test_what_wandb_refuses_is_one_line(capsys, api, monkeypatch):
    def refuse(path, lazy):
        raise wandb.errors.CommError("project\nnot found")

    monkeypatch.setattr(api, "runs", refuse)
    assert "project not found" in error_of(capsys)
