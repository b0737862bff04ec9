"""All kinds of stochastic state through the same tests, against torch.distributions."""

import pytest
import torch
import torch.distributions as td
import torch.nn.functional as F
from tiny import BINARY, CATEGORICAL, GAUSSIAN, B, K, S, T
from torch.testing import assert_close

from dreamer.models.latents import BinaryLatent, CategoricalLatent, GaussianLatent

DRAWS = 20_000
LATENTS = {"categorical": CATEGORICAL, "gaussian": GAUSSIAN, "binary": BINARY}
every = pytest.mark.parametrize("latent", LATENTS.values(), ids=LATENTS)


def torchs(latent, stats: torch.Tensor) -> td.Distribution:
    """The same distribution over (S, K) if categorical, else over (S,)."""
    if latent is CATEGORICAL:
        return td.Independent(td.OneHotCategorical(logits=stats), 1)
    if latent is BINARY:
        return td.Independent(td.Bernoulli(logits=stats[..., 0]), 1)
    return td.Independent(td.Normal(stats[..., 0], 2 * (stats[..., 1] / 2).sigmoid() + 0.1), 1)


def statistics(latent, *leading: int) -> torch.Tensor:
    return torch.randn(*leading, S, latent.statistics)


def draw(latent, stats: torch.Tensor) -> torch.Tensor:
    return latent.sample(stats, latent.draw_noise(stats))


@every
def test_shapes_are_those_of_the_protocol(latent):
    stats = latent.to_stats(torch.randn(T, B, S * latent.statistics))
    sample = draw(latent, stats)
    assert stats.shape == (T, B, S, latent.statistics)
    assert sample.shape == latent.mode(stats).shape == (T, B, S, latent.classes)
    for number in (
        latent.kl_divergence(stats, stats),
        latent.entropy(stats),
        latent.log_prob(stats, sample),
    ):
        assert number.shape == (T, B)


@every
def test_entropy_and_log_prob_agree_with_torch(latent):
    stats = statistics(latent, T, B)
    value = draw(latent, stats)
    torch_value = value if latent is CATEGORICAL else value.squeeze(-1)
    assert_close(latent.entropy(stats), torchs(latent, stats).entropy())
    assert_close(latent.log_prob(stats, value), torchs(latent, stats).log_prob(torch_value))


@every
def test_kl_agrees_with_torch_and_is_positive_unless_both_are_equal(latent):
    left, right = statistics(latent, T, B), statistics(latent, T, B)
    divergence = latent.kl_divergence(left, right)
    assert_close(divergence, td.kl_divergence(torchs(latent, left), torchs(latent, right)))
    assert (divergence > 0).all()
    assert_close(latent.kl_divergence(left, left), torch.zeros(T, B))


@every
def test_kl_gradients_stay_finite_for_extreme_statistics(latent):
    left = (50 * statistics(latent, T, B)).requires_grad_()
    right = (50 * statistics(latent, T, B)).requires_grad_()
    latent.kl_divergence(left, right).sum().backward()
    assert left.grad.isfinite().all()
    assert right.grad.isfinite().all()


@every
def test_sample_passes_a_gradient_to_all_statistics(latent):
    stats = statistics(latent, T, B).requires_grad_()
    sample = draw(latent, stats)
    (sample * torch.randn_like(sample)).sum().backward()
    assert (stats.grad != 0).all()


@every
def test_same_noise_gives_the_same_sample_and_no_noise_the_mode(latent):
    stats = statistics(latent, T, B)
    noise = latent.draw_noise(stats)
    assert_close(latent.sample(stats, noise), latent.sample(stats, noise))
    assert_close(latent.sample(stats, torch.zeros_like(noise)), latent.mode(stats))


@every
def test_samples_have_the_mean_and_spread_of_their_distribution(latent):
    stats = statistics(latent)
    samples = draw(latent, stats.expand(DRAWS, *stats.shape)).squeeze(-1)
    expected = torchs(latent, stats)
    assert_close(samples.mean(0), expected.mean, atol=0.03, rtol=0)
    assert_close(samples.std(0), expected.stddev, atol=0.03, rtol=0)


def test_noise_of_expanded_statistics_differs_from_step_to_step():
    for latent in LATENTS.values():
        stats = statistics(latent, B)
        noise = latent.draw_noise(stats.expand(T, *stats.shape))
        assert (noise[0] != noise[1]).all()


def test_categorical_outputs_are_rows_of_logits_and_gaussian_ones_all_means_first():
    outputs = torch.arange(float(S * K))
    assert_close(CATEGORICAL.to_stats(outputs)[1], outputs[K : 2 * K])
    assert_close(GAUSSIAN.to_stats(outputs[: 2 * S])[:, 0], outputs[:S])
    assert_close(GAUSSIAN.to_stats(outputs[: 2 * S])[:, 1], outputs[S : 2 * S])


@every
def test_statistics_are_float32_at_any_precision_of_the_network(latent):
    outputs = torch.randn(B, S * latent.statistics, dtype=torch.bfloat16)
    assert latent.to_stats(outputs).dtype == torch.float32


@pytest.mark.parametrize(
    ("activation", "std"),
    [
        ("softplus", F.softplus),
        ("sigmoid", torch.sigmoid),
        ("sigmoid2", lambda x: 1 + torch.tanh(x / 4)),
        ("double_sigmoid", lambda x: 1 + torch.tanh(x / 2)),
    ],
)
def test_gaussian_width_is_the_activation_above_its_minimum(activation, std):
    raw = torch.linspace(-5, 5, S)
    stats = torch.stack([torch.zeros(S), raw], -1)
    assert_close(GaussianLatent(S, activation, 0.3).mean_std(stats)[1], std(raw) + 0.3)


def test_impossible_latents_are_refused():
    with pytest.raises(ValueError, match="`classes` must be at least 2, got 1"):
        CategoricalLatent(4, 1)
    with pytest.raises(ValueError, match="`variables` must be at least 1, got 0"):
        GaussianLatent(0, "softplus", 0.1)
    with pytest.raises(ValueError, match="`variables` must be at least 1, got 0"):
        BinaryLatent(0)
    with pytest.raises(ValueError, match="`std_activation` must be softplus, .*, got `exp`"):
        GaussianLatent(S, "exp", 0.1)


def test_bits_are_zeros_and_ones_with_the_gradient_of_their_probability():
    stats = statistics(BINARY, T, B).requires_grad_()
    sample = draw(BINARY, stats)
    assert set(sample.unique().tolist()) == {0.0, 1.0}
    weights = torch.randn_like(sample)
    (sample * weights).sum().backward()
    probs = stats.detach().sigmoid()
    assert_close(stats.grad, weights * probs * (1 - probs))
