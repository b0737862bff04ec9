"""Probes in an agent: what they learn from, whom they leave alone, and what nobody else sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    OPTIMIZER,
    VECTORS,
    WORLD_MODEL,
    fit,
    gradients_of,
    head,
    make_agent,
    make_batch,
    weights_of,
)
from torch.testing import assert_close

from dreamer.components import DrawsPictures
from dreamer.envs.codecs import codec_from_dict
from dreamer.envs.gym_codec import GymCodec
from dreamer.envs.native_codec import NativeCodec
from dreamer.envs.rendering import draw
from dreamer.envs.spaces import GymSpaces, ObservationEncoder
from dreamer.models.probes import ClassImageConfig
from dreamer.policy import DreamerPolicy
from dreamer.probes import PROBE, GoalsProbeConfig, MapAndGoalsProbeConfig, MapProbeConfig, Probe
from dreamer.types import HIDDEN, ActionSpace, Batch, TimeStep

C, H, W, G = 4, 5, 3, 2
TRUTH = {
    "map": (C, H, W),
    "agent_pos": (2,),
    "agent_dir": (2,),
    "map_seen": (H * W,),
    "target_vec": (2,),
    "targets_vec": (2 * G,),
    "goals_visage": (G,),
}
SHAPES = VECTORS | {HIDDEN + key: shape for key, shape in TRUTH.items()}
IMAGE = ClassImageConfig(layers=1, units=9, activation="elu", norm="layer", min_prob=0.0)
HEAD = replace(head(), distribution="squared_error")
MAP = MapProbeConfig(IMAGE, OPTIMIZER)
GOALS = GoalsProbeConfig(HEAD, OPTIMIZER)
BOTH = MapAndGoalsProbeConfig(IMAGE, HEAD, OPTIMIZER)
PROBES = pytest.mark.parametrize("config", [MAP, GOALS, BOTH], ids=["map", "goals", "map_goals"])


def make_truth(batch: Batch) -> Batch:
    """Replace random hidden observations by possible ones."""
    length, size = batch.reward.shape
    cells = torch.nn.functional.one_hot(torch.randint(C, (length, size, H, W)), C)
    truth = {
        "map": cells.movedim(-1, 2).to(torch.uint8),
        "agent_pos": torch.randint(3, (length, size, 2)).float(),
        "agent_dir": torch.eye(2)[torch.randint(2, (length, size))],
        "map_seen": torch.randint(2, (length, size, H * W)).float(),
    }
    return batch._replace(obs=batch.obs | {HIDDEN + key: x for key, x in truth.items()})


def make_probed(config=BOTH, **options):
    return make_agent(obs_shapes=SHAPES, components={PROBE: config}, **options)


def batch_with_truth(seed: int = 0) -> Batch:
    return make_truth(make_batch(obs_shapes=SHAPES, seed=seed))


@PROBES
def test_the_rest_of_the_agent_learns_as_without_a_probe(config):
    batches = [batch_with_truth(seed) for seed in range(2)]
    plain, probed = make_agent(obs_shapes=VECTORS), make_probed(config)
    before = weights_of(probed.components)
    torch.manual_seed(1)
    fit(plain, batches)
    torch.manual_seed(1)
    fit(probed, batches)
    for part in ("world_model", "actor_critic"):
        expected, actual = weights_of(getattr(plain, part)), weights_of(getattr(probed, part))
        assert expected.keys() == actual.keys()
        for name, weight in expected.items():
            assert torch.equal(weight, actual[name]), name
    after = weights_of(probed.components)
    assert all(not torch.equal(after[name], weight) for name, weight in before.items())


def test_metrics_are_of_the_probe_and_mark_what_may_be_nan():
    (metrics,) = fit(make_probed(), [batch_with_truth()])
    names = {name.removeprefix("probe/") for name in metrics if name.startswith("probe/")}
    assert names == {
        *("loss", "loss_map", "acc_map", "acc_map_where_seen"),
        *("loss_goal_direction", "loss_goals_direction", "mse_goals", "var_goals"),
        *(f"mse_goal_where_age{age}" for age in (0, 5, 10, 50, 200, 1000)),
    }
    assert "grad_norm/probe" in metrics
    parts = ("loss_map", "loss_goal_direction", "loss_goals_direction")
    total = torch.stack([metrics[f"probe/{name}"] for name in parts]).sum()
    assert_close(metrics["probe/loss"], total)


@PROBES
def test_with_gradients_it_belongs_to_the_world_model_and_trains_the_features(config):
    """With all samples, as a part of the model's loss."""
    model = replace(WORLD_MODEL, iwae_samples=3)
    alone = make_agent(obs_shapes=SHAPES, world_model=model).world_model
    shaped = make_agent(
        obs_shapes=SHAPES, world_model=replace(model, auxiliary={PROBE: config.auxiliary()})
    ).world_model
    state = alone.state_dict()
    probe_keys = {key for key in shaped.state_dict() if key.startswith(f"auxiliary.{PROBE}.")}
    assert shaped.state_dict().keys() == state.keys() | probe_keys
    shaped.load_state_dict(state, strict=False)

    batch = batch_with_truth()
    torch.manual_seed(2)
    plain = alone.loss(batch)
    torch.manual_seed(2)
    output = shaped.loss(batch)
    assert_close(output.loss, plain.loss + output.metrics[f"world_model/{PROBE}_loss"])
    plain.loss.backward()
    output.loss.backward()
    expected, actual = gradients_of(alone.encoder), gradients_of(shaped.encoder)
    assert all(not torch.allclose(actual[name], expected[name]) for name in expected)
    assert all(x.grad is not None for x in shaped.auxiliary[PROBE].parameters())


