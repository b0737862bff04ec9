"""Learning curves and the door of the figures: the numbers in their axes, not their pixels."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from drawing import legend, lines, remarks, run, table
from matplotlib.figure import Figure

from experiments import published
from experiments.plots import figures, published_figures
from experiments.plots.curves import band, bin_width, binned, learning_curves
from experiments.plots.style import readable, save, short_number, variant_styles


@pytest.fixture(scope="module")
def atari() -> pd.DataFrame:
    return published.curves("atari-dreamerv2")


# ----------------------------------------------------------------------------------------- bands


def test_band_is_mean_lowest_and_highest_seed():
    points = band(table(run([1, 2], seed="0"), run([3, 6], seed="1"), run([5, 7], seed="2")))
    np.testing.assert_array_equal(points.frames, [10, 20])
    np.testing.assert_array_equal(points.mean, [3, 5])
    np.testing.assert_array_equal(points.low, [1, 2])
    np.testing.assert_array_equal(points.high, [5, 7])
    assert (points.seeds, points.stops) == (3, [])


def test_a_run_that_stops_early_is_marked_and_not_prolonged():
    points = band(table(run([1] * 20, seed="0"), run([3] * 5, seed="1")))
    np.testing.assert_array_equal(points.mean, [2] * 5 + [1] * 15)
    assert (points.seeds, points.stops) == (2, [50])


def test_the_band_ends_with_the_shortest_complete_run():
    points = band(table(run([1] * 100, seed="0"), run([3] * 98, seed="1")))
    assert points.frames[-1] == 980
    assert points.stops == []


def test_a_bin_without_episodes_takes_over_the_runs_previous_score():
    gap = run([1, 2, 3], seed="0").drop(1)
    points = band(table(gap, run([5, 5, 5], seed="1")))
    np.testing.assert_array_equal(points.mean, [3, 3, 4])


def test_bins_average_runs_one_by_one_and_stand_at_their_right_edge():
    curves = table(run([1, 2, 3, 4, 10], every=5, seed="0"), run([7], every=5, seed="1"))
    found = binned(curves, width=10)
    assert found["frames"].tolist() == [10, 20, 30, 10]
    assert found["score"].tolist() == [1.5, 3.5, 10, 7]


def test_bins_weigh_points_by_their_episodes():
    curves = run([1, 4], every=5).assign(episodes=[2, 1])
    assert binned(curves, width=10)["score"].tolist() == [2]


@pytest.mark.parametrize(
    ("frames", "width"), [(200_000_000, 2_000_000), (200_000, 2_000), (99, 1), (7, 1), (5_001, 100)]
)
def test_bin_widths_are_round_and_leave_about_a_hundred_bins(frames, width):
    assert bin_width(pd.DataFrame({"frames": [frames]})) == width


# ------------------------------------------------------------------------------- learning curves


def test_legend_says_seeds_and_panels_say_where_there_are_fewer():
    figure = learning_curves(
        table(
            *(run([1, 2], seed=str(k), task=task) for k in range(3) for task in ("pong", "alien")),
            run([1, 2], task="pong", variant="no_kl_balancing"),
        )
    )
    alien, pong = figure.axes
    assert legend(figure) == ["DreamerV2, 3 seeds", "No KL Balancing, 1 seed"]
    assert remarks(alien) == "No KL Balancing: no run"
    assert remarks(pong) == ""


def test_one_seed_has_no_band():
    one = learning_curves(run([1, 2, 3]))
    two = learning_curves(table(run([1, 2, 3]), run([2, 3, 4], seed="1")))
    assert (len(one.axes[0].collections), len(two.axes[0].collections)) == (0, 1)


def test_early_stops_stand_in_the_legend():
    figure = learning_curves(table(run([1] * 20), run([3] * 5, seed="1")))
    assert legend(figure) == ["DreamerV2, 2 seeds", "a run stops early"]


def test_published_curve_ends_where_ours_do_but_shows_its_first_point():
    own = run([1, 2, 3], every=10)
    dense = learning_curves(own, run(range(100), every=1)).axes[0]
    sparse = learning_curves(own, run([8, 9], every=40)).axes[0]
    assert lines(dense)["published"][-1].tolist() == [30, 29]
    assert lines(sparse)["published"].tolist() == [[40, 8]]
    assert sparse.get_xlim()[1] > 40


def test_a_published_curve_that_begins_far_beyond_ours_is_told_in_words():
    axis = learning_curves(run([1, 2, 3], every=10), run([8, 9], every=1000)).axes[0]
    assert remarks(axis) == "published begins at 1000: 8"
    assert axis.get_xlim()[1] < 40
    assert list(lines(axis)) == ["dreamerv2"]


def test_our_line_is_the_mean_of_binned_seeds():
    curves = table(run([1, 2, 3, 4], every=5), run([5, 6, 7, 8], every=5, seed="1"))
    figure = learning_curves(curves, bin_frames=10)
    assert lines(figure.axes[0])["dreamerv2"].tolist() == [[10, 3.5], [20, 5.5]]


def test_another_published_agent_has_a_line_of_its_own():
    own, authors = run([1, 2, 3], every=10), run([8, 9, 10, 11], every=10)
    other = run([4, 5], every=10, variant="pydreamer")
    axis = learning_curves(own, authors, pydreamer=other).axes[0]
    found = lines(axis)
    assert found["published"].tolist() == [[10, 8], [20, 9], [30, 10]]
    assert found["published_pydreamer"].tolist() == [[10, 4], [20, 5]]
    assert axis.get_xlim()[1] == pytest.approx(30 * 1.02)


def test_two_agents_are_never_drawn_as_one_published_line():
    mixed = table(run([1, 2]), run([1, 2], seed="1", variant="schedules"))
    with pytest.raises(ValueError, match="one variant, got dreamerv2, schedules"):
        learning_curves(run([1]), mixed)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="`curves` must have rows"):
        learning_curves(run([]))


# ------------------------------------------------------------------------------------ the door


def keep_figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Collect figures by the name of their file: drawing pixels takes seconds."""
    found: dict[str, Figure] = {}

    def keep(figure: Figure, stem: Path) -> Path:
        found[stem.name] = figure
        return stem.with_suffix(".png")

    monkeypatch.setattr("experiments.plots.selection.save", keep)
    monkeypatch.setattr("experiments.plots.aggregates.RESAMPLES", 3)
    monkeypatch.setattr("experiments.plots.profiles.RESAMPLES", 3)
    return found


