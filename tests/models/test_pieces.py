"""Work in pieces gives the numbers of work as a whole."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from dreamer.models import pieces
from dreamer.models.pieces import in_pieces, score_in_pieces

N, F = 11, 5


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 4)


@pytest.fixture
def layer():
    return nn.Linear(F, F)


def score(layer: nn.Linear):
    return lambda x, target: -(torch.tanh(layer(x)) - target).square().sum(-1)


def test_pieces_put_together_are_the_whole_gradients_included(layer):
    x = torch.randn(N, F, requires_grad=True)
    inputs, upstream = (x, *layer.parameters()), torch.randn(N, F)
    sizes = []

    def function(piece):
        sizes.append(len(piece))
        return layer(piece)

    whole, together = layer(x), in_pieces(function, x)
    assert sizes == [4, 4, 3]
    assert_close(together, whole)
    assert_close(
        torch.autograd.grad(together, inputs, upstream),
        torch.autograd.grad(whole, inputs, upstream),
    )


@pytest.mark.parametrize("constant", [False, True])
def test_scores_and_their_gradients_are_those_of_the_whole(layer, constant):
    x = torch.randn(N, F, requires_grad=not constant)
    target = torch.randn(N, F)
    inputs = [*layer.parameters()] if constant else [x, *layer.parameters()]
    whole = score(layer)(x, target)
    together = score_in_pieces(score(layer), x, target, list(layer.parameters()))
    assert_close(together, whole)
    assert_close(
        torch.autograd.grad(-0.3 * together.mean(), inputs),
        torch.autograd.grad(-0.3 * whole.mean(), inputs),
    )


def test_scores_that_count_differently_are_refused(layer):
    scores = score_in_pieces(
        score(layer), torch.randn(N, F), torch.randn(N, F), list(layer.parameters())
    )
    with pytest.raises(RuntimeError, match="to count the same"):
        (scores * torch.arange(N)).sum().backward()


def test_without_a_graph_scores_are_plain(layer):
    x, target = torch.randn(N, F), torch.randn(N, F)
    with torch.no_grad():
        scores = score_in_pieces(score(layer), x, target, list(layer.parameters()))
    assert_close(scores, score(layer)(x, target))
    assert not scores.requires_grad
