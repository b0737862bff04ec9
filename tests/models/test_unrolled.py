"""Sequences unrolled by hand against the loop that defines them, gradients included."""

import pytest
import torch
from test_rssm import make_rssm, sequence
from tiny import CATEGORICAL, B, make_state
from torch.testing import assert_close

import dreamer.models.rssm
from dreamer.models.rssm import RSSM
from dreamer.models.unrolled import unroll
from dreamer.types import RSSMState


@pytest.fixture
def unrolled(monkeypatch) -> list[int]:
    """Grows whenever a sequence is unrolled by hand."""
    calls = []

    def counted(*args):
        calls.append(1)
        return unroll(*args)

    monkeypatch.setattr(dreamer.models.rssm, "unroll", counted)
    return calls


def random_rssm() -> RSSM:
    """One whose biases and norms are no special numbers."""
    rssm = make_rssm()
    for parameter in rssm.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.4)
    return rssm


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("wanted", ["deter", "stoch", "stats", "features"])
def test_values_and_gradients_are_those_of_the_loop(monkeypatch, unrolled, wanted, bf16):
    rssm, start = random_rssm(), make_state(CATEGORICAL, B, requires_grad=True)
    embed, action, is_first, noise = sequence(CATEGORICAL)
    embed.requires_grad_()
    action.requires_grad_()
    inputs = [embed, action, start.deter, start.stoch, *rssm.parameters()]

    def outcome() -> tuple[RSSMState, tuple[torch.Tensor | None, ...]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            states = rssm.observe(embed, action, is_first, start, noise)
            loss = getattr(states, wanted).sin().sum()
            return states, torch.autograd.grad(loss, inputs, allow_unused=True)

    by_hand = outcome()
    assert len(unrolled) == 1
    monkeypatch.setattr(rssm, "unrolls", False)
    by_autograd = outcome()
    assert len(unrolled) == 1
    assert {x.dtype for x in by_hand[0]} == {torch.float32}
    zeros = [torch.zeros_like(x) for x in inputs]  # by hand, an unused weight gets one of these
    gradients = [
        [zero if x is None else x for x, zero in zip(found, zeros, strict=True)]
        for found in (by_hand[1], by_autograd[1])
    ]
    if bf16:
        for found in (by_hand[0], by_autograd[0]), gradients:
            for actual, expected in zip(*found, strict=True):
                assert (actual - expected).norm() <= 0.02 * expected.norm()
    else:
        assert_close(tuple(by_hand[0]), tuple(by_autograd[0]))
        assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_only_what_was_written_for_is_unrolled(unrolled):
    embed, action, is_first, noise = sequence(CATEGORICAL)
    others = (
        make_rssm(activation="relu"),
        make_rssm(norm="layer"),
        make_rssm(layer_norm=False),
    )
    for rssm in others:
        rssm.observe(embed, action, is_first, None, noise)
    assert not unrolled
    make_rssm().observe(embed, action, is_first, None, noise)
    assert unrolled
