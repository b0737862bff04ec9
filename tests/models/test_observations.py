"""Which observations are used, in which order, and how they come back."""

import dataclasses

import pytest
import torch
from tiny import DECODER, ENCODER, B, D, T
from torch.testing import assert_close

from dreamer.models.observations import Decoder, Encoder, select_keys

SHAPES = {
    "speed": (2,),
    "image_front": (3, 64, 64),
    "angle": (9,),
    "image_back": (1, 64, 64),
    "log_score": (1,),
    "count": (),
}
ANY = {"image_keys": ".*", "vector_keys": ".*"}


def select(shapes=SHAPES, **patterns):
    return select_keys(shapes, dataclasses.replace(ENCODER, **patterns))


def observations() -> dict[str, torch.Tensor]:
    return {k: torch.randn(T, B, *shape) for k, shape in SHAPES.items()}


@pytest.mark.parametrize(
    ("patterns", "images", "vectors"),
    [
        (ANY, ["image_front", "image_back"], ["speed", "angle", "log_score"]),
        ({"image_keys": "$^", "vector_keys": "angle"}, [], ["angle"]),
        ({"image_keys": "image_b", "vector_keys": "$^"}, ["image_back"], []),
        ({"image_keys": "front", "vector_keys": "angle|speed"}, [], ["speed", "angle"]),
    ],
)
def test_patterns_select_keys_by_how_they_start_in_the_order_of_the_dictionary(
    patterns, images, vectors
):
    assert select(**patterns) == (images, vectors)


def test_patterns_that_match_nothing_are_refused():
    with pytest.raises(ValueError, match=r"`image_keys` '\$\^' or `vector_keys` 'x'.*'speed'"):
        select(image_keys="$^", vector_keys="x")


def test_image_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"image `image` to be \(channels, 64, 64\), actually: \(3, 84, 84\)"
    ):
        select({"image": (3, 84, 84)})


def test_embedding_holds_the_images_first_and_each_kind_in_the_order_of_the_dictionary():
    encoder = Encoder(SHAPES, ENCODER)
    obs = observations()
    image = encoder.image(torch.cat([obs["image_front"], obs["image_back"]], 2))
    vector = encoder.vector(torch.cat([obs["speed"], obs["angle"]], 2))
    embed = encoder(obs)
    assert embed.shape == (T, B, encoder.output_size)
    assert_close(embed, torch.cat([image, vector], -1))


def test_encoder_ignores_keys_that_are_not_selected():
    encoder = Encoder(SHAPES, ENCODER)
    obs = observations()
    before = encoder(obs)
    assert_close(encoder(obs | {"log_score": obs["log_score"] + 1}), before)


@pytest.mark.parametrize("key", ["image_keys", "vector_keys"])
def test_encoder_has_no_network_for_a_kind_without_keys(key):
    encoder = Encoder(SHAPES, dataclasses.replace(ENCODER, **{key: "$^"}))
    obs = observations()
    assert encoder(obs).shape == (T, B, encoder.output_size)
    assert not hasattr(encoder, key.removesuffix("_keys"))


def test_decoder_gives_every_selected_observation_its_own_unit_normal():
    decoder = Decoder(D, SHAPES, DECODER)
    features = torch.randn(T, B, D)
    predictions = decoder(features)
    assert list(predictions) == ["image_front", "image_back", "speed", "angle"]
    for key, prediction in predictions.items():
        value = torch.randn(T, B, *SHAPES[key])
        squares = (value - prediction.mean).square().flatten(2)
        expected = -0.5 * squares.sum(-1) - squares.shape[-1] * 0.9189385
        assert_close(prediction.log_prob(value), expected, rtol=1e-4, atol=1e-3)


def test_decoder_splits_its_channels_in_the_order_of_the_dictionary():
    decoder = Decoder(D, SHAPES, DECODER)
    features = torch.randn(T, B, D)
    predictions, channels = decoder(features), decoder.image(features)
    assert_close(predictions["image_front"].mean, channels[:, :, :3])
    assert_close(predictions["image_back"].mean, channels[:, :, 3:])


def test_unknown_activation_of_the_vectors_is_refused():
    with pytest.raises(ValueError, match="`activation` must be elu, .*, got `ela`"):
        dataclasses.replace(ENCODER.vector, activation="ela")


@pytest.mark.parametrize("key", ["arm/joints", "keys", "training"])
def test_any_name_may_be_that_of_a_vector(key):
    config = dataclasses.replace(DECODER, **ANY)
    decoder = Decoder(D, {key: (3,)}, config)
    assert decoder(torch.randn(T, B, D))[key].mean.shape == (T, B, 3)
