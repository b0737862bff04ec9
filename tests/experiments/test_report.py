"""One command turns run folders into tables, figures and a page, and says what they rest on."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from folders import make_offline_run, make_run

from experiments import published, report, tables
from experiments.sweep.record import write_jobs


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few resamples, and no figure: what is promised here are numbers."""
    monkeypatch.setattr(tables, "RESAMPLES", 20)
    monkeypatch.setattr(report.plots, "figures", lambda *given, frames: [])


@pytest.fixture
def reported(tmp_path, capsys):
    """Report on a folder; what was printed, and the tidy table by env, task, variant, measure."""

    def go(*words):
        assert report.main([str(tmp_path / "runs"), *words, f"out={tmp_path / 'out'}"]) == 0
        tidy = pd.read_csv(tmp_path / "out" / "scores.csv", keep_default_na=False, na_values=[""])
        tidy["task"] = tidy["task"].fillna("")
        rows = tidy.set_index(["env", "task", "variant", "measure"]).sort_index()
        return capsys.readouterr().out, rows

    return go


def test_scores_are_read_where_every_run_has_been(tmp_path, reported):
    make_run(tmp_path / "runs", seed=0, scores={1000: 1.0, 2000: 4.0, 2010: 6.0, 3000: 9.0})
    make_run(tmp_path / "runs", seed=1, scores={1000: 3.0, 2010: 7.0}, finished=False)
    out, rows = reported()
    row = rows.loc["dummy", "memory", "tiny", "score"]
    assert (row["frames"], row["value"]) == (2010, 6.0)  # (4 + 6) / 2 and 7: 201 frames back
    assert (row["runs"], row["short_runs"], row["low"], row["high"]) == (2, 0, 5.0, 7.0)
    assert (
        "read at 2,010 frames, the most that all runs have reached (the shortest: memory/tiny/see"
        in out
    )
    assert "2 run(s): 1 finished, 1 interrupted." in out
    assert "Not finished: memory/tiny/seed1 (2,010 of 3,000 frames)" in out


def test_a_run_that_ended_before_the_frames_asked_for_counts_and_is_named(tmp_path, reported):
    make_run(tmp_path / "runs", seed=0)
    make_run(tmp_path / "runs", seed=1, scores={1000: 7.0})
    make_run(tmp_path / "runs", seed=2, scores={2800: 1.0})
    out, rows = reported("frames=2.5e3")
    row = rows.loc["dummy", "memory", "tiny", "score"]
    assert (row["value"], row["runs"], row["short_runs"]) == (4.5, 2, 1)  # 2 and 7
    assert "1 of 3 runs end before 2,500 frames and count with their last score: memory/ti" in out
    assert "no score yet at 2,500 frames: memory/tiny/seed2." in out


def test_frames_that_no_run_has_reached_are_said_and_the_rest_is_reported(tmp_path, reported):
    make_run(tmp_path / "runs")
    out, rows = reported("frames=1e9")
    assert "frames=1,000,000,000 must be between 1,000 and 3,000" in out
    assert rows.loc["dummy", "memory", "tiny", "score"]["frames"] == 3000


def test_runs_that_a_sweep_was_asked_for_and_did_not_begin_are_named(tmp_path, reported):
    folders = [
        make_run(tmp_path / "runs", variant=variant, seed=seed)
        for variant, seed in (("a", 0), ("a", 10), ("b", 2))
    ]
    make_run(tmp_path / "runs", task="point", variant="a", seed=0)
    absent = [tmp_path / "runs" / "dummy" / "point" / "a" / f"seed{seed}" for seed in (1, 2)]
    write_jobs(tmp_path / "runs", folders)
    write_jobs(tmp_path / "runs", absent)
    out, rows = reported()
    named = "dummy/point/a/seed1, dummy/point/a/seed2"
    assert f"! 2 of 5 runs of the sweep have not begun: {named}." in out
    assert "not every variant has a score there: point." in out
    assert rows.loc["dummy", "", "a", "probability_of_improvement:b"]["tasks"] == 1


def test_without_a_sweep_no_grid_is_expected(tmp_path, reported):
    make_run(tmp_path / "runs", variant="a", seed=0)
    make_run(tmp_path / "runs", variant="b", seed=3)
    make_run(tmp_path / "runs", task="point", variant="a", seed=1)
    out, _ = reported()
    assert not [line for line in out.splitlines() if line.startswith("!")]


