"""The actor: which distribution it ends in, how wide that is at first, which noise decides."""

import dataclasses

import pytest
import torch
from tiny import ACTOR, CHOICES, CONTINUOUS, DISCRETE, A, B, D, T
from torch import nn
from torch.testing import assert_close

from dreamer.bounded_normals import TanhNormal, TruncatedNormal
from dreamer.distributions import OneHot, OneHots
from dreamer.models.actor import Actor


def make_actor(action_space=CONTINUOUS, **change) -> Actor:
    return Actor(D, action_space, dataclasses.replace(ACTOR, **change))


@pytest.mark.parametrize(
    ("action_space", "name", "kind"),
    [
        (DISCRETE, "auto", OneHot),
        (CHOICES, "auto", OneHots),
        (CONTINUOUS, "auto", TruncatedNormal),
        (CONTINUOUS, "tanh_normal", TanhNormal),
    ],
)
def test_actions_decide_the_distribution_and_noise_its_sample(action_space, name, kind):
    actor = make_actor(action_space, distribution=name)
    distribution = actor(torch.randn(T, B, D))
    assert type(distribution) is kind
    noise = actor.draw_noise((T, B), torch.device("cpu"))
    first, second = distribution.sample(noise), distribution.sample(noise)
    assert first.shape == (T, B, action_space.size)
    assert torch.equal(first, second)
    assert distribution.log_prob(first.detach()).shape == distribution.entropy.shape == (T, B)


def test_every_dense_layer_has_the_configured_norm_and_activation():
    actor = make_actor(layers=3, norm="layer", activation="tanh")
    assert sum(isinstance(module, nn.LayerNorm) for module in actor.modules()) == 3
    assert {layer.activation for layer in actor.trunk} == {torch.tanh}


@pytest.mark.parametrize(
    ("name", "scale"),
    [("trunc_normal", 2 / (1 + 2.718281828 ** (-1.5)) + 0.2), ("tanh_normal", 3.048587352 + 0.2)],
)
def test_bounded_normals_start_at_the_configured_width(name, scale):
    actor = make_actor(distribution=name, min_std=0.2, init_std=3.0)
    torch.nn.init.zeros_(actor.out.std.weight)
    distribution = actor(torch.randn(B, D))
    actual = distribution.scale if name == "trunc_normal" else distribution.normal.std
    assert_close(actual, torch.full((B, A), scale), rtol=1e-5, atol=0)


def test_bounded_normals_keep_their_location_bounded():
    x = 1e4 * torch.randn(T, B, D)
    assert make_actor(distribution="trunc_normal")(x).loc.abs().max() <= 1
    assert make_actor(distribution="tanh_normal")(x).normal.mean.abs().max() <= 5


@pytest.mark.parametrize(
    ("action_space", "name", "message"),
    [
        (DISCRETE, "normal", "`distribution` must be onehot for discrete actions, got normal"),
        (CONTINUOUS, "onehot", "must be a normal for continuous actions, got onehot"),
    ],
)
def test_distribution_of_the_other_kind_of_actions_is_refused(action_space, name, message):
    with pytest.raises(ValueError, match=message):
        make_actor(action_space, distribution=name)