def test_a_probe_with_gradients_draws_its_predictions_too():
    world_model = replace(WORLD_MODEL, auxiliary={PROBE: BOTH.auxiliary()})
    agent = make_agent(obs_shapes=SHAPES, world_model=world_model)
    part = agent.world_model.auxiliary[PROBE]
    assert isinstance(part, DrawsPictures)
    batch = batch_with_truth()
    features = torch.randn(*batch.reward.shape, agent.world_model.feature_size)
    assert list(part.pictures(features, batch)) == ["map", "goals"]


def test_it_reads_all_samples_of_a_sequence():
    model = replace(WORLD_MODEL, iwae_samples=3)
    agent = make_probed(world_model=model)
    seen = []
    component = agent.components[PROBE]
    assert isinstance(component, Probe)
    component.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    batch = batch_with_truth()
    fit(agent, [batch])
    ((features, obs),) = seen
    length, size = batch.reward.shape
    assert features.shape[:3] == (length, size, 3)
    assert not torch.equal(features[:, :, 0], features[:, :, 1])
    for key, value in batch.obs.items():
        assert torch.equal(obs[key], value), key


@PROBES
def test_it_draws_its_predictions_for_the_video(config):
    component = make_probed(config).components[PROBE]
    assert isinstance(component, DrawsPictures)
    batch = batch_with_truth()
    length, size = batch.reward.shape
    features = torch.randn(length, size, make_probed().world_model.feature_size)
    pictures = component.pictures(features, batch)
    assert list(pictures) == [
        *(["map"] if hasattr(config, "map") else []),
        *(["goals"] if hasattr(config, "goals") else []),
    ]
    for images in pictures.values():
        assert images.dtype == np.uint8
        assert images.shape[::3] == (length, 3)


@pytest.mark.parametrize(
    ("config", "missing"), [(MAP, "map"), (BOTH, "map"), (GOALS, "targets_vec")], ids=str
)
def test_an_environment_without_the_truth_is_refused_in_one_line(config, missing):
    message = f"`probe` must be none in an environment without the observation `{HIDDEN}{missing}`"
    with pytest.raises(ValueError, match=message) as caught:
        make_agent(obs_shapes=VECTORS, components={PROBE: config})
    assert "\n" not in str(caught.value)


