"""Densities against numeric integration and torch.distributions; samples and their gradients."""

import math

import pytest
import torch
import torch.distributions as td
from tiny import CHOICES, A, B, K, T
from torch.testing import assert_close

from dreamer.bounded_normals import TanhNormal, TruncatedNormal
from dreamer.distributions import (
    Bernoulli,
    Normal,
    OneHot,
    OneHots,
    explore,
    gumbel_like,
)

DRAWS = 20_000


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# One-hot


def test_one_hot_agrees_with_torch():
    logits = 3 * torch.randn(T, B, K)
    ours, torchs = OneHot(logits), td.OneHotCategorical(logits=logits)
    value = torchs.sample()
    assert_close(ours.log_prob(value), torchs.log_prob(value))
    assert_close(ours.entropy, torchs.entropy())
    assert_close(ours.mean, torchs.mean)
    assert_close(ours.mode, torchs.mode)


def test_one_hot_samples_are_one_hot_and_as_frequent_as_their_probabilities():
    probs = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05, 0.0])
    samples = OneHot(probs.log().expand(DRAWS, K)).sample()
    assert_close(samples.sum(-1), torch.ones(DRAWS))
    assert_close(samples.max(-1).values, torch.ones(DRAWS))
    assert_close(samples.mean(0), probs, atol=0.01, rtol=0)


def test_one_hot_straight_through_gradient_is_that_of_the_softmax():
    logits = torch.randn(T, B, K, requires_grad=True)
    direction = torch.randn(T, B, K)
    through_sample = torch.autograd.grad((OneHot(logits).sample() * direction).sum(), logits)
    through_softmax = torch.autograd.grad((logits.softmax(-1) * direction).sum(), logits)
    assert_close(through_sample, through_softmax)


def test_one_hot_mode_and_label_carry_no_gradient():
    logits = torch.randn(B, K, requires_grad=True)
    label = OneHot(logits).sample()
    assert not OneHot(logits).mode.requires_grad
    (gradient,) = torch.autograd.grad(
        OneHot(logits.detach()).log_prob(label).sum() + 0 * logits.sum(), logits
    )
    assert not gradient.any()


def test_gumbel_noise_has_the_mean_and_spread_of_a_standard_gumbel():
    noise = gumbel_like(torch.empty(DRAWS))
    assert_close(noise.mean(), torch.tensor(0.5772), atol=0.03, rtol=0)
    assert_close(noise.std(), torch.tensor(math.pi / 6**0.5), atol=0.03, rtol=0)


def test_statistics_are_float32_at_any_precision_of_the_network():
    half = torch.zeros(B, K, dtype=torch.bfloat16)
    for distribution in (OneHot(half), Normal(half), Bernoulli(half), TruncatedNormal(half, half)):
        assert distribution.mean.dtype == torch.float32


# Normal and Bernoulli


@pytest.mark.parametrize("event_dims", [0, 1, 2])
def test_normal_agrees_with_torch(event_dims):
    mean, std = torch.randn(T, B, K), torch.rand(T, B, K) + 0.1
    value = torch.randn(T, B, K)
    ours, torchs = (
        Normal(mean, std, event_dims),
        td.Independent(td.Normal(mean, std), event_dims),
    )
    assert_close(ours.log_prob(value), torchs.log_prob(value))
    assert_close(ours.entropy, torchs.entropy())
    assert_close(ours.mode, mean)


def test_normal_of_unit_width_has_the_entropy_of_all_its_entries():
    assert_close(Normal(torch.zeros(B, K), 1.0, 1).entropy, torch.full((B,), K * 1.4189385))


def test_normal_sample_is_reparameterised():
    mean, std = torch.randn(B, K, requires_grad=True), torch.rand(B, K, requires_grad=True)
    noise = torch.randn(B, K)
    Normal(mean, std).sample(noise).sum().backward()
    assert_close(mean.grad, torch.ones(B, K))
    assert_close(std.grad, noise)


@pytest.mark.parametrize("event_dims", [0, 1, 2])
def test_bernoulli_agrees_with_torch(event_dims):
    logits, value = 3 * torch.randn(T, B, K), torch.randint(2, (T, B, K)).float()
    ours, torchs = (
        Bernoulli(logits, event_dims),
        td.Independent(td.Bernoulli(logits=logits), event_dims),
    )
    assert_close(ours.log_prob(value), torchs.log_prob(value))
    assert_close(ours.entropy, torchs.entropy())
    assert_close(ours.mean, torchs.mean)
    assert_close(ours.mode, (torchs.mean > 0.5).float())


