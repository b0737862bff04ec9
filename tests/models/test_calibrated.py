"""Normals whose standard deviation follows from their errors."""

import copy
import math

import pytest
import torch
from tiny import VECTORS, WORLD_MODEL, A, gradients_of, head, make_batch
from torch.testing import assert_close

from dreamer.models.calibrated import (
    FLOOR,
    CalibratedDecoderConfig,
    CalibratedHeadConfig,
    CalibratedLayer,
    CalibratedWorldModel,
    CalibratedWorldModelConfig,
)
from dreamer.models.reward_heads import CategoricalRewardConfig

SHAPE = (2,)
NOISE = torch.rand(7, 3, 4, 6)
STD = torch.tensor([0.03, 20.0])


def make_layer(min_std=0.01):
    torch.manual_seed(0)
    return CalibratedLayer(4, SHAPE, min_std)


def with_reward(**options):
    plain = {k: v for k, v in vars(head()).items() if k != "distribution"}
    make = CategoricalRewardConfig if "categorical" in options.values() else CalibratedHeadConfig
    reward = make(**plain, gradients=True, scale=1.0, **options)
    return {**WORLD_MODEL.heads, "reward": reward}


def make_model(**change) -> CalibratedWorldModel:
    options = vars(WORLD_MODEL) | {
        "decoder": CalibratedDecoderConfig(**vars(WORLD_MODEL.decoder)),
        "heads": with_reward(distribution="mse"),
        "reward_transform": "identity",
    }
    torch.manual_seed(0)
    model = CalibratedWorldModelConfig(**options | change).build(VECTORS, A)
    assert isinstance(model, CalibratedWorldModel)
    return model


def test_the_standard_deviation_becomes_that_of_the_errors():
    layer, x = make_layer(), torch.randn(500, 4)
    for _ in range(50):
        prediction = layer(x)
        value = prediction.mean.detach() + STD * torch.randn(500, 2)
        log_prob = prediction.log_prob(value)
    assert_close(layer.running_std, STD, rtol=0.05, atol=0)
    assert_close(layer(x).std, layer.running_std)
    # The loss of the most likely normal.
    expected = -(0.5 + 0.5 * math.log(2 * math.pi) + STD.log()).sum()
    assert_close(log_prob.mean(), expected, rtol=0.05, atol=0)


def test_the_loss_means_the_same_in_other_units():
    x, value = torch.randn(50, 4), torch.randn(50, 2)
    losses, gradients = [], []
    for unit in (1.0, 1000.0):
        layer = make_layer()
        with torch.no_grad():
            for weight in layer.parameters():
                weight.mul_(unit)
        loss = -layer(x).log_prob(unit * value).mean()
        (gradient,) = torch.autograd.grad(loss, layer.out.weight)
        losses.append(loss.detach())
        gradients.append(unit * gradient)
    assert_close(losses[1] - losses[0], torch.tensor(2 * math.log(1000.0)), rtol=1e-4, atol=0)
    assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_perfect_predictions_keep_a_share_of_the_spread():
    layer, x = make_layer(min_std=0.1), torch.randn(5000, 4)
    prediction = layer(x)
    value = prediction.mean.detach()
    prediction.log_prob(value)
    assert_close(layer.running_std, 0.1 * value.std(0), rtol=1e-3, atol=0)
    constant = make_layer()
    constant(x).log_prob(constant(x).mean.detach() * 0)
    assert (constant.running_std >= FLOOR).all()
    assert constant(x).log_prob(torch.zeros(5000, 2)).isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_leave_no_trace(bad):
    """The update stops the run, and what is saved must be fit to go on."""
    batch = make_batch(obs_shapes=VECTORS)
    model = make_model()
    model.loss(batch)
    layers = [x for x in model.modules() if isinstance(x, CalibratedLayer)]
    before = [x.running_std for x in layers]
    rms = model.reward_rms
    broken = {key: torch.full_like(x, bad) for key, x in batch.obs.items()}
    loss = model.loss(batch._replace(obs=broken, reward=torch.full_like(batch.reward, bad))).loss
    assert not loss.isfinite()
    assert_close([x.running_std for x in layers], before, rtol=0, atol=0)
    assert_close(model.reward_rms, rms, rtol=0, atol=0)


def test_only_training_changes_it_and_checkpoints_keep_it():
    layer, x = make_layer(), torch.randn(50, 4)
    layer(x).log_prob(torch.randn(50, 2))
    before = layer.running_std
    with torch.no_grad():
        layer(x).log_prob(100 * torch.randn(50, 2))
    assert_close(layer.running_std, before, rtol=0, atol=0)
    other = make_layer()
    other.load_state_dict(layer.state_dict())
    assert_close(other.running_std, before, rtol=0, atol=0)


def test_the_world_model_calibrates_vectors_and_rewards(optimized):
    model, plain = make_model(), WORLD_MODEL.build(VECTORS, A)
    optimized(model)
    batch = make_batch(obs_shapes=VECTORS)
    model.loss(batch).loss.backward()
    assert all(x.isfinite().all() for x in gradients_of(model).values())
    layers = [x for x in model.modules() if isinstance(x, CalibratedLayer)]
    assert [x.shape for x in layers] == [*VECTORS.values(), ()]
    assert all((x.running_std > 0).all() and x.updates == 1 for x in layers)
    # The weights are those of the plain model, so that one can start from the other.
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]


def test_rewards_are_measured_by_their_root_mean_square():
    batch = make_batch(obs_shapes=VECTORS)
    batch = batch._replace(reward=torch.full_like(batch.reward, 40.0))
    small = batch._replace(reward=batch.reward / 1000)
    outputs = [make_model().loss(x, noise=NOISE) for x in (batch, small)]
    assert_close(outputs[0].metrics["reward_rms"], torch.tensor(40.0))
    assert_close(outputs[1].metrics["reward_rms"], torch.tensor(0.04))
    assert_close(outputs[0].loss, outputs[1].loss)
    model = make_model()
    model.loss(batch)
    assert_close(model.targets(batch)["reward"], torch.ones_like(batch.reward))
    assert_close(model.targets(small)["reward"], torch.full_like(batch.reward, 1e-3))


def test_the_unit_of_rewards_follows_training_slowly_and_is_kept():
    batch = make_batch(obs_shapes=VECTORS)
    none, twos = (batch._replace(reward=torch.full_like(batch.reward, x)) for x in (0.0, 2.0))
    model = make_model()
    assert_close(model.loss(none).metrics["reward_rms"], torch.tensor(1.0))
    assert_close(model.loss(twos).metrics["reward_rms"], torch.tensor(2.0**0.5))  # of 0 and 4
    with torch.no_grad():
        model.loss(none)
    assert_close(model.reward_rms, torch.tensor(2.0**0.5))
    other = make_model()
    other.load_state_dict(model.state_dict())
    assert_close(other.reward_rms, model.reward_rms)
    copied = copy.deepcopy(model)
    copied.reward_square.fill_(9.0)
    assert_close(copied.targets(twos)["reward"], torch.full_like(twos.reward, 2 / 3))
    assert_close(model.targets(twos)["reward"], torch.full_like(twos.reward, 2.0**0.5))


def test_categorical_rewards_are_refused():
    with pytest.raises(ValueError, match="must not be categorical in this world model"):
        make_model(heads=with_reward(distribution="categorical"))


def test_other_likelihoods_are_refused():
    with pytest.raises(ValueError, match="`likelihood` must be normal, got `squared_error`"):
        CalibratedDecoderConfig(**vars(WORLD_MODEL.decoder), likelihood="squared_error")