def test_a_map_must_have_classes_and_two_edges():
    shapes = SHAPES | {HIDDEN + "map": (H * W,)}
    with pytest.raises(ValueError, match=r"must have the shape \(classes, height, width\)"):
        make_agent(obs_shapes=shapes, components={PROBE: MAP})


def test_the_world_model_has_no_part_for_hidden_observations():
    model = make_probed().world_model
    assert {*model.encoder.image_keys, *model.encoder.vector_keys} == set(VECTORS)
    assert {*model.decoder.image_keys, *model.decoder.vector_keys} == set(VECTORS)


def test_a_policy_needs_no_hidden_observations():
    agent = make_probed()
    policy = DreamerPolicy(agent.world_model, agent.actor_critic, sample_actions=False)
    own = {key: np.ones((3, *shape), np.float32) for key, shape in VECTORS.items()}
    hidden = {HIDDEN + "map": np.ones((3, C, H, W), np.uint8)}
    nothing = np.zeros(3, bool)
    actions = []
    for obs in (own, own | hidden):
        torch.manual_seed(0)
        step = TimeStep(obs, np.zeros(3, np.float32), ~nothing, nothing, nothing)
        actions.append(policy(step, None)[0])
    np.testing.assert_array_equal(*actions)


def test_a_codec_does_not_ask_for_hidden_observations():
    codec = NativeCodec(SHAPES, ActionSpace(2, discrete=True))
    restored = codec_from_dict(codec.to_dict())
    assert restored.obs_shapes == SHAPES  # a probe is built from them
    raw = {key: np.ones(shape) for key, shape in VECTORS.items()}
    obs, leading = restored.encode_observations(raw)
    assert (obs.keys(), leading) == (VECTORS.keys(), ())


def gym_spaces():
    from gymnasium import spaces

    truth = {
        "map": spaces.MultiDiscrete(np.full((H, W), C)),
        "map_seen": spaces.MultiBinary((H, W)),
        "agent_pos": spaces.Box(0, 5, (2,)),
    }
    observation = spaces.Dict(speed=spaces.Box(-1, 1, (1,)), probe=spaces.Dict(truth))
    return GymSpaces(observation, spaces.Discrete(2), False, "$^")


def test_gymnasium_environments_provide_hidden_observations_in_a_dict_space():
    codec = codec_from_dict(GymCodec(gym_spaces()).to_dict())
    assert codec.obs_shapes == {
        "speed": (1,),
        HIDDEN + "map": (C, H, W),
        HIDDEN + "map_seen": (H * W,),
        HIDDEN + "agent_pos": (2,),
    }
    alone, _ = codec.encode_observations({"speed": np.ones(1, np.float32)})
    assert list(alone) == ["speed"]
    many, leading = codec.encode_observations([{"speed": np.ones(1, np.float32)}] * 3)
    assert (many["speed"].shape, leading) == ((3, 1), (3,))


def test_the_map_of_a_gymnasium_environment_becomes_one_hot():
    observation = gym_spaces().observation
    cells = np.arange(H * W).reshape(H, W) % C
    raw = observation.sample()
    raw["probe"]["map"] = cells
    encode = ObservationEncoder(observation, grayscale=False, flat_keys="$^")
    encoded = encode(raw)[HIDDEN + "map"]
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded.argmax(0), cells)
    np.testing.assert_array_equal(encoded.sum(0), 1)


def test_a_drawn_observation_shows_what_the_agent_sees():
    own = {"vector": np.zeros(2, np.float32)}
    hidden = {HIDDEN + "map": np.ones((3, 9, 9), np.uint8)}
    np.testing.assert_array_equal(draw(own), draw(hidden | own))
