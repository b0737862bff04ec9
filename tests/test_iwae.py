"""Several posterior samples per sequence: the bound, what is computed once, and a whole update."""

import dataclasses
import math

import pytest
import torch
from tiny import (
    CATEGORICAL,
    DISCRETE,
    GAUSSIAN,
    IMAGE,
    MODEL_LOSS,
    PLAN2EXPLORE,
    VECTORS,
    WORLD_MODEL,
    A,
    B,
    D,
    S,
    T,
    fit,
    make_agent,
    make_batch,
)
from torch.testing import assert_close

from dreamer.losses import importance_weighted, sampled_kl
from dreamer.models.world_model import KLConfig, WorldModel

SAMPLES = 4
SHAPES = IMAGE | VECTORS
both = pytest.mark.parametrize("latent", [CATEGORICAL, GAUSSIAN], ids=["categorical", "gaussian"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make_model(samples: int = SAMPLES, **change) -> WorldModel:
    torch.manual_seed(0)
    config = dataclasses.replace(WORLD_MODEL, iwae_samples=samples, **change)
    return WorldModel(config, SHAPES, A)


def test_bound_is_the_logarithm_of_the_mean_weight():
    loss = torch.randn(T, B, SAMPLES, dtype=torch.float64)
    expected = -torch.stack([(-x).exp() for x in loss.unbind(-1)]).mean(0).log()
    assert_close(importance_weighted(loss), expected)
    assert (importance_weighted(loss) <= loss.mean(-1)).all()
    assert_close(importance_weighted(loss[..., :1]), loss[..., 0])


def test_bound_survives_losses_beyond_the_range_of_exp():
    loss = torch.tensor([[1e4, 1e4 + 1]])
    assert_close(importance_weighted(loss), torch.tensor([1e4 + math.log(2 / (1 + math.exp(-1)))]))


def test_samples_share_the_gradient_by_their_weights():
    loss = torch.randn(T, SAMPLES, requires_grad=True)
    importance_weighted(loss).sum().backward()
    assert_close(loss.grad, (-loss).softmax(-1).detach())


@both
def test_mean_of_the_sampled_kl_is_the_kl(latent):
    posterior, prior = torch.randn(2, S, latent.statistics)
    many = posterior.expand(20_000, *posterior.shape)
    stoch = latent.sample(many, latent.draw_noise(many))
    estimate = sampled_kl(many, prior, stoch, latent.log_prob)
    error = estimate.mean() - latent.kl_divergence(posterior, prior)
    assert error.abs() < 4 * estimate.std() / math.sqrt(len(many))


def test_encoder_runs_once_and_all_else_for_every_sample():
    model, seen = make_model(), []
    model.encoder.register_forward_hook(lambda *call: seen.append(call[2].shape[:2]))
    output = model.loss(make_batch(obs_shapes=SHAPES))
    assert seen == [(T, B)]
    assert output.posterior.deter.shape == (T, B * SAMPLES, D)
    assert output.embed.shape[:2] == output.kl.shape == (T, B * SAMPLES)
    assert output.batch.reward.shape == output.obs_log_probs["image"].shape == (T, B * SAMPLES)
    assert output.loss.shape == ()


def test_samples_of_a_sequence_lie_side_by_side():
    batch = make_batch(obs_shapes=SHAPES)
    repeated = batch.repeat(SAMPLES)
    for i in range(B * SAMPLES):
        assert_close(repeated.reward[:, i], batch.reward[:, i // SAMPLES])
        assert_close(repeated.obs["image"][:, i], batch.obs["image"][:, i // SAMPLES])
    assert batch.repeat(1) is batch


@both
def test_equal_samples_give_the_loss_of_one_with_its_sampled_kl(latent):
    batch, one = make_batch(obs_shapes=SHAPES), make_model(1, latent=latent)
    noise = latent.draw_noise(torch.zeros(T, B, S, latent.statistics))
    single = one.loss(batch, noise=noise)
    several = make_model(latent=latent).loss(batch, noise=noise.repeat_interleave(SAMPLES, 1))
    kl = sampled_kl(
        single.posterior.stats, single.prior_stats, single.posterior.stoch, latent.log_prob
    )
    rest = sum((single.losses | single.obs_losses).values()) - single.losses["kl"]
    assert_close(several.loss, rest + kl.mean())
    assert_close(several.metrics["world_model/kl"], single.metrics["world_model/kl"])


def test_balance_and_free_nats_count_for_one_sample_only():
    batch = make_batch(obs_shapes=SHAPES)
    noise = CATEGORICAL.draw_noise(torch.zeros(T, B * SAMPLES, S, CATEGORICAL.classes))

    def loss(samples: int, balance: float, free_nats: float):
        kl = KLConfig(balance, free_nats, forward=False, free_avg=True)
        drawn = noise[:, : B * samples]
        return make_model(samples, kl=kl).loss(batch, noise=drawn).loss

    assert_close(loss(SAMPLES, 0.8, 0.0), loss(SAMPLES, 0.3, 50.0))
    assert loss(1, 0.8, 0.0) < loss(1, 0.8, 50.0)


@pytest.mark.parametrize("explorer", [PLAN2EXPLORE, MODEL_LOSS], ids=["plan2explore", "model_loss"])
def test_agent_and_explorer_learn_from_all_samples(explorer):
    if explorer is PLAN2EXPLORE:
        explorer = dataclasses.replace(explorer, target="embedding")
    agent = make_agent(
        DISCRETE,
        obs_shapes=SHAPES,
        world_model=dataclasses.replace(WORLD_MODEL, iwae_samples=SAMPLES),
        components={"explore": explorer},
    )
    starts = []

    def step(batch):
        state, metrics = agent.update(batch, starts[-1] if starts else None)
        starts.append(state)
        return metrics

    metrics = fit(agent, [make_batch(obs_shapes=SHAPES, seed=i) for i in range(2)], step)
    assert all(x.isfinite() for update in metrics for x in update.values())
    assert starts[-1].deter.shape == (B * SAMPLES, D)