def test_bernoulli_learns_a_soft_label_as_its_mean():
    label = 0.997
    logits = torch.tensor(label).logit().requires_grad_()
    distribution = Bernoulli(logits)
    log_prob = distribution.log_prob(torch.tensor(label))
    expected = label * math.log(label) + (1 - label) * math.log(1 - label)
    assert_close(log_prob.item(), expected, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(log_prob, logits)
    assert_close(gradient, torch.tensor(0.0), atol=1e-6, rtol=0)


def test_bernoulli_stays_finite_when_it_is_certain():
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    log_prob = Bernoulli(logits).log_prob(torch.tensor([1.0, 0.0]))
    assert_close(log_prob, torch.tensor([-200.0, -200.0]))
    assert torch.autograd.grad(log_prob.sum(), logits)[0].isfinite().all()


def test_bernoulli_samples_are_as_frequent_as_their_probability():
    samples = Bernoulli(torch.tensor(0.3).logit().expand(DRAWS)).sample()
    assert_close(samples.mean(), torch.tensor(0.3), atol=0.01, rtol=0)


# Truncated normal

LOC_SCALE = [(0.0, 1.0), (0.3, 0.5), (-0.9, 0.1), (0.999, 0.1), (-0.999, 0.1), (0.95, 2.1)]
LOC_SCALE += [(-1.9, 0.2), (1.9, 0.2)]  # only a tail lies between the bounds


def truncated_normal(loc: float, scale: float, **options) -> TruncatedNormal:
    return TruncatedNormal(torch.tensor(loc), torch.tensor(scale), **options)


def integrate(density: torch.Tensor, x: torch.Tensor) -> float:
    return torch.trapezoid(density.double(), x.double()).item()


@pytest.mark.parametrize(("loc", "scale"), LOC_SCALE)
def test_truncated_normal_density_mean_and_entropy_agree_with_integrals(loc, scale):
    distribution = truncated_normal(loc, scale)
    x = torch.linspace(-1, 1, 20_001)
    log_prob = distribution.log_prob(x)
    density = log_prob.exp()
    assert integrate(density, x) == pytest.approx(1, abs=1e-4)
    assert distribution.mean.item() == pytest.approx(integrate(density * x, x), abs=1e-4)
    assert distribution.entropy.item() == pytest.approx(-integrate(density * log_prob, x), abs=1e-3)


def test_truncated_normal_has_the_shape_of_the_normal_inside_its_bounds():
    distribution, normal = truncated_normal(0.3, 0.5), td.Normal(0.3, 0.5)
    x, y = torch.tensor(-0.6), torch.tensor(0.9)
    assert_close(
        distribution.log_prob(x) - distribution.log_prob(y), normal.log_prob(x) - normal.log_prob(y)
    )
    assert_close(distribution.mode, torch.tensor(0.3))


def test_truncated_normal_sums_its_events():
    loc, scale = torch.rand(T, B, A) - 0.5, torch.rand(T, B, A) + 0.1
    one, whole = TruncatedNormal(loc, scale), TruncatedNormal(loc, scale, event_dims=1)
    value = one.sample()
    assert_close(whole.log_prob(value), one.log_prob(value).sum(-1))
    assert_close(whole.entropy, one.entropy.sum(-1))


def quantile(loc: float, scale: float, noise: float) -> float:
    """Inverse of the truncated distribution function, by bisection in double precision."""

    def mass(x):  # of the normal, from the nearer tail, where no digit is lost
        low, high, x = (((y - loc) / scale / 2**0.5) for y in (-1, 1, x))
        if loc < 0:  # the upper tail
            return 1 - (math.erfc(x) - math.erfc(high)) / (math.erfc(low) - math.erfc(high))
        return (math.erfc(-x) - math.erfc(-low)) / (math.erfc(-high) - math.erfc(-low))

    left, right = -1.0, 1.0
    for _ in range(60):
        middle = (left + right) / 2
        left, right = (middle, right) if mass(middle) < noise else (left, middle)
    return (left + right) / 2


NOISE = [0.01, 0.37, 0.93]


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize(("loc", "scale"), LOC_SCALE)
def test_truncated_normal_sample_is_the_quantile_of_its_noise(loc, scale, noise):
    sample = truncated_normal(loc, scale).sample(torch.tensor(noise)).item()
    assert sample == pytest.approx(quantile(loc, scale, noise), abs=1e-5)


def sample_gradient(loc: float, scale: float, noise: float, gradient: str) -> list[float]:
    parameters = torch.tensor([loc, scale], requires_grad=True)
    sample = TruncatedNormal(*parameters, gradient=gradient).sample(torch.tensor(noise))
    return torch.autograd.grad(sample, parameters)[0].tolist()


@pytest.mark.parametrize("noise", [*NOISE, 1e-6, 0.999999])
@pytest.mark.parametrize(("loc", "scale"), LOC_SCALE)
def test_truncated_normal_exact_gradient_is_that_of_the_quantile(loc, scale, noise):
    loc, scale, noise = (torch.tensor(x).item() for x in (loc, scale, noise))  # as float32
    step = 1e-5
    expected = [
        (quantile(loc + step, scale, noise) - quantile(loc - step, scale, noise)) / 2 / step,
        (quantile(loc, scale + step, noise) - quantile(loc, scale - step, noise)) / 2 / step,
    ]
    assert sample_gradient(loc, scale, noise, "exact") == pytest.approx(
        expected, abs=1e-4, rel=1e-3
    )


def test_truncated_normal_reference_gradient_ignores_that_the_bounds_stay():
    loc, scale, noise = 0.3, 0.5, 0.8
    x = quantile(loc, scale, noise)
    biased = sample_gradient(loc, scale, noise, "reference")
    assert biased == pytest.approx([1.0, (x - loc) / scale], abs=1e-4)
    assert biased != pytest.approx(sample_gradient(loc, scale, noise, "exact"), abs=0.1)


@pytest.mark.parametrize("loc", [-1.0, -0.999999, 0.0, 0.999999, 1.0])
@pytest.mark.parametrize("scale", [0.01, 0.1, 2.1, 100.0])
def test_truncated_normal_samples_stay_inside_their_bounds(loc, scale):
    noise = torch.tensor([0.0, 1e-30, 2**-24, 0.5, 1 - 2**-24, 1.0])
    distribution = TruncatedNormal(torch.full((6,), loc), torch.full((6,), scale))
    sample = distribution.sample(noise)
    assert sample.abs().max() < 1
    assert distribution.log_prob(sample).isfinite().all()


@pytest.mark.parametrize("loc", [-0.999, 0.999])
def test_truncated_normal_is_finite_with_its_gradients_beside_a_bound(loc):
    parameters = torch.tensor([loc, 0.1], requires_grad=True)
    distribution = TruncatedNormal(*parameters)
    edges = distribution.sample(torch.tensor([0.0, 0.5, 1.0]))
    results = torch.cat(
        [
            edges,
            distribution.log_prob(torch.linspace(-1, 1, 5)),
            torch.stack([distribution.entropy, distribution.mean]),
        ]
    )
    assert results.isfinite().all()
    for result in results:
        assert torch.autograd.grad(result, parameters, retain_graph=True)[0].isfinite().all()


# Tanh normal


def evenly_spread_noise(count: int, *shape: int) -> torch.Tensor:
    """Quantiles of the standard normal: as a sample, but without its chance."""
    quantiles = torch.special.ndtri((torch.arange(count) + 0.5) / count)
    return quantiles.view(count, *[1] * len(shape)).expand(count, *shape)


def test_tanh_normal_density_is_that_of_a_change_of_variables():
    loc, scale = torch.randn(T, B, A), torch.rand(T, B, A) + 0.1
    squashed = td.TransformedDistribution(td.Normal(loc, scale), td.TanhTransform())
    value = (torch.rand(T, B, A) * 2 - 1) * 0.99
    ours = TanhNormal(loc, scale, event_dims=1).log_prob(value)
    assert_close(ours, squashed.log_prob(value).sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 0.3), (0.7, 0.5), (-1.0, 0.2)])
