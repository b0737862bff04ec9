"""What the encoder gets besides observations: reward and terminal, and one-hot class images."""

import dataclasses

import pytest
import torch
from tiny import IMAGE, VECTORS, WORLD_MODEL, A, B, T, gradients_of, make_batch
from torch.testing import assert_close

from dreamer.models.decoders import DecoderConfig
from dreamer.models.inputs import EncoderConfig, one_hot_images
from dreamer.models.vision import preprocess
from dreamer.models.world_model import WorldModel

CLASSES = {"grid": 4}
GRID = {"grid": (5, 6)}


def encoder_config(**options) -> EncoderConfig:
    config = {**vars(WORLD_MODEL.encoder), "vector_keys": "angle|speed|grid"}
    return EncoderConfig(**config, **options)


def make_model(obs_shapes, *, transform="tanh", **options) -> WorldModel:
    decoder = DecoderConfig(
        **{**vars(WORLD_MODEL.decoder), "vector_keys": "angle|speed|grid"},
        classes=options.get("classes", {}),
    )
    config = dataclasses.replace(
        WORLD_MODEL,
        encoder=encoder_config(**options),
        decoder=decoder,
        reward_transform=transform,
    )
    torch.manual_seed(0)
    return config.build(obs_shapes, A)


def make_grid(*leading):
    return torch.randint(4, (*leading, 5, 6), dtype=torch.uint8)


def grid_batch(obs_shapes):
    batch = make_batch(obs_shapes={k: s for k, s in obs_shapes.items() if k != "grid"})
    return batch._replace(obs=batch.obs | {"grid": make_grid(T, B)})


def test_reward_and_terminal_are_two_planes_after_the_images():
    model = make_model(IMAGE | VECTORS, reward_input=True)
    batch = make_batch(obs_shapes=IMAGE | VECTORS)
    inputs = model.encoder.inputs(batch.obs, batch.reward, batch.is_terminal)
    planes = inputs["reward_input"]
    assert planes.shape == (T, B, 2, 64, 64)
    assert_close(planes[:, :, 0, 3, 40], batch.reward.tanh())  # after the transform
    assert_close(planes[:, :, 1, 9, 0], batch.is_terminal.float())
    assert_close(inputs["image"], preprocess(batch.obs["image"]))
    assert model.encoder.image.convs[0].in_channels == 1 + 2
    assert list(model.encoder.image_keys) == ["image", "reward_input"]
    assert model.encoder.vector.output_size == 11  # the vectors do not get them again
    assert model.encoder.vector[0].linear.in_features == 10


def test_without_images_reward_and_terminal_are_two_numbers_after_the_vectors():
    model = make_model(VECTORS, reward_input=True)
    batch = make_batch()
    inputs = model.encoder.inputs(batch.obs, batch.reward, batch.is_terminal)
    expected = torch.stack([batch.reward.tanh(), batch.is_terminal.float()], -1)
    assert_close(inputs["reward_input"], expected)
    assert model.encoder.vector_keys == ["angle", "speed", "reward_input"]


def test_the_input_is_not_decoded():
    model = make_model(IMAGE | VECTORS, reward_input=True)
    output = model.loss(make_batch(obs_shapes=IMAGE | VECTORS))
    assert list(output.obs_losses) == ["image", "angle", "speed"]
    output.loss.backward()
    assert gradients_of(model.encoder)["image.convs.0.weight"][:, 1:].any()


@pytest.mark.parametrize("shapes", [VECTORS, IMAGE])
def test_the_reward_changes_the_state_of_its_own_step(shapes):
    model, batch = make_model(shapes, reward_input=True), make_batch(obs_shapes=shapes)
    other = batch._replace(
        reward=torch.cat([batch.reward[:3], batch.reward[3:4] + 2, *[batch.reward[4:]]])
    )
    embeds = [model.encode(b.obs, b.reward, b.is_terminal) for b in (batch, other)]
    assert_close(embeds[0][:3], embeds[1][:3])
    assert not torch.equal(embeds[0][3], embeds[1][3])
    assert_close(embeds[0][4:], embeds[1][4:])


def test_open_loop_predictions_read_the_rewards_of_the_context():
    model = make_model(IMAGE, reward_input=True)
    frames = model.open_loop(make_batch(obs_shapes=IMAGE), context=3)
    assert frames["image"].shape == (T, B, 1, 64, 64)


def test_a_missing_reward_is_named():
    model, batch = make_model(VECTORS, reward_input=True), make_batch()
    with pytest.raises(ValueError, match="with reward_input=true, got none"):
        model.encode(batch.obs, None, None)


def test_no_observation_may_have_the_name_of_the_input():
    with pytest.raises(ValueError, match="No observation must be called `reward_input`"):
        make_model(VECTORS | {"reward_input": (1,)}, reward_input=True)


def test_without_options_the_encoder_is_the_plain_one():
    plain = make_model(VECTORS)
    assert type(plain.encoder).__name__ == "Encoder"
    assert type(plain.decoder).__name__ == "Decoder"
    assert not plain.encoder.reads_reward
    obs = make_batch().obs
    assert plain.encoder.inputs(obs, None, None) is obs


def test_class_images_are_one_hot_planes_in_order():
    image = make_grid(T, B)
    one_hot = one_hot_images(image, 4)
    assert one_hot.shape == (T, B, 4, 5, 6)
    for k in range(4):
        assert_close(one_hot[:, :, k], (image == k).float())


def test_a_class_image_is_encoded_and_predicted():
    shapes = VECTORS | GRID
    model = make_model(shapes, classes=CLASSES)
    batch = grid_batch(shapes)
    output = model.loss(batch)
    assert model.encoder.vector[0].linear.in_features == 10 + 4 * 5 * 6
    assert output.obs_losses.keys() == {"angle", "speed", "grid"}
    predicted = model.decoder(output.posterior.features)["grid"]
    assert predicted.mean.shape == (T, B, 4, 5, 6)
    expected = -torch.nn.functional.nll_loss(
        predicted.mean.log().flatten(0, 1), batch.obs["grid"].long().flatten(0, 1), reduction="none"
    )
    assert_close(output.obs_log_probs["grid"], expected.sum((-2, -1)).unflatten(0, (T, B)))
    output.obs_losses["grid"].backward()
    assert all(g.isfinite().all() for g in gradients_of(model).values())
    assert gradients_of(model.encoder)["vector.0.linear.weight"][:, 10:].any()


@pytest.mark.parametrize(
    ("shapes", "classes", "message"),
    [
        (GRID, {}, r"`classes` must have the number of classes of `grid`, a class image \(5, 6\)"),
        (GRID | VECTORS, CLASSES | {"angle": 3}, r"keys of `classes` must be class images"),
    ],
)
def test_classes_that_do_not_fit_the_observations_are_refused(shapes, classes, message):
    with pytest.raises(ValueError, match=message):
        make_model(shapes, classes=classes)