def test_debug_runs_are_listed_apart_and_count_in_no_score(tmp_path, reported):
    make_run(tmp_path / "runs", scores={3000: 4.0})
    make_run(tmp_path / "runs", variant="debug", scores={1000: 100.0})
    make_run(tmp_path / "runs", variant="of a sweep", experiment_name="debug", task="point")
    out, rows = reported()
    assert set(rows.index.get_level_values("variant")) == {"tiny"}
    assert "1 run(s): 1 finished." in out
    assert re.search(r"Runs of debug=fast, in no other table\n\n.*\n.*debug.*\n.*of a sweep", out)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("dummy/memory/tiny/seed0") < page.index('<h2 id="debug-runs">')
    assert page.index('<h2 id="debug-runs">') < page.index("dummy/memory/debug/seed0")


def test_debug_runs_alone_are_reported_as_runs(tmp_path, reported):
    make_run(tmp_path / "runs", variant="debug")
    out, rows = reported()
    assert rows.loc["dummy", "memory", "debug", "score"]["runs"] == 1
    assert "in no other table" not in out


def test_two_runs_are_compared_by_keys_numbers_and_curves(tmp_path, reported):
    first = make_run(tmp_path, variant="a=1", scores={1000: 1.0}, model={"horizon": 15, "kl": 1})
    second = make_run(tmp_path, variant="b", seed=3, scores={1000: 5.0, 2000: 7.0})
    out = tmp_path / "compared"
    assert report.main([str(first), str(second), f"out={out}"]) == 0
    table = pd.read_csv(out / "differences.csv", keep_default_na=False).set_index("key")
    assert table.to_dict("index") == {
        "seed": {"a=1/seed0": "0", "b/seed3": "3"},
        "experiment_name": {"a=1/seed0": "a=1", "b/seed3": "b"},
        "model.kl": {"a=1/seed0": "1", "b/seed3": "(no such key)"},
    }
    page = (out / "report.html").read_text()
    assert "<h1>a=1/seed0 and b/seed3</h1>" in page
    (numbers,) = re.findall(r'json">(.*"Return of training episodes".*)</script>', page)
    lines = json.loads(numbers)["lines"]
    assert [(x["name"], x["y"]) for x in lines] == [("a=1/seed0", [1]), ("b/seed3", [5, 7])]