def test_tanh_normal_density_mean_and_entropy_agree_with_integrals(loc, scale):
    parameters = torch.tensor([loc, scale])
    distribution = TanhNormal(*parameters, noise=evenly_spread_noise(2000))
    x = torch.linspace(-0.9999, 0.9999, 20_001)
    log_prob = distribution.log_prob(x)
    density = log_prob.exp()
    assert integrate(density, x) == pytest.approx(1, abs=1e-3)
    assert distribution.mean.item() == pytest.approx(integrate(density * x, x), abs=2e-3)
    assert distribution.entropy.item() == pytest.approx(-integrate(density * log_prob, x), abs=2e-2)


def test_tanh_normal_mode_is_the_likeliest_of_its_samples():
    noise = torch.randn(TanhNormal.samples, 1, A)
    distribution = TanhNormal(torch.ones(1, A), torch.ones(1, A), event_dims=1, noise=noise)
    drawn = distribution.log_prob((1 + noise).tanh())
    assert_close(distribution.log_prob(distribution.mode), drawn.max(0).values)


def test_tanh_normal_counts_saturated_actions_with_finite_gradients():
    loc = torch.zeros(A, requires_grad=True)
    log_prob = TanhNormal(loc, torch.ones(A)).log_prob(torch.tensor([-1.0, 1.0]))
    assert log_prob.isfinite().all()
    assert torch.autograd.grad(log_prob.sum(), loc)[0].isfinite().all()


