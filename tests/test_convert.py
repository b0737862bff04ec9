import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dreamer.convert import (
    Counters,
    load_reference_weights,
    load_variables_pkl,
    reference_parameters,
    variable_names,
)
from dreamer.models.actor_critic import (
    ActorConfig,
    ActorCritic,
    ActorCriticConfig,
    RewardNormConfig,
)
from dreamer.models.heads import HeadConfig
from dreamer.models.latents import CategoricalLatent
from dreamer.models.observations import ObservationConfig, VectorConfig
from dreamer.models.rssm import GRUConfig, RSSMConfig
from dreamer.models.vision import ConvConfig
from dreamer.models.world_model import KLConfig, ModelHeadConfig, WorldModel, WorldModelConfig
from dreamer.types import ActionSpace

GOLDEN = Path(__file__).parent / "golden"
OBS_SHAPES = {"image": (3, 64, 64), "position": (5,), "velocity": (2,)}
ACTIONS = ActionSpace(3, discrete=False)


def make_networks(*, slow_critic: bool = True, deter: int = 7) -> tuple[WorldModel, ActorCritic]:
    """The networks of the run that saved tests/golden/variables.pkl."""

    def observation_config(kernels: list[int], units: list[int]) -> ObservationConfig:
        image = ConvConfig(1, kernels, "elu", "layer")
        return ObservationConfig(".*", ".*", image, VectorConfig(units, "elu", "layer"))

    model = WorldModel(
        WorldModelConfig(
            latent=CategoricalLatent(3, 5),
            rssm=RSSMConfig(deter, 6, "elu", "layer", GRUConfig(layer_norm=True), ensemble=2),
            encoder=observation_config([4, 4, 4, 4], [9, 4]),
            decoder=observation_config([5, 5, 6, 6], [4, 9]),
            heads={
                "reward": ModelHeadConfig(11, 3, "elu", "layer", "mse", gradients=True, scale=1.0),
                "discount": ModelHeadConfig(
                    2, 8, "elu", "none", "binary", gradients=True, scale=1.0
                ),
            },
            kl=KLConfig(0.8, 0.0, forward=False, free_avg=True),
            loss_scales={},
            image_gradients=True,
            reward_transform="tanh",
            discount=0.99,
            iwae_samples=1,
        ),
        OBS_SHAPES,
        ACTIONS.size,
    )
    config = ActorCriticConfig(
        actor=ActorConfig(
            layers=2,
            units=8,
            activation="elu",
            norm="layer",
            distribution="auto",
            min_std=0.1,
            init_std=0.0,
            sample_gradient="exact",
            gradient="auto",
            gradient_mix=0.1,
            entropy_scale=2e-3,
        ),
        critic=HeadConfig(2, 8, "elu", "layer", "mse"),
        reward_norm=RewardNormConfig(1.0, 1.0, 1e-8),
        lambda_=0.95,
        slow_critic=slow_critic,
        slow_critic_updates=100,
        slow_critic_fraction=1.0,
        entropy_in_target=False,
    )
    return model, ActorCritic(config, model.feature_size, ACTIONS)


def reference_weights(*modules: nn.Module) -> dict[str, np.ndarray]:
    return {
        name: weight.to_reference(weight.parameter).copy()
        for module in modules
        for name, weight in reference_parameters(module).items()
    }


def test_variables_pkl_puts_every_array_where_the_authors_have_it():
    networks = make_networks()

    counters = load_variables_pkl(GOLDEN / "variables.pkl", *networks)

    loaded = reference_weights(*networks)
    with np.load(GOLDEN / "variables.npz") as expected:
        assert loaded.keys() == set(expected.files)
        for name in expected.files:
            np.testing.assert_array_equal(loaded[name], expected[name], err_msg=name)
    assert counters == Counters(policy_steps=1234, updates=77)
    assert networks[1].reward_norm.magnitude.item() == 2.5


def test_variables_pkl_of_another_size_is_refused_and_nothing_loaded():
    networks = make_networks(deter=8)
    before = reference_weights(*networks)

    with pytest.raises(ValueError, match=r"wrong shape: rssm/gru/kernel is \(13, 21\) instead of"):
        load_variables_pkl(GOLDEN / "variables.pkl", *networks)

    after = reference_weights(*networks)
    assert all((before[name] == after[name]).all() for name in before)


def test_variables_pkl_of_another_configuration_is_refused():
    with pytest.raises(ValueError, match=r"must hold a tuple of \d+ arrays .* tuple of \d+"):
        load_variables_pkl(GOLDEN / "variables.pkl", *make_networks(slow_critic=False))


def test_without_slow_critic_the_critic_comes_first():
    names = variable_names(*make_networks(slow_critic=False))
    assert "updates" not in names
    assert names.index("critic/dense0/kernel") < names.index("actor/dense0/kernel")
    assert not any(name.startswith("target_critic") for name in names)


class Exploit:
    def __reduce__(self):
        return os.system, ("false",)


@pytest.mark.parametrize("content", [Exploit(), (np.zeros(1), Exploit()), Path("x"), eval])
def test_foreign_pickle_is_refused(content: object, tmp_path: Path):
    path = tmp_path / "variables.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(pickle.UnpicklingError, match="NumPy arrays only"):
        load_variables_pkl(path, *make_networks())


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_pickle_protocol_are_read(protocol: int, tmp_path: Path):
    model, actor_critic = make_networks()
    scalars = {"tfstep": np.int64(1), "updates": np.int64(2), "rewnorm/mag": np.float64(3.0)}
    values = reference_weights(model, actor_critic) | scalars
    path = tmp_path / "variables.pkl"
    arrays = tuple(values[name] for name in variable_names(model, actor_critic))
    path.write_bytes(pickle.dumps(arrays, protocol))
    assert load_variables_pkl(path, model, actor_critic) == Counters(1, 2)


def test_weights_survive_the_way_out_and_in():
    torch.manual_seed(0)
    for source, target in zip(make_networks(), make_networks(), strict=True):
        load_reference_weights(target, reference_weights(source))
        torch.testing.assert_close(dict(target.named_parameters()), dict(source.named_parameters()))


def test_every_parameter_has_a_reference_name():
    for module in make_networks():
        named = {id(weight.parameter) for weight in reference_parameters(module).values()}
        assert named == {id(parameter) for parameter in module.parameters()}


def test_all_wrong_weights_are_named_and_nothing_is_loaded():
    model, _ = make_networks()
    before = reference_weights(model)
    weights = {name: x + 1 for name, x in before.items()}
    del weights["rssm/gru/bias"]
    weights["rssm/gru/biases"] = np.zeros(3)
    weights["reward/out/out/kernel"] = np.zeros((3, 2))

    with pytest.raises(ValueError) as error:
        load_reference_weights(model, weights)

    assert "missing: rssm/gru/bias\n" in str(error.value)
    assert "unexpected: rssm/gru/biases" in str(error.value)
    assert "wrong shape: reward/out/out/kernel is (3, 2) instead of (3, 1)" in str(error.value)
    after = reference_weights(model)
    assert all((before[name] == after[name]).all() for name in before)


def test_networks_that_the_authors_do_not_have_are_refused():
    with pytest.raises(TypeError, match="must be a network of the authors, got ReLU"):
        reference_parameters(nn.ReLU())