def test_runs_of_different_tasks_share_charts_and_this_is_said(tmp_path, capsys):
    paths = [make_run(tmp_path, task=task) for task in ("memory", "point")]
    assert report.main([*map(str, paths), f"out={tmp_path / 'out'}"]) == 0
    assert "! The runs have different tasks; their returns are not comparable." in (
        capsys.readouterr().out
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<details") == 1
    assert "<h1>memory and point</h1>" in page


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    path = make_run(tmp_path)
    cases = {
        (str(path), str(tmp_path)): f"Only run folders are compared, got {tmp_path}: there is no",
        (str(path), str(path)): "The runs must be different",
        (str(path), str(path), "frames=10"): "`frames` must come with a folder of runs",
        (): "must be a folder of runs, two runs, source=published, or pretrained=NAME",
    }
    for words, message in cases.items():
        assert report.main(words) == 2
        assert message in capsys.readouterr().err


def test_runs_of_different_lengths_are_named(tmp_path, reported):
    make_run(tmp_path / "runs", seed=0)
    make_run(tmp_path / "runs", seed=1, total_frames=9000)
    out, _ = reported()
    assert "runs of different lengths (1 of 3,000, 1 of 9,000 frames) are compared" in out


def test_broken_and_failed_runs_are_named_and_the_rest_is_reported(tmp_path, reported):
    make_run(tmp_path / "runs", seed=0)
    broken, failed = (make_run(tmp_path / "runs", seed=seed, finished=False) for seed in (1, 2))
    (broken / "config.yaml").unlink()
    (failed / "failure.txt").write_text("Traceback\nNonFiniteError: the loss is NaN\n")
    out, rows = reported()
    assert f"! {broken}: there is no config.yaml" in out
    assert f"! {failed}: failed: NonFiniteError: the loss is NaN" in out
    assert rows.loc["dummy", "memory", "tiny", "score"]["runs"] == 2


def test_games_get_the_people_s_scales_and_aggregates(tmp_path, reported):
    for game, score in (("pong", 20.0), ("boxing", 50.0), ("tetris", 1.0)):
        for seed in (0, 1):
            scores = {4_000_000: score - seed}
            make_run(tmp_path / "runs", env="atari", task=game, seed=seed, scores=scores)
    out, rows = reported()
    pong = rows.loc["atari", "pong", "tiny", "gamer_normalized"]
    assert pong["value"] == pytest.approx((19.5 + 20.7) / (14.6 + 20.7))
    aggregates = json.loads((tmp_path / "out" / "aggregates.json").read_text())["tiny"]
    boxing = (49.5 - 0.1) / (12.1 - 0.1)
    assert aggregates["gamer_mean"] == pytest.approx((pong["value"] + boxing) / 2)
    assert "aggregates are over 2 of the paper's 55 games" in out
    assert "not among the paper's games: tetris" in out
    assert ("atari", "tetris", "tiny", "gamer_normalized") not in rows.index


def test_published_scores_stand_beside_those_of_the_same_games_and_frames(tmp_path, reported):
    for task in ("pong", "jamesbond", "tetris"):
        make_run(tmp_path / "runs", env="atari", task=task, scores={5_000_000: 3.0})
    out, rows = reported("compare=published")
    curves = published.curves("atari-dreamerv2")
    at = curves[(curves["task"] == "james_bond") & (curves["frames"] == 5_000_000)]
    row = rows.loc["atari", "james_bond", "published dreamerv2", "score"]
    assert (row["value"], row["runs"]) == (pytest.approx(at["score"].mean()), 8)
    total = rows.loc["atari", "", "published dreamerv2", "gamer_median"]
    assert (total["tasks"], total["runs"]) == (2, 16)
    assert "nothing is published for tetris" in out


def test_pydreamer_stands_beside_the_authors(tmp_path, reported):
    for task in ("pong", "boxing"):
        make_run(tmp_path / "runs", env="atari", task=task, scores={5_000_000: 3.0})
    out, rows = reported("compare=pydreamer")
    curves = published.curves("pydreamer-atari").query("task == 'pong'")
    edges = np.ceil(curves["frames"] / 1e6) * 1e6  # as in PyDreamer's figure
    at = curves[edges == 5e6].groupby("seed")["score"].mean()
    row = rows.loc["atari", "pong", "published pydreamer", "score"]
    assert (row["value"], row["runs"]) == (pytest.approx(at.mean()), 3)
    assert rows.loc["atari", "pong", "published dreamerv2", "score"]["runs"] == 8
    assert "PyDreamer has published nothing for boxing" in out
    assert "about 5 % more were played" in out


def test_where_nothing_is_published_that_is_said(tmp_path, reported):
    make_run(tmp_path / "runs")
    make_run(tmp_path / "runs", env="atari", task="pong", scores={200_000: -20.0})
    out, rows = reported("compare=published")
    assert "dummy: nothing is published for memory" in out
    assert "the published curves begin at 1,000,000 frames; no scores" in out
    assert rows.loc["atari", "pong", "tiny", "score"]["value"] == -20


def test_runs_without_a_score_yet_are_reported_all_the_same(tmp_path, reported):
    make_run(tmp_path / "runs", scores={}, finished=False)
    out, rows = reported()
    assert (len(rows), "1 run(s): 1 interrupted" in out) == (0, True)
    assert "! No score yet, as no return has been logged: memory/tiny/seed0." in out
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 1


def test_runs_that_collect_nothing_have_the_scores_of_their_evaluations(tmp_path, reported):
    make_run(tmp_path / "runs")
    for seed, last in enumerate((6.0, 8.0)):
        scores = {10: 1.0, 38: 2.0, 40: last}
        path = make_offline_run(tmp_path / "runs", variant="offline", seed=seed, scores=scores)
        (path / "videos").mkdir()
        (path / "videos" / "policy_0000000040.mp4").touch()
    out, rows = reported()
    row = rows.loc["dummy", "memory", "offline", "score"]
    assert (row["frames"], row["counter"], row["value"]) == (40, "updates", 4.5)  # 2, 6 and 2, 8
    assert (row["low"], row["high"], row["runs"]) == (4.0, 5.0, 2)
    online = rows.loc["dummy", "memory", "tiny", "score"]
    assert (online["frames"], online["counter"], online["value"]) == (3000, "frames", 3.0)
    assert "No score yet" not in out
    assert "dummy, stored data, at 40 updates: mean score [95 % interval] (runs)" in out
    assert "dummy, stored data: scores are read at 40 updates, the most that all runs" in out
    table = out.partition("Runs\n")[2]
    offline = next(line for line in table.splitlines() if "offline" in line)
    assert offline.split()[4:9] == ["finished", "40", "40", "6.0", "6.0"]  # no frames
    page = (tmp_path / "out" / "report.html").read_text()
    assert "seed 0, after 40 updates." in page


def test_a_folder_without_runs_is_refused_with_what_is_wrong_in_it(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert f"error: No runs in {tmp_path}." in capsys.readouterr().err
    (make_run(tmp_path) / "config.yaml").unlink()
    assert report.main([str(tmp_path)]) == 2
    assert "there is no config.yaml" in capsys.readouterr().err
    assert report.main([str(tmp_path / "nowhere")]) == 2
    assert "The folder must hold runs" in capsys.readouterr().err


@pytest.mark.slow
def test_figures_films_and_page_are_written_beside_the_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.setattr(tables, "RESAMPLES", 5)
    path = make_run(tmp_path)
    make_run(tmp_path, seed=1)
    (path / "videos").mkdir()
    for frames in (1000, 3000):
        (path / "videos" / f"policy_{frames:010}.mp4").write_bytes(b"film of %d" % frames)
    assert report.main([str(tmp_path)]) == 0
    out = tmp_path / "report"
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("runs.csv", "curves.csv", "scores.csv", "scores.json", "figures", "report.html")
    }
    assert {path.suffix for path in (out / "figures").iterdir()} == {".png", ".pdf"}
    page = (out / "report.html").read_text()
    assert "An evaluation episode. dummy, memory, tiny, seed 0, after 3,000 frames." in page
    assert page.count("<video") == 1
    assert page.count("<img") == 0  # curves are charts; the files are for papers
    assert "3,000 frames, the most that all runs have reached" in page
    assert report.main([str(tmp_path)]) == 0  # the report is no run
    assert "2 run(s): 2 finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (
            lambda run: write_returns(run, 1e308, -1e308),
            "2 point(s) of metrics.jsonl with a return",
        ),
        (lambda run: write_returns(run, None, None), "metrics.jsonl has returns, and none can be"),
        (
            lambda run: replace_by_folder(run / "metrics.jsonl"),
            "metrics.jsonl is a folder. The run counts without a curve.",
        ),
        (
            lambda run: replace_by_folder(run / "config.yaml"),
            "config.yaml cannot be read (IsADirec",
        ),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_one_broken_run_is_named_and_the_rest_is_reported(damage, problem, tmp_path, reported):
    make_run(tmp_path / "runs")
    broken = make_run(tmp_path / "runs", seed=1, finished=False)
    damage(broken)
    printed, _ = reported()
    assert f"! {broken}: " in printed
    assert problem in printed
    assert "memory" in printed.partition("! ")[0]


