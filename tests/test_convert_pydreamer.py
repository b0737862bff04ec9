"""PyDreamer's weights: which of ours each of its arrays is, and its files."""

import dataclasses
import os
import pickle
import re

import pytest
import torch
from tiny import ACTOR_CRITIC, AGENT, CATEGORICAL, IMAGE, RSSM_CONFIG, VECTORS, WORLD_MODEL, A, D
from tiny import model_head as make_head
from torch import Tensor
from torch.testing import assert_close

from dreamer.agent import DreamerAgent
from dreamer.convert import load_pydreamer
from dreamer.convert_pydreamer import load_pydreamer_weights, pydreamer_parameters
from dreamer.kernels import optimize
from dreamer.models.auxiliary_critic import AuxiliaryCriticConfig
from dreamer.models.pydreamer import (
    GateNormGRUConfig,
    PlainGRUConfig,
    PyDreamerRSSMConfig,
    UnbiasedGRUConfig,
    VectorEncoderConfig,
)
from dreamer.models.reward_heads import CategoricalRewardConfig
from dreamer.types import ActionSpace

SUPPORT = (-1.0, 0.5, 2.0)
CONTINUOUS = ActionSpace(A, discrete=False)


def make_networks(cell=PlainGRUConfig, layers: int = 2, *, seed: int = 0):
    """A world model with every part that PyDreamer has, and an actor-critic."""
    torch.manual_seed(seed)
    rssm = PyDreamerRSSMConfig(**{**vars(RSSM_CONFIG), "cell": cell(layers), "norm": "layer"})
    reward = vars(make_head()) | {"distribution": "categorical", "support": SUPPORT}
    critic = dataclasses.replace(ACTOR_CRITIC.critic, distribution="squared_error", norm="layer")
    encoder = dataclasses.replace(
        WORLD_MODEL.encoder, vector=VectorEncoderConfig([11, 7], "elu", "layer")
    )
    config = dataclasses.replace(
        WORLD_MODEL,
        rssm=rssm,
        encoder=encoder,
        heads={"reward": CategoricalRewardConfig(**reward), "terminal": make_head("binary")},
        auxiliary={"critic": AuxiliaryCriticConfig(0.5, 0.9, 0.8, 3, critic)},
        reward_transform="identity",
    )
    model = config.build(IMAGE | VECTORS, A)
    return model, ACTOR_CRITIC.build(model.feature_size, CONTINUOUS)


def state_dict(*networks) -> dict[str, Tensor]:
    """As PyDreamer saves the weights of these networks."""
    found = pydreamer_parameters(*networks)
    state = {name.replace("/", "."): weight.to_reference() for name, weight in found.items()}
    state |= {"wm.decoder.reward._support": torch.tensor(SUPPORT)}
    state |= {"wm.ac_aux.actor.model.0.weight": torch.ones(2, 3)}
    return state | {"probe_model.map_probe.weight": torch.ones(1)}


every_cell = pytest.mark.parametrize(
    "cell", [PlainGRUConfig, GateNormGRUConfig, UnbiasedGRUConfig], ids=lambda c: c.__name__
)


@every_cell
def test_every_weight_is_in_one_array_and_comes_back(cell):
    networks, others = make_networks(cell), make_networks(cell, seed=1)
    weights = pydreamer_parameters(*networks)
    sizes = sum(weight.to_reference().numel() for weight in weights.values())
    assert sizes == sum(p.numel() for network in networks for p in network.parameters())
    assert all(tuple(w.to_reference().shape) == w.shape for w in weights.values())

    load_pydreamer_weights({k: w.to_reference() for k, w in weights.items()} | support(), *others)
    for network, other in zip(networks, others, strict=True):
        assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)


def support() -> dict[str, Tensor]:
    return {"wm/decoder/reward/_support": torch.tensor(SUPPORT)}


def test_features_have_the_deterministic_part_first():
    model, actor_critic = make_networks()
    weight = pydreamer_parameters(model, actor_critic)["ac/critic/model/0/weight"].to_reference()
    ours = actor_critic.critic.trunk[0].linear.weight
    assert_close(weight[:, :D], ours[:, -D:], rtol=0, atol=0)
    assert_close(weight[:, D:], ours[:, :-D], rtol=0, atol=0)


def test_images_are_flattened_channels_first_and_vectors_follow():
    model, _ = make_networks()
    found = pydreamer_parameters(model)["core/cell/post_mlp_e/weight"].to_reference()
    ours = model.rssm.obs_out.linear.weight[:, D:]
    channels = model.encoder.image.convs[-1].out_channels
    image = ours[:, :-7].unflatten(1, (2, 2, channels)).permute(0, 3, 1, 2).flatten(1)
    assert_close(found, torch.cat([image, ours[:, -7:]], 1), rtol=0, atol=0)