@pytest.fixture
def drawn(monkeypatch) -> dict[str, Figure]:
    return keep_figures(monkeypatch)


@pytest.mark.slow
def test_a_grid_of_games_gets_every_figure(tmp_path, atari, drawn):
    games = atari["task"].isin(["pong", "alien", "boxing"]) & (atari["frames"] <= 5e6)
    own = atari[games & (atari["seed"] < "5")]
    worse = own.assign(variant="no_kl_balancing", score=own["score"] - 5)
    captions = dict(figures(table(own, worse), atari, tmp_path))
    assert set(drawn) == {path.stem for path in captions}
    assert [path.stem for path in captions] == [
        f"{kind}_atari"
        for kind in ("curves", "finals", "ablations", "aggregates", "profiles", "differences")
    ]
    assert [axis.get_title() for axis in drawn["differences_atari"].axes] == [
        "DreamerV2 vs No KL Balancing",
        "DreamerV2 vs Published",
    ]
    assert "3 games that all variants have" in captions[tmp_path / "ablations_atari.png"]
    assert "at 5,000,000 frames" in captions[tmp_path / "finals_atari.png"]


def test_figures_draw_each_environment_over_the_published_curve(tmp_path, atari, drawn):
    own = table(
        run(np.linspace(-21, 20, 40), every=100_000),
        run(np.linspace(-21, 10, 12), every=100_000, seed="1"),
        run(range(5), task="memory", variant="tiny", every=1000).assign(env="dummy"),
    )
    found = figures(own, atari, tmp_path / "new")
    assert [path.name for path, _ in found] == ["curves_atari.png", "curves_dummy.png"]
    captions = [caption for _, caption in found]
    assert "the published curve of DreamerV2" in captions[0]
    assert "1 run stops early: Pong DreamerV2 seed 1 at 1.2M." in captions[0]
    assert "published" not in captions[1]


def test_scores_are_read_at_the_frames_asked_for_else_at_what_all_runs_reached(tmp_path, drawn):
    own = table(run([1, 2, 3]), run([4, 5], variant="no_kl_balancing"))
    for frames, where in (
        (None, "20 frames"),
        ({"atari": 30}, "30 frames"),
        ({"x": 9}, "20 frames"),
    ):
        captions = dict(figures(own, None, tmp_path, frames=frames))
        assert f"at {where}" in captions[tmp_path / "finals_atari.png"]


