"""PyDreamer's cells by their equations, and what its recurrent model does at a reset."""

import pytest
import torch
from tiny import CATEGORICAL, RSSM_CONFIG, A, B, D, T, make_state
from torch import nn
from torch.testing import assert_close

from dreamer.kernels import optimize
from dreamer.models.observations import VectorConfig
from dreamer.models.pydreamer import (
    GateNormGRU,
    GateNormGRUConfig,
    GRUStack,
    PlainGRU,
    PlainGRUConfig,
    PyDreamerRSSM,
    PyDreamerRSSMConfig,
    UnbiasedGRU,
    UnbiasedGRUConfig,
    VectorEncoderConfig,
)
from dreamer.models.rssm import GRUCell

M = 13
KINDS = {PlainGRUConfig: PlainGRU, GateNormGRUConfig: GateNormGRU, UnbiasedGRUConfig: UnbiasedGRU}
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def make_rssm(config: type = PyDreamerRSSMConfig, **change) -> PyDreamerRSSM:
    fields = {**vars(RSSM_CONFIG), "cell": PlainGRUConfig(1)} | change
    return config(**fields).build(M, A, CATEGORICAL)


def test_plain_gru_is_the_one_of_torch():
    cell, theirs = PlainGRU(M, D), nn.GRUCell(M, D)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    cell.load_state_dict(theirs.state_dict())
    x, deter = torch.randn(B, M), torch.randn(B, D)
    assert_close(cell(x, deter), theirs(x, deter))


def test_plain_gru_begins_with_orthogonal_recurrent_weights():
    cell = make_rssm().gru.layers[0]
    gram = cell.weight_hh.T @ cell.weight_hh
    assert_close(gram, torch.eye(D))
    assert not cell.bias_hh.any() and not cell.bias_ih.any()


def test_unbiased_gru_is_that_of_dreamerv2_with_a_bias_of_zero():
    cell, theirs = UnbiasedGRU(M, D), GRUCell(M, D, layer_norm=True)
    nn.init.zeros_(theirs.linear.bias)
    assert "linear.bias" not in cell.state_dict()
    theirs.load_state_dict(cell.state_dict(), strict=False)
    x, deter = torch.randn(B, M), torch.randn(B, D)
    assert_close(cell(x, deter), theirs(x, deter))


@pytest.mark.parametrize(("update", "kept"), [(9.0, False), (-9.0, True)])
def test_update_gate_of_the_normed_gru_replaces_the_state(update, kept):
    cell = GateNormGRU(M, D)
    nn.init.constant_(cell.ln_update.bias, update)
    nn.init.zeros_(cell.ln_update.weight)
    x, deter = torch.randn(B, M), torch.randn(B, D)
    assert torch.allclose(cell(x, deter), deter, atol=1e-3) is kept


@every_kind
def test_layers_share_the_state_and_feed_each_other(kind):
    stack = kind(2).build(M, D)
    assert [type(cell) for cell in stack.layers] == [KINDS[kind]] * 2
    x, deter = torch.randn(B, M), torch.randn(B, D)
    first, second = stack.layers
    lower = first(x, deter[:, : D // 2])
    upper = second(lower, deter[:, D // 2 :])
    assert_close(stack(x, deter), torch.cat([lower, upper], -1))


@every_kind
def test_states_are_float32_in_mixed_precision(kind):
    stack = kind(2).build(M, D)
    with torch.autocast("cpu", torch.bfloat16):
        assert stack(torch.randn(B, M).bfloat16(), torch.randn(B, D)).dtype == torch.float32


@every_kind
def test_kernels_leave_the_cells_alone(kind):
    rssm = make_rssm(cell=kind(2))
    before = [type(module) for module in rssm.modules()]
    assert optimize(rssm, torch.device("cpu")) == []
    assert [type(module) for module in rssm.modules()] == before
    assert type(rssm.gru) is GRUStack


def test_state_that_the_layers_cannot_share_is_refused():
    with pytest.raises(ValueError, match=f"`deter` must be a multiple of .* `layers`, 3, got {D}"):
        PlainGRUConfig(3).build(M, D)


def test_a_reset_keeps_the_action():
    rssm = make_rssm()
    state, action = make_state(CATEGORICAL, B), torch.randn(B, A)
    prev, kept = rssm.reset(state, action, torch.tensor([True, False, True]))
    assert torch.equal(kept, action)
    assert not prev.deter[0].any() and torch.equal(prev.deter[1], state.deter[1])
    assert not prev.stoch[2].any() and torch.equal(prev.stoch[1], state.stoch[1])


def test_first_step_depends_on_the_action_and_not_on_the_state():
    rssm, is_first = make_rssm(), torch.ones(T, B, dtype=torch.bool)
    embed, action = torch.randn(T, B, M), torch.randn(T, B, A)
    noise = CATEGORICAL.draw_noise(torch.zeros(T, B, 4, 6))
    observed = rssm.observe(embed, action, is_first, make_state(CATEGORICAL, B), noise)
    assert_close(observed, rssm.observe(embed, action, is_first, None, noise))
    other = rssm.observe(embed, action + 1, is_first, None, noise)
    assert not torch.allclose(observed.deter, other.deter)


def test_each_input_of_a_dense_layer_has_initial_weights_of_its_own_size():
    rssm = make_rssm(hidden=400)
    actions = rssm.img_in.linear.weight[:, -A:]
    assert actions.abs().max() > (6 / (rssm.stoch_size + A + 400)) ** 0.5
    assert actions.abs().max() <= (6 / (A + 400)) ** 0.5


def test_vector_encoder_ends_in_a_linear_layer():
    encoder = VectorEncoderConfig([7, 5, 3], "elu", "layer").build(M)
    plain = VectorConfig([7, 5], "elu", "layer").build(M)
    plain.load_state_dict(encoder.trunk.state_dict())
    x = torch.randn(T, B, M)
    assert encoder.output_size == 3
    assert_close(encoder(x), plain(x) @ encoder.out.weight.T + encoder.out.bias)


def test_configurations_are_checked():
    with pytest.raises(ValueError, match="`layers` must be at least 1, got 0"):
        PlainGRUConfig(0)
    with pytest.raises(ValueError, match=r"`layers` must have the size of the linear layer.*\[\]"):
        VectorEncoderConfig([], "elu", "none")
