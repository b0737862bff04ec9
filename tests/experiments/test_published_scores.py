"""The published data give the paper's Tables 1 and K1."""

import io
import json
import math
from contextlib import redirect_stdout

import pandas as pd
import pytest

from experiments import plots, published, report, scores, tables

# In full precision, as computed with the published data by another program.
EXPECTED = {
    ("dreamerv2", 199_000_000): (
        *(2.146490176663714, 42.2613060734579, 0.43840960287909264, 0.27958950067543964),
    ),
    ("dreamerv2", 20_000_000): (
        *(0.9991197183098592, 10.394769667817542, 0.25049575672214147, 0.1910632460387814),
    ),
    ("dreamerv2_schedules", 199_000_000): (
        *(2.640322580645161, 31.707289303547473, 0.4276136163706388, 0.2829600317657468),
    ),
    ("dreamerv2_schedules", 20_000_000): (
        *(0.9104093817010562, 10.9469930350499, 0.24748338838253398, 0.1967420256549776),
    ),
    ("iqn", 199_000_000): (
        *(1.2880063252645662, 11.268552877681685, 0.21053758287741503, 0.20929592789978216),
    ),
    ("rainbow", 20_000_000): (
        *(1.4724222442667911, 9.949653327137806, 0.17228035005396655, 0.17222661068988235),
    ),
}


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Few resamples, and no figure: what is promised here are numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "RESAMPLES", 5)
        patch.setattr(plots, "published_figures", lambda out, frames: [])
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the command writes and prints at the frames of Table 1."""
    out = tmp_path_factory.mktemp("report") / "published"
    with redirect_stdout(io.StringIO()) as printed:
        assert report.main(["source=published", f"out={out}"]) == 0
    (out / "printed.txt").write_text(printed.getvalue())
    return out


def people():
    baselines = published.baselines().loc[list(published.games())]
    names = {"random": "random", "gamer": "human_gamer", "record": "human_record"}
    return {key: baselines[column].to_numpy() for key, column in names.items()}


@pytest.mark.parametrize(("agent", "frames"), EXPECTED)
def test_aggregates_are_exact_at_any_frame_count(agent, frames):
    runs = tables.published_runs(frames)
    matrix = tables.matrix(runs[runs["variant"] == agent])[list(published.games())]
    aggregates = scores.atari_aggregates(matrix, **people())
    assert tuple(aggregates.values()) == pytest.approx(EXPECTED[agent, frames], rel=1e-12)


def test_seeds_that_the_paper_leaves_out_give_their_own_numbers():
    runs = tables.at_frames(published.curves("atari-dreamerv2-nosched"), 199_000_000)
    matrix = tables.matrix(runs)[list(published.games())]
    assert scores.gamer_mean(matrix, people()["random"], people()["gamer"]) == pytest.approx(
        39.4656991597826, rel=1e-12
    )


@pytest.mark.slow
def test_the_command_writes_every_value_of_table_1_as_printed(folder):
    written = json.loads((folder / "aggregates.json").read_text())
    printed = published.table_1().drop(index="impala").to_dict("index")
    rounded = {a: {k: round(x, 2) for k, x in row.items()} for a, row in written.items()}
    assert rounded == printed
    assert tuple(written["dreamerv2"].values()) == pytest.approx(
        EXPECTED["dreamerv2", 199_000_000], rel=1e-12
    )


def test_the_command_writes_every_entry_of_table_k1_as_printed(folder):
    written = pd.read_csv(folder / "table_k1.csv", index_col="task")
    assert written.shape == (55, 6)
    pd.testing.assert_frame_equal(written.round(0).astype(int), published.table_k1())


def test_the_tidy_table_says_what_each_number_rests_on(folder):
    rows = json.loads((folder / "scores.json").read_text())
    (total,) = [r for r in rows if (r["variant"], r["measure"]) == ("dreamerv2", "gamer_median")]
    assert (total["runs"], total["short_runs"], total["tasks"]) == (440, 20, 55)
    assert total["low"] <= total["value"] <= total["high"]
    (breakout,) = [
        r
        for r in rows
        if (r["variant"], r["task"], r["measure"]) == ("dreamerv2", "breakout", "score")
    ]
    assert breakout["value"] == pytest.approx(311.8875)
    assert (breakout["runs"], breakout["short_runs"], breakout["frames"]) == (8, 4, 199_000_000)
    assert all(r["low"] is None for r in rows if r["variant"] == "iqn" and r["task"])


def test_improvement_of_each_agent_over_the_other_adds_up_to_one(folder):
    rows = json.loads((folder / "scores.json").read_text())
    over = {
        (r["variant"], r["measure"].split(":")[1]): r["value"]
        for r in rows
        if r["measure"].startswith("probability")
    }
    assert len(over) == 6 * 5
    assert all(over[a, b] + over[b, a] == pytest.approx(1) for a, b in over)


def test_the_command_says_what_the_numbers_rest_on(folder):
    out = (folder / "printed.txt").read_text()
    assert "atari at 199,000,000 frames" in out
    assert "dreamerv2: 8 seeds per game; 20 of 440 runs end earlier" in out
    assert "dreamerv2_schedules: 4 seeds per game" in out
    assert "one number per game, at 200,000,000 frames, whatever" in out


@pytest.mark.slow
def test_frames_beyond_the_published_curves_are_said(tmp_path, capsys):
    assert report.main(["source=published", "frames=3e8", f"out={tmp_path}"]) == 0
    assert "No published run reaches frames=300,000,000" in capsys.readouterr().out
    written = json.loads((tmp_path / "aggregates.json").read_text())
    assert math.isclose(written["dreamerv2"]["gamer_mean"], 42.2613060734579)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["source=published", "frames=5"], "`frames` must be at least 1,000,000"),
        (
            ["source=published", "frames=many"],
            "`frames` must be a whole number of at least 1",
        ),
        (
            ["source=published", "frames=-1"],
            "of at least 1 or null, got `-1`",
        ),
        (["source=publishd"], "`source` must be published or null, got `publishd`"),
        (["source=published", "frame=1"], "Unknown key `frame`. The nearest: frames"),
        (["source=published", "compare=published"], "`compare` must come with a folder of runs"),
        (
            ["source=published", "runs"],
            "must be a folder of runs, two runs, source=published, or pretrained=NAME",
        ),
        ([], "got none of them"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(words, message, capsys):
    assert report.main(words) == 2
    assert message in capsys.readouterr().err


def test_help_is_given(capsys):
    assert report.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "  python -m experiments.report source=published" in printed
    assert "  frames=null                       Where scores are read" in printed