def write_returns(run, *returns):
    lines = [{"frames": 1000 * n, "collect/return": x} for n, x in enumerate(returns, 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def replace_by_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def test_probes_have_a_table_with_their_latest_numbers_and_their_pictures(tmp_path, reported):
    for seed, accuracy in ((0, 0.7), (1, 0.9)):
        path = make_run(tmp_path / "runs", variant="probed", seed=seed)
        lines = [{"probe/acc_map": 0.1}, {"probe/acc_map": accuracy}, {"probe/acc_map": None}]
        with (path / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps({"frames": 3000, **line}) + "\n" for line in lines)
        (path / "videos").mkdir()
        (path / "videos" / "probe_map_0000003000.mp4").write_bytes(b"film")
    shaped = make_run(tmp_path / "runs", variant="shaped")
    with (shaped / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"frames": 3000, "world_model/probe_mse_goals": 4.0}) + "\n")
    make_run(tmp_path / "runs", variant="plain")
    reported()
    table = pd.read_csv(tmp_path / "out" / "probes.csv").set_index("variant")
    assert set(table.index) == {"probed", "shaped"}
    assert table.loc["probed", "runs"] == 2
    assert table.loc["probed", "map accuracy"] == pytest.approx(0.8)
    assert table.loc["shaped", "squared error of goals"] == 4
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Probes, latest means over seeds" in page
    assert "The map, what the probe reads from the features" in page


def test_without_probes_there_is_no_table_of_them(tmp_path, reported):
    make_run(tmp_path / "runs")
    reported()
    assert not (tmp_path / "out" / "probes.csv").exists()
