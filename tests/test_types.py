"""The layout of states and trajectories, which every other file relies on."""

import torch
from tiny import A, B, D, H, K, N, S, T
from torch.testing import assert_close

from dreamer.types import OneHotFeatures, RSSMState, Trajectory


def state() -> RSSMState:
    torch.manual_seed(0)
    parts = torch.randn(T, B, D), torch.randn(T, B, S, K), torch.randn(T, B, S, K)
    return RSSMState(*(x.requires_grad_() for x in parts))


def test_features_are_the_stochastic_part_row_by_row_then_the_deterministic_part():
    full = state()
    assert full.features.shape == (T, B, S * K + D)
    assert_close(full.features[..., K : 2 * K], full.stoch[..., 1, :])
    assert_close(full.features[..., -D:], full.deter)


def test_flatten_time_keeps_the_batch_together():
    full, flat = state(), state().flatten_time()
    assert flat.stats.shape == (N, S, K)
    assert_close(flat.deter[2 * B + 1], full.deter[2, 1])
    assert_close(flat.stoch[2 * B + 1], full.stoch[2, 1])


def test_at_picks_one_step():
    full = state()
    assert_close(tuple(full.at(-1)), tuple(x[T - 1] for x in full))


def test_detached_states_and_trajectories_have_the_numbers_but_no_graph():
    full = state()
    trajectory = Trajectory(
        full.features[: H + 1],
        torch.randn(H + 1, B, A, requires_grad=True),
        torch.randn(H + 1, B, requires_grad=True),
        torch.rand(H + 1, B, requires_grad=True),
    )
    for graph, constant in (full, full.detach()), (trajectory, trajectory.detach()):
        assert_close(tuple(constant), tuple(x.detach() for x in graph))
        assert all(x.requires_grad for x in graph)
        assert not any(x.requires_grad for x in constant)


def one_hot_features() -> tuple[OneHotFeatures, torch.Tensor]:
    """Features (T, B, ...) by the positions of their ones, and the same written out."""
    torch.manual_seed(0)
    classes, deter = torch.randint(K, (T, B, S)), torch.randn(T, B, D)
    classes[..., 0] = 1  # and never another
    rows = torch.nn.functional.one_hot(classes, K).flatten(-2).float()
    return OneHotFeatures(classes + K * torch.arange(S), deter), torch.cat([rows, deter], -1)


def test_a_dense_layer_of_positions_is_that_of_the_rows_gradients_included():
    features, dense = one_hot_features()
    weight, bias = torch.randn(5, S * K + D, requires_grad=True), torch.randn(5, requires_grad=True)
    looked_up = features.linear(weight, bias)
    product = torch.nn.functional.linear(dense, weight, bias)
    assert_close(looked_up, product)
    upstream = torch.randn(T, B, 5)
    assert_close(
        torch.autograd.grad(looked_up, (weight, bias), upstream),
        torch.autograd.grad(product, (weight, bias), upstream),
    )


def test_positions_are_sliced_along_time_as_rows_are():
    features, dense = one_hot_features()
    weight, bias = torch.randn(5, S * K + D), torch.zeros(5)
    assert_close(features[1:-2].detach().linear(weight, bias), (dense @ weight.T)[1:-2])


def test_positions_keep_the_rows_of_weights_when_asked_to():
    features, dense = one_hot_features()
    weight, bias = torch.randn(5, S * K + D), torch.zeros(5)
    keeping = OneHotFeatures(features.ones, features.deter, {})
    for _ in range(2):
        assert_close(keeping.linear(weight, bias), dense @ weight.T)
    assert_close(keeping.rows, {weight: weight[:, : S * K].T})
