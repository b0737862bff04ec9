"""Charts of what runs have logged, from the files of runs to the points of a line."""

import json

import numpy as np
import pandas as pd
import pytest
from folders import make_run

from experiments import learning
from experiments.learning import chart_groups
from experiments.measures import KEYS, MEASURES, RETURN, VALUE_ERROR
from experiments.run_folder import THINNED, read_run
from experiments.runs import read_runs


def log(path, *lines):
    with (path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def numbers(folder) -> pd.DataFrame:
    found = read_runs(folder)
    return pd.concat([found.curves.assign(key=RETURN), found.numbers], ignore_index=True)


def charts_of(folder, published=None):
    (group,) = chart_groups(numbers(folder), published)
    return group, {chart.title: chart for chart in group.charts}


def test_a_chart_has_a_line_per_variant_with_the_range_of_its_seeds(tmp_path):
    for variant, seed, kl in (("a", 0, 1.0), ("a", 1, 3.0), ("b", 0, 7.0)):
        path = make_run(tmp_path, variant=variant, seed=seed, scores={})
        log(path, {"frames": 1000, "world_model/kl": kl}, {"frames": 2000, "world_model/kl": kl})
    group, charts = charts_of(tmp_path)
    first, second = charts["KL divergence"].lines
    assert (first.name, first.x, first.y) == ("a", [1000, 2000], [2.0, 2.0])
    assert (first.low, first.high) == ([1.0, 1.0], [3.0, 3.0])
    assert (second.y, second.low) == ([7.0, 7.0], ())
    assert [entry.label for entry in group.legend] == ["a, 2 seeds", "b, 1 seed"]
    assert first.color != second.color


def test_losses_entropies_value_errors_and_speed_stand_beside_returns(tmp_path):
    line = {
        "world_model/loss": 9.0,
        "world_model/posterior_entropy": 2.0,
        "world_model/prior_entropy": 5.0,
        "critic/value": 4.0,
        "critic/target": 3.0,
        "critic/loss": 1.0,
        "actor/entropy": 0.5,
        "perf/frames_per_second": 120.0,
        "eval/return_mean": 6.0,
    }
    log(make_run(tmp_path), {"frames": 3000, **line})
    _, charts = charts_of(tmp_path)
    assert [*charts] == [
        *("Return of training episodes", "Return in evaluation", "World model's loss"),
        *("Entropy of the latent state", "Entropy of the actor", "Actor's loss", "Critic's loss"),
        *("Value of imagined states", "Value error", "Speed"),
    ]
    assert charts["Value error"].lines[0].y == [1.0]
    posterior, prior = charts["Entropy of the latent state"].lines
    assert (posterior.name, posterior.label, posterior.y) == ("tiny", "tiny posterior", [2.0])
    assert (prior.name, prior.label, prior.y) == ("tiny", "tiny prior", [5.0])
    assert posterior.dash != prior.dash
    assert charts["Entropy of the latent state"].note == "Solid: posterior, dashed: prior."


def test_a_line_without_a_number_is_skipped(tmp_path):
    path = make_run(tmp_path, scores={})
    log(
        path,
        {"frames": 1000, "critic/loss": None},
        {"frames": 2000, "critic/loss": float("nan")},
        {"frames": 3000, "critic/loss": 2.5},
        {"frames": 4000, "critic/value": 2.5},
    )
    table = read_run(path).numbers
    assert table[["frames", "key", "score"]].to_numpy().tolist() == [
        [3000, "critic/loss", 2.5],
        [4000, "critic/value", 2.5],
    ]


def test_a_long_run_keeps_a_bounded_number_of_points_with_the_same_mean(tmp_path):
    path = make_run(tmp_path, scores={})
    values = np.random.default_rng(0).random(3 * THINNED + 7)
    log(path, *({"frames": 10 * i, "actor/loss": x} for i, x in enumerate(values, 1)))
    table = read_run(path).numbers
    assert THINNED / 2 < len(table) <= THINNED
    assert table["frames"].iloc[-1] == 10 * len(values)
    assert np.average(table["score"], weights=table["episodes"]) == pytest.approx(values.mean())


def test_published_curves_are_beside_the_returns_if_they_begin_near_them(tmp_path):
    make_run(tmp_path, env="atari", task="pong", scores={1_000_000: 1.0, 2_000_000: 2.0})
    frames = [1_000_000, 2_000_000, 3_000_000]
    curve = pd.DataFrame({"frames": frames, "score": [5.0, 6.0, 7.0]})
    curve = curve.assign(env="atari", task="pong", variant="dreamerv2", seed="0")
    group, charts = charts_of(tmp_path, {"published": curve})
    line = charts["Return of training episodes"].lines[0]
    assert (line.name, line.x, line.y) == ("published", frames[:2], [5.0, 6.0])
    assert [entry.name for entry in group.legend] == ["tiny", "published"]
    late = curve.assign(frames=curve["frames"] + 9_000_000)
    group, charts = charts_of(tmp_path, {"published": late})
    assert [line.name for line in charts["Return of training episodes"].lines] == ["tiny"]
    assert charts["Return of training episodes"].note.endswith(
        "Published begins at 10M frames, with 5."
    )


def test_many_charts_have_fewer_points(tmp_path, monkeypatch):
    scores = {1000 * (i + 1): 1.0 for i in range(100)}
    make_run(tmp_path, scores=scores)
    table = numbers(tmp_path)
    assert len(chart_groups(table)[0].charts[0].lines[0].x) == 50
    monkeypatch.setattr(learning, "POINTS", 100)
    assert len(chart_groups(table)[0].charts[0].lines[0].x) == 20


def test_runs_without_a_number_have_no_chart(tmp_path):
    make_run(tmp_path, scores={})
    assert chart_groups(numbers(tmp_path)) == []


def test_every_key_is_explained_in_the_docs(repository):
    text = (repository / "docs" / "logs.md").read_text()
    old = {"world_model/image_nll", "world_model/vector_nll"}  # of earlier versions
    assert [key for key in {*KEYS} - old - {VALUE_ERROR} if f"`{key}`" not in text] == []
    assert len({measure.title for measure in MEASURES}) == len(MEASURES)