def test_mean_and_deviation_of_actions_are_one_matrix():
    model, actor_critic = make_networks()
    name = f"ac/actor/model/{3 * len(actor_critic.actor.trunk)}/bias"
    found = pydreamer_parameters(model, actor_critic)[name].to_reference()
    out = actor_critic.actor.out
    assert_close(found, torch.cat([out.out.bias, out.std.bias]), rtol=0, atol=0)


def test_weights_load_into_networks_with_kernels():
    networks, others = make_networks(), make_networks(seed=1)
    for other in others:
        optimize(other, torch.device("cpu"))  # which stores convolutions channels last
    weights = {k: w.to_reference() for k, w in pydreamer_parameters(*networks).items()}
    load_pydreamer_weights(weights | support(), *others)
    assert_close(others[0].state_dict(), networks[0].state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"epoch": 3, "model_state_dict": x}])
def test_a_file_of_pydreamer_loads(wrap, tmp_path):
    networks, others = make_networks(), make_networks(seed=1)
    torch.save(wrap(state_dict(*networks)), tmp_path / "latest.pt")
    load_pydreamer(tmp_path / "latest.pt", *others)
    for network, other in zip(networks, others, strict=True):
        assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_weights_of_other_networks_are_refused_and_nothing_loaded(tmp_path):
    networks, others = make_networks(), make_networks(layers=1, seed=1)
    before = {k: x.clone() for k, x in others[0].state_dict().items()}
    torch.save(state_dict(*networks), tmp_path / "latest.pt")
    with pytest.raises(ValueError, match=r"unexpected: wm/core/cell/gru/layers/1/bias_hh"):
        load_pydreamer(tmp_path / "latest.pt", *others)
    assert_close(dict(others[0].state_dict()), before, rtol=0, atol=0)


def test_another_support_of_the_rewards_is_refused():
    networks = make_networks()
    weights = {k: w.to_reference() for k, w in pydreamer_parameters(*networks).items()}
    for other in ({"wm/decoder/reward/_support": torch.zeros(3)}, {}):
        with pytest.raises(
            ValueError, match=r"other values: decoder/reward/_support is (\[0|None)"
        ):
            load_pydreamer_weights(weights | other, *networks)


class Exploit:
    def __reduce__(self):
        return os.system, ("false",)


@pytest.mark.parametrize("content", [Exploit(), {"model_state_dict": Exploit()}])
def test_a_file_that_would_run_code_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "latest.pt")
    with pytest.raises(pickle.UnpicklingError, match="damaged or no checkpoint of tensors"):
        load_pydreamer(tmp_path / "latest.pt", *make_networks())


@pytest.mark.parametrize("content", [b"", b"PK", b"no checkpoint"])
def test_a_damaged_file_is_refused(content, tmp_path):
    (tmp_path / "latest.pt").write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match="damaged or no checkpoint of tensors"):
        load_pydreamer(tmp_path / "latest.pt", *make_networks())


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "latest.pt")
    with pytest.raises(ValueError, match="must hold a `state_dict` of tensors, .* got a dict"):
        load_pydreamer(tmp_path / "latest.pt", *make_networks())


def test_networks_that_pydreamer_does_not_have_are_refused():
    plain = dataclasses.replace(WORLD_MODEL).build(VECTORS, A)
    with pytest.raises(TypeError, match=re.escape("must be a VectorEncoder for PyDreamer")):
        pydreamer_parameters(plain)
    rssm = RSSM_CONFIG.build(5, A, CATEGORICAL)
    with pytest.raises(TypeError, match="must be one of PyDreamer's .* got GRUCell; set `cell`"):
        pydreamer_parameters(rssm)


def test_a_run_starts_from_a_file_of_pydreamer(tmp_path):
    from omegaconf import OmegaConf

    from dreamer.run.initial import load_initial

    networks = make_networks()
    torch.save(state_dict(*networks), tmp_path / "latest.pt")
    parts = {"world_model": networks[0].config, "actor_critic": networks[1].config}
    agent = DreamerAgent(dataclasses.replace(AGENT, **parts), IMAGE | VECTORS, CONTINUOUS)
    cfg = OmegaConf.create({"init_from": str(tmp_path / "latest.pt"), "init_weights": "all"})
    lines = load_initial(cfg, agent)
    assert lines["loaded"] == "world model, actor, critic, target critic, reward norm"
    assert_close(agent.world_model.state_dict(), networks[0].state_dict(), rtol=0, atol=0)
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    cfg.init_from = str(tmp_path / "broken.pt")
    with pytest.raises(ValueError, match="`init_from` must be a run folder .* damaged"):
        load_initial(cfg, agent)