def test_what_has_no_score_yet_is_left_out_of_what_is_said_of_all_games(tmp_path, drawn):
    games = ("pong", "alien", "boxing", "hero")
    own = table(*(run([1, 2, 3], task=x, variant=v) for x in games for v in ("dreamerv2", "b")))
    late = (own["task"] == "hero") & (own["frames"] < 30)
    early = (own["task"] == "pong") & (own["variant"] == "b") & (own["frames"] > 20)
    captions = dict(figures(own[~late & ~early], None, tmp_path))
    assert "3 games that all variants have" in captions[tmp_path / "ablations_atari.png"]


def test_figures_find_a_game_whatever_its_spelling(tmp_path, atari, drawn):
    figures(run([1, 2], task="jamesbond", every=1_000_000), atari, tmp_path)
    axis = drawn["curves_atari"].axes[0]
    assert lines(axis)["published"].shape == (2, 2)
    assert axis.get_title() == "James Bond"


def test_no_rows_no_figures(tmp_path):
    assert figures(run([]), None, tmp_path) == []


# -------------------------------------------------------------------------------- published data


@pytest.fixture(scope="module")
def paper_figures() -> dict[str, tuple[Figure, str]]:
    """Figure and caption of the published data, by name."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        drawn = keep_figures(monkeypatch)
        captions = {path.stem: caption for path, caption in published_figures(Path())}
    return {name: (figure, captions[name]) for name, figure in drawn.items()}


@pytest.mark.slow
def test_published_grid_has_55_panels_with_the_means_of_the_raw_data(atari, paper_figures):
    figure, caption = paper_figures["published_curves"]
    assert len(figure.axes) == 55
    assert legend(figure) == ["DreamerV2, 8 seeds", "a run stops early"]
    assert "20 runs stop early" in caption
    by_game = {axis.get_title(): lines(axis)["dreamerv2"] for axis in figure.axes}
    at_end = atari[atari["frames"] == 199_000_000]
    for game in ("pong", "ms_pacman", "james_bond"):
        scores = at_end.loc[at_end["task"] == game, "score"]
        assert len(scores) == 8
        frames, mean = by_game[readable(game)][-1]
        assert frames == 199_000_000
        assert mean == pytest.approx(sum(scores) / 8, rel=1e-12)
    assert by_game["Pong"][-1][1] == pytest.approx(published.table_k1().loc["pong"].iloc[-1], abs=1)


@pytest.mark.slow
def test_published_aggregates_end_at_the_printed_table_1(paper_figures):
    axes = paper_figures["published_aggregates"][0].axes
    for axis, measure in zip(axes, published.table_1().columns, strict=True):
        ends = {label: round(xy[-1, 1], 2) for label, xy in lines(axis).items()}
        assert ends == published.table_1()[measure].drop("impala").to_dict()


@pytest.mark.slow
def test_published_agents_have_a_panel_of_differences_each(paper_figures):
    figure, _ = paper_figures["published_differences"]
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [f"DreamerV2 vs {agent}" for agent in ("IQN", "Rainbow", "C51", "DQN")]
    assert [len(axis.patches) for axis in figure.axes] == [55] * 4


# ---------------------------------------------------------------------------------------- style


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.25, "0.25"), (-21, "-21"), (5000, "5000"), (10_000, "10k"), (1_500_000, "1.5M")]
    + [(200_000_000, "200M"), (2e9, "2B"), (-20_000, "-20k")],
)
def test_ticks_are_short(number, text):
    assert short_number(number) == text


def test_variants_are_told_apart_and_the_full_agent_comes_first():
    names = [f"no_{letter}" for letter in "abcdefgh"] + ["dreamerv2"]
    looks = variant_styles(names)
    assert next(iter(looks)) == "dreamerv2"
    assert len(set(looks.values())) == 9


def test_names_of_people_not_of_files():
    assert readable("no_kl_balancing") == "No KL Balancing"
    assert readable("tiny-latents=gaussian") == "tiny-latents=gaussian"


@pytest.mark.slow
def test_save_writes_png_and_pdf_and_leaves_matplotlib_as_it_was(tmp_path):
    before = dict(matplotlib.rcParams)
    path = save(learning_curves(run([1, 2])), tmp_path / "new" / "v1.5")
    assert dict(matplotlib.rcParams) == before
    assert path.name == "v1.5.png"
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "new" / "v1.5.pdf").read_bytes()[:4] == b"%PDF"