def test_tanh_normal_sample_is_the_squashed_normal_sample():
    noise = torch.randn(B, A)
    loc, scale = torch.randn(B, A), torch.rand(B, A)
    assert_close(TanhNormal(loc, scale).sample(noise), torch.tanh(loc + scale * noise))


# Several choices at once


def test_choices_at_once_agree_with_torch_choice_by_choice():
    logits = 3 * torch.randn(T, B, CHOICES.size)
    ours = OneHots(logits, CHOICES.choices)
    torchs = [td.OneHotCategorical(logits=x) for x in logits.split(CHOICES.choices, -1)]
    values = [x.sample() for x in torchs]
    expected = sum(x.log_prob(value) for x, value in zip(torchs, values, strict=True))
    assert_close(ours.log_prob(torch.cat(values, -1)), expected)
    assert_close(ours.entropy, sum(x.entropy() for x in torchs))
    assert_close(ours.mean, torch.cat([x.mean for x in torchs], -1))
    assert_close(ours.mode, torch.cat([x.mode for x in torchs], -1))


def test_choices_at_once_are_sampled_each_as_alone_with_its_part_of_the_noise():
    logits = torch.randn(T, B, CHOICES.size)
    noise = gumbel_like(logits)
    pairs = zip(logits.split(CHOICES.choices, -1), noise.split(CHOICES.choices, -1), strict=True)
    expected = torch.cat([OneHot(part).sample(draw) for part, draw in pairs], -1)
    assert_close(OneHots(logits, CHOICES.choices).sample(noise), expected)


def test_choices_at_once_are_as_frequent_as_their_probabilities():
    dist = OneHots(torch.randn(CHOICES.size).expand(DRAWS, -1), CHOICES.choices)
    assert_close(dist.sample().mean(0), dist.mean[0], atol=0.012, rtol=0)


def test_choices_at_once_pass_the_gradient_of_their_probabilities_straight_through():
    logits = torch.randn(T, B, CHOICES.size, requires_grad=True)
    direction = torch.randn(T, B, CHOICES.size)
    dist = OneHots(logits, CHOICES.choices)
    through_sample = torch.autograd.grad((dist.sample() * direction).sum(), logits)
    through_mean = torch.autograd.grad((dist.mean * direction).sum(), logits)
    assert_close(through_sample, through_mean)


def test_a_single_choice_is_the_plain_one_hot():
    logits = torch.randn(T, B, K)
    noise = gumbel_like(logits)
    one, alone = OneHots(logits, (K,)), OneHot(logits)
    assert one.sample(noise).equal(alone.sample(noise))
    assert one.entropy.equal(alone.entropy)


# Exploration


def test_exploration_replaces_each_of_several_choices_on_its_own():
    action = torch.tensor([0.0, 1, 0, 1, 0]).expand(DRAWS, 5)
    samples = explore(action, 0.3, True, (3, 2)).sample()
    expected = torch.tensor([0.1, 0.8, 0.1, 0.85, 0.15])
    assert_close(samples.mean(0), expected, atol=0.012, rtol=0)
    both_kept = (samples * action).sum(-1) == 2
    assert_close(both_kept.float().mean(), torch.tensor(0.8 * 0.85), atol=0.012, rtol=0)


def test_discrete_exploration_replaces_an_action_by_a_uniform_one():
    action = torch.eye(K)[2].expand(DRAWS, K)
    samples = explore(action, 0.3, discrete=True).sample()
    expected = torch.full((K,), 0.3 / K)
    expected[2] += 0.7
    assert_close(samples.mean(0), expected, atol=0.01, rtol=0)


def test_continuous_exploration_adds_noise_of_the_given_width():
    action = torch.tensor([0.5, -0.2]).expand(DRAWS, A)
    samples = explore(action, 0.3, discrete=False).sample()
    assert_close(samples.mean(0), action[0], atol=0.01, rtol=0)
    assert_close(samples.std(0), torch.full((A,), 0.3), atol=0.01, rtol=0)
