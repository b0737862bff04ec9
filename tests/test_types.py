"""The layout of states and trajectories, which every other file relies on."""

import torch
from tiny import A, B, D, H, K, N, S, T
from torch.testing import assert_close

from dreamer.types import RSSMState, Trajectory


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
