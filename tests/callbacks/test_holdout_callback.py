"""Scores of held-out sequences: what they are, when they are made, and what they leave alone."""

import pytest
import torch
from tiny import DISCRETE, IMAGE, VECTORS, B, T, make_agent, make_batch, weights_of
from torch.testing import assert_close

from dreamer.callbacks.holdout import Holdout, open_loop_errors, score
from dreamer.callbacks.metrics import Metrics
from dreamer.data.holdout import HeldOut
from dreamer.models.vision import preprocess


def held_out(shapes=VECTORS, lengths=(7, 4, 6)):
    mask = torch.arange(T)[:, None] < torch.tensor(lengths)
    return HeldOut(make_batch(DISCRETE, shapes), mask)


def seeded(function, *args):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return function(*args)


def test_padding_does_not_count():
    model, data = make_agent().world_model, held_out()
    changed = data.batch._replace(
        reward=data.batch.reward.where(data.mask, 99.0),
        obs={
            k: x.where(data.mask[..., None], torch.tensor(9.0)) for k, x in data.batch.obs.items()
        },
    )
    other = HeldOut(changed, data.mask)
    assert seeded(score, model, data) == seeded(score, model, other)
    errors = seeded(open_loop_errors, model, data, 2, [1, 2, 3, 5])
    assert errors == seeded(open_loop_errors, model, other, 2, [1, 2, 3, 5])


def test_scores_are_those_of_the_world_models_loss():
    model = make_agent().world_model
    data = held_out(lengths=(T,) * B)
    scores = seeded(score, model, data)
    with torch.no_grad():
        output = seeded(model.loss, data.batch)
    assert scores["holdout/kl"] == pytest.approx(float(output.kl.mean()))
    assert scores["holdout/reward_nll"] == pytest.approx(float(output.losses["reward"]))
    assert scores["holdout/continue_nll"] == pytest.approx(float(output.losses["discount"]))
    for key in VECTORS:
        expected = float(output.obs_losses[key])
        assert scores[f"holdout/observation_nll_{key}"] == pytest.approx(expected)
    assert len(scores) == 3 + len(VECTORS)


def test_errors_are_those_after_that_many_steps_without_observations():
    model, data = make_agent().world_model, held_out(lengths=(T, 4, 3))
    context, horizon = 2, 2
    found = seeded(open_loop_errors, model, data, context, [horizon])
    batch, at = data.batch, context + horizon - 1
    features = seeded(model.open_loop_features, batch, context)
    with torch.no_grad():
        reward = model.heads["reward"](features).mean[at, :2]  # the third sequence is over
        squared = (reward - model.targets(batch)["reward"][at, :2]).square()
        assert found[f"holdout/reward_error_after_{horizon}"] == pytest.approx(
            float(squared.mean())
        )
        for key, prediction in model.decoder(features).items():
            truth = preprocess(batch.obs[key])[at, :2]
            expected = (prediction.mode[at, :2] - truth).square().mean()
            name = f"holdout/observation_error_{key}_after_{horizon}"
            assert found[name] == pytest.approx(float(expected))


def test_open_loop_predictions_do_not_see_what_they_predict():
    model, data = make_agent().world_model, held_out(lengths=(T,) * B)
    obs = {k: torch.cat([x[:3], 0 * x[3:]]) for k, x in data.batch.obs.items()}
    blind = data.batch._replace(obs=obs)
    one, other = (seeded(model.open_loop_features, x, 3) for x in (data.batch, blind))
    assert_close(one, other, rtol=0, atol=0)


def test_horizons_that_no_sequence_reaches_have_no_error():
    model, data = make_agent().world_model, held_out(lengths=(4, 4, 3))
    errors = open_loop_errors(model, data, 3, [1, 2, 50])
    assert {key.rpartition("_")[2] for key in errors} == {"1"}
    assert open_loop_errors(model, data, T, [1]) == {}


class FakeTrainer:
    loggers = ()
    callbacks = ()


def make_callback(tmp_path, data, **changes):
    metrics = Metrics(None, every_frames=10)  # pyright: ignore
    options = dict(every_frames=5, every_updates=None, episodes=3, context=2, horizons=[1])
    options |= dict(sequences=2, fps=10) | changes
    return Holdout(data, metrics, tmp_path, **options), metrics


def test_it_scores_when_due_and_at_the_end_once_and_changes_nothing(tmp_path):
    agent, data = make_agent(), held_out()
    callback, metrics = make_callback(tmp_path, data)
    weights = {k: x.clone() for k, x in weights_of(agent).items()}
    callback.on_start(FakeTrainer(), agent)
    random = torch.get_rng_state()
    for frames in (4, 5, 6):
        agent.frames = frames
        callback.on_update(FakeTrainer(), agent, {}, data.batch)
        assert metrics.written_at.get("holdout/kl") == (None if frames < 5 else 5)
    callback.on_end(FakeTrainer(), agent)
    assert metrics.written_at["holdout/kl"] == 6
    metrics.written_at.clear()
    callback.on_end(FakeTrainer(), agent)
    assert not metrics.written_at
    assert torch.get_rng_state().equal(random)
    assert all(x.equal(weights[k]) for k, x in weights_of(agent).items())


@pytest.mark.slow
def test_it_draws_the_longest_sequences(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "dreamer.callbacks.holdout.log_video",
        lambda loggers, name, images, path, **options: drawn.update({name: (images, path)}),
    )
    agent = make_agent(obs_shapes=IMAGE)
    data = held_out(IMAGE, lengths=(7, 4, 6))
    callback, _ = make_callback(tmp_path, data)
    callback.on_end(FakeTrainer(), agent)
    images, path = drawn["video/holdout_open_loop"]
    assert len(images) == 6  # of the sequences with 7 and 6 steps
    assert path == tmp_path / "videos" / "holdout_open_loop_0000000000.mp4"


def test_a_failure_is_counted_and_the_run_goes_on(tmp_path):
    agent = make_agent()
    data = held_out()
    broken = HeldOut(data.batch._replace(reward=torch.zeros(2, 2)), data.mask)
    callback, metrics = make_callback(tmp_path, broken)
    with pytest.warns(UserWarning, match="the held-out score failed"):
        callback.on_end(FakeTrainer(), agent)
    assert metrics.latest["holdout/failures"] == 1
