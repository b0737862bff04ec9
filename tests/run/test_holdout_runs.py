"""Runs with held-out episodes: what they never train on, and the scores that they log."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from dreamer.replay.storage import peek
from dreamer.run.train import train

QUIET = (
    "callbacks.evaluate=null",
    "callbacks.holdout.sequences=0",
    "callbacks.holdout.horizons=[1,3]",
)


def steps_in(run_dir):
    stored = peek(Path(run_dir, "replay"))
    assert stored is not None
    return stored.steps


@pytest.fixture
def composed(compose_tiny, trained_run, tmp_path):
    """Compose a run that learns from the replay of another one, in a folder of that name."""

    def compose(name, *words):
        offline = ("collect=none", f"data.train={trained_run}", "total_updates=4", *QUIET)
        return compose_tiny(*offline, f"run_dir={tmp_path / name}", *words)

    return compose


@pytest.mark.slow
def test_a_share_of_the_episodes_is_scored_and_not_trained_on(composed):
    whole = train(composed("whole"))
    split = train(composed("split", "data.holdout=0.4", "callbacks.holdout.every_updates=2"))
    assert 0 < steps_in(split.run_dir) < steps_in(whole.run_dir)
    lines = Path(split.run_dir, "metrics.jsonl").read_text().splitlines()
    scores = [line for line in map(json.loads, lines) if "holdout/kl" in line]
    assert [line["updates"] for line in scores][:1] == [2]
    assert len(scores) >= 2
    wanted = {"kl", "reward_nll", "observation_nll_image", "reward_error_after_1"}
    for line in scores:
        assert {f"holdout/{name}" for name in wanted} <= line.keys()
        assert all(math.isfinite(x) for key, x in line.items() if key.startswith("holdout/"))
    assert "holdout/failures" not in lines[-1]


@pytest.mark.slow
def test_a_mixed_run_holds_out_the_same_episodes_when_it_goes_on(
    compose_tiny, trained_run, tmp_path
):
    words = (f"data.prefill={trained_run}", "data.mix=0.5", "data.holdout=0.4", *QUIET)
    words += ("callbacks.holdout.every_frames=16", f"run_dir={tmp_path}/mixed")
    stored = tmp_path / "mixed" / "stored" / "0"
    whole = peek(trained_run / "replay")
    train(compose_tiny(*words))
    first = peek(stored)
    assert first is not None and whole is not None and 0 < first.steps < whole.steps
    train(compose_tiny(*words, "total_frames=112"))
    again = peek(stored)
    assert again is not None
    rewards = (np.array(x.columns["reward"]) for x in (first, again))
    np.testing.assert_array_equal(*rewards)
    lines = (tmp_path / "mixed" / "metrics.jsonl").read_text().splitlines()
    scored = [line["frames"] for line in map(json.loads, lines) if "holdout/kl" in line]
    assert scored[0] <= 81 < scored[-1]


@pytest.mark.slow
def test_scores_change_nothing_that_is_learned(composed, trained_run):
    """Other episodes than the run's own: the data are the same in both runs."""
    plain = train(composed("plain"))
    scored = train(composed("scored", f"data.holdout={trained_run}/replay/../replay/"))
    for name in ("world_model/loss", "actor/loss", "critic/loss"):
        assert scored.metrics[name] == plain.metrics[name]
    assert np.isfinite(scored.metrics["holdout/kl"])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["data.holdout=1e-9"], "`data.holdout` must leave episodes on both sides"),
        (["data.holdout=1.5"], "`data.holdout` must be a number in (0, 1), text or null, got 1.5"),
        (["data.holdout=0"], "`data.holdout` must be a share in (0, 1) or an address, got 0"),
        (["data.holdout=/nowhere/at/all"], "`data.holdout` must be the address"),
    ],
)
def test_what_cannot_be_held_out_is_refused_before_work_starts(composed, tmp_path, words, error):
    with pytest.raises(ValueError, match=re.escape(error)):
        train(composed("refused", *words))
    assert not (tmp_path / "refused/metrics.jsonl").exists()


def test_a_share_of_nothing_is_refused(compose_tiny):
    with pytest.raises(ValueError, match="there is nothing to hold out"):
        train(compose_tiny("data.holdout=0.5"))
