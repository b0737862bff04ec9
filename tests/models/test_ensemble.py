"""The ensemble: what it is trained on, and what its disagreement is."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import PLAN2EXPLORE, B, T
from torch.testing import assert_close

from dreamer.models.ensemble import Ensemble, EnsembleConfig

MEMBERS, INPUTS, TARGETS = 4, 9, 5
CONFIG = replace(PLAN2EXPLORE.ensemble, members=MEMBERS)


def make_ensemble() -> Ensemble:
    torch.manual_seed(0)
    return Ensemble(INPUTS, TARGETS, CONFIG)


def with_constant_predictions(means: torch.Tensor) -> Ensemble:
    """An ensemble whose members predict a row (X,) of the means (K, X) each, whatever the input."""
    ensemble = make_ensemble()
    with torch.no_grad():
        for head, mean in zip(ensemble.heads, means, strict=True):
            head.out.out.weight.zero_()
            head.out.out.bias.copy_(mean)
    return ensemble


def test_disagreement_is_the_population_deviation_averaged_over_the_vector():
    means = torch.tensor([[0.0, 3, 1, 2, 8], [0, 5, 1, 2, 8], [0, 3, 1, 4, 8], [0, 5, 1, 0, 8]])
    # Deviations: 0, sqrt(1), 0, sqrt(2), 0.
    actual = with_constant_predictions(means).disagreement(torch.randn(T, B, INPUTS))
    assert_close(actual, torch.full((T, B), (1 + math.sqrt(2)) / 5))


def test_log_prob_is_summed_over_members_and_over_the_vector():
    means = torch.arange(20.0).reshape(MEMBERS, TARGETS)
    target = torch.randn(T, B, TARGETS)
    expected = torch.zeros(T, B)
    for mean in means:
        for number in range(TARGETS):
            error = target[..., number] - mean[number]
            expected -= error**2 / 2 + math.log(2 * math.pi) / 2
    actual = with_constant_predictions(means).log_prob(torch.randn(T, B, INPUTS), target)
    assert_close(actual, expected)


def test_members_begin_with_weights_of_their_own_and_disagree():
    ensemble = make_ensemble()
    x = torch.randn(T, B, INPUTS)
    means = [head(x).mean for head in ensemble.heads]
    assert len(means) == MEMBERS
    assert not any(torch.isclose(means[0], other).all() for other in means[1:])
    assert (ensemble.disagreement(x) > 0).all()


def test_gradients_of_the_disagreement_reach_its_input():
    x = torch.randn(T, B, INPUTS, requires_grad=True)
    (gradient,) = torch.autograd.grad(make_ensemble().disagreement(x).sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).any(-1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 1}, "`members` must be at least 2, got 1"),
        ({"distribution": "binary"}, "ensemble's `distribution` must be mse, got binary"),
        ({"units": 0}, "`units` must be at least 1, got 0"),
    ],
)
def test_configurations_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EnsembleConfig(**vars(CONFIG) | changes)
