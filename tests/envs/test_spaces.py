"""What every kind of space becomes, number by number, and which are refused."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from dreamer.envs.group import EnvironmentFault
from dreamer.envs.spaces import ActionDecoder, ObservationEncoder
from dreamer.types import ActionSpace


def make_encoder(space, *, grayscale=False, flat_keys="$^"):
    return ObservationEncoder(space, grayscale=grayscale, flat_keys=flat_keys)


def pixels(*shape, dtype: type = np.uint8, low=0.0, high=255.0):
    return Box(low, high, shape, dtype)


def one_hot(size, *ones):
    vector = np.zeros(size, np.float32)
    vector[list(ones)] = 1
    return vector


# Images


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 64, 3), (3, 64, 64)),
        ((3, 64, 64), (3, 64, 64)),
        ((210, 160, 3), (3, 64, 64)),
        ((1, 84, 90), (1, 64, 64)),
        ((84, 90, 1), (1, 64, 64)),
        ((84, 90), (1, 64, 64)),
        ((4, 84, 84), (4, 64, 64)),
        ((10, 11, 4), (4, 64, 64)),
        ((8, 9, 2), (2, 64, 64)),
        ((84, 84, 12), (12, 64, 64)),
    ],
)
def test_images_of_any_size_and_layout_become_channels_first_of_64_pixels(shape, expected):
    encode = make_encoder(pixels(*shape))
    assert encode.shapes == {"image": expected}
    image = encode(read_from := pixels(*shape).sample())["image"]
    assert image.shape == expected
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert not np.shares_memory(image, read_from)
    assert image.mean() == pytest.approx(read_from.mean(), abs=12)


def test_an_image_keeps_its_numbers_where_its_size_is_right():
    raw = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        make_encoder(pixels(64, 64, 3))(raw)["image"], raw.transpose(2, 0, 1)
    )
    raw = raw.transpose(2, 0, 1).copy()
    np.testing.assert_array_equal(make_encoder(pixels(3, 64, 64))(raw)["image"], raw)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shrunk_pixels_are_the_mean_of_the_area_they_cover(channels):
    raw = np.random.default_rng(0).integers(256, size=(192, 128, channels), dtype=np.uint8)
    image = make_encoder(pixels(*raw.shape))(raw)["image"]
    mean = raw.reshape(64, 3, 64, 2, channels).mean((1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(image, mean, atol=1.01)


def test_enlarged_pixels_are_squares():
    raw = np.random.default_rng(0).integers(256, size=(16, 32), dtype=np.uint8)
    image = make_encoder(pixels(16, 32))(raw)["image"]
    np.testing.assert_array_equal(image[0], raw.repeat(4, 0).repeat(2, 1))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_bounds_of_floating_images_become_0_and_255(low, high):
    raw = np.full((64, 64, 3), low, np.float32)
    raw[0], raw[1], raw[2] = high, low + 0.2 * (high - low), high + 1
    image = make_encoder(pixels(64, 64, 3, dtype=np.float32, low=low, high=high))(raw)["image"]
    assert (image[0, :4, 0] == [255, 51, 255, 0]).all()


def test_a_few_kinds_of_things_become_a_visible_image():
    raw = np.full((9, 9, 3), 5, np.uint8)
    assert (make_encoder(pixels(9, 9, 3, high=10))(raw)["image"] == 128).all()


def test_a_grid_of_booleans_becomes_an_image():
    grid = np.zeros((10, 10, 4), bool)
    grid[5, :, 2] = True
    image = make_encoder(Box(0, 1, grid.shape, bool))(grid)["image"]
    assert image.shape == (4, 64, 64)
    assert (image[2, 35] == 255).all()
    assert not image[[0, 1, 3]].any()


def test_grayscale_makes_luminance_of_rgb_and_leaves_other_images():
    space = Dict(colour=pixels(64, 64, 3), stack=pixels(64, 64, 4))
    encode = make_encoder(space, grayscale=True)
    assert encode.shapes == {"colour": (1, 64, 64), "stack": (4, 64, 64)}
    raw = {"colour": np.zeros((64, 64, 3), np.uint8), "stack": np.zeros((64, 64, 4), np.uint8)}
    raw["colour"][:] = 100, 50, 200
    assert (encode(raw)["colour"] == 82).all()  # 29.9 + 29.35 + 22.8


def test_alpha_is_a_channel_that_changes_no_other():
    raw = np.full((128, 128, 4), 200, np.uint8)
    raw[..., 3] = 0
    image = make_encoder(pixels(128, 128, 4))(raw)["image"]
    assert (image[:3] == 200).all()
    assert (image[3] == 0).all()


# Vectors


@pytest.mark.parametrize(
    "space",
    [
        Box(-1, 1, (7, 7, 3)),  # too small
        Box(-np.inf, np.inf, (64, 64, 3)),  # without bounds
        Box(0, np.arange(300, dtype=np.float32).reshape(10, 10, 3) + 1),  # of several bounds
        Box(-1, 1, (20, 30)),  # neither bytes nor shares
        Box(0, 1, (16, 16, 16)),  # which of them is the channel?
        Box(0, 255, (128,), np.uint8),
        Box(-2, 5, ()),
        Box(0, 1, (400,), bool),
    ],
    ids=str,
)
def test_any_other_box_becomes_a_vector_in_its_own_units(space):
    raw = space.sample()
    encode = make_encoder(space)
    assert encode.shapes == {"vector": (raw.size,)}
    vector = encode(raw)["vector"]
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, raw.reshape(-1), rtol=1e-6)


def test_plain_numbers_and_lists_are_read():
    space = Dict(speed=Box(-1, 1, ()), place=Box(-1, 1, (2,)))
    obs = make_encoder(space)({"speed": 0.5, "place": [0, 0.25]})
    np.testing.assert_array_equal(obs["speed"], [0.5])
    np.testing.assert_array_equal(obs["place"], [0, 0.25])


@pytest.mark.parametrize(
    ("space", "raw", "expected"),
    [
        (Discrete(4), 2, one_hot(4, 2)),
        (Discrete(4, start=-1), np.int64(-1), one_hot(4, 0)),
        (MultiDiscrete([3, 2]), np.array([1, 1]), one_hot(5, 1, 4)),
        (MultiDiscrete([3, 2], start=[5, 1]), np.array([7, 1]), one_hot(5, 2, 3)),
        (MultiDiscrete([[2, 3], [2, 2]]), np.array([[1, 0], [0, 1]]), one_hot(9, 1, 2, 5, 8)),
        (MultiBinary(3), np.array([1, 0, 1], np.int8), one_hot(3, 0, 2)),
        (MultiBinary([2, 2]), np.array([[1, 0], [0, 1]], np.int8), one_hot(4, 0, 3)),
    ],
    ids=str,
)
def test_choices_become_one_hot_vectors(space, raw, expected):
    encode = make_encoder(space)
    assert encode.shapes == {"vector": expected.shape}
    np.testing.assert_array_equal(encode(raw)["vector"], expected)


# Names


def test_nested_spaces_are_flattened_by_name():
    space = Dict(
        camera=Dict(left=pixels(64, 64, 3), right=pixels(32, 32)),
        arms=Tuple([Box(-1, 1, (2,)), Discrete(3)]),
        **{"a.b": Box(0, 1, (1,))},
    )
    encode = make_encoder(space)
    assert encode.shapes == {
        "a_b": (1,),
        "arms/0": (2,),
        "arms/1": (3,),
        "camera/left": (3, 64, 64),
        "camera/right": (1, 64, 64),
    }
    raw = space.sample()
    obs = encode(raw)
    np.testing.assert_array_equal(obs["arms/0"], raw["arms"][0])
    np.testing.assert_array_equal(obs["camera/left"], raw["camera"]["left"].transpose(2, 0, 1))


def test_a_pattern_makes_vectors_of_what_looks_like_images():
    space = Dict(grid=pixels(9, 9, 3), image=pixels(9, 9, 3))
    assert make_encoder(space, flat_keys="grid").shapes == {"grid": (243,), "image": (3, 64, 64)}


def test_what_cannot_be_observed_is_left_out_where_something_else_can():
    encode = make_encoder(Dict(mission=Text(10), image=pixels(64, 64, 3)))
    assert encode.shapes == {"image": (3, 64, 64)}
    assert encode.left_out == {"mission": Text(10)}


@pytest.mark.parametrize("space", [Text(10), Dict(mission=Text(10)), Dict()])
def test_nothing_to_observe_is_refused(space):
    with pytest.raises(ValueError, match="observation space must be a Box, .*got"):
        make_encoder(space)


def test_two_observations_of_one_name_are_refused():
    space = Dict({"a.b": Discrete(2), "a_b": Discrete(2)})
    with pytest.raises(ValueError, match="got `a_b` twice"):
        make_encoder(space)


# Observations that are not of their space


@pytest.mark.parametrize(
    ("space", "raw", "message"),
    [
        (pixels(64, 64, 3), np.zeros((64, 64, 4), np.uint8), r"shape \(64, 64, 3\).*64, 4\)"),
        (pixels(64, 64, 3), np.zeros((64, 64, 3)), "must be uint8.*got float64"),
        (pixels(9, 9, 3, dtype=np.float32), np.full((9, 9, 3), np.nan), "finite, got NaN"),
        (Box(-1, 1, (2,)), np.zeros(3), r"shape \(2,\), got \(3,\)"),
        (Discrete(3), 3, r"of Discrete\(3\), got 3"),
        (Discrete(3), 1.5, r"of Discrete\(3\), got 1.5"),
        (Discrete(3), np.nan, r"of Discrete\(3\), got nan"),
        (Box(-1, 1, (2,)), np.array(["0", "1"]), "`vector` must be an array of numbers, got"),
        (Box(-1, 1, (2,)), None, "`vector` must be an array of numbers, got None"),
        (Box(-1, 1, (2,)), [[1], [1, 2]], "`vector` must be an array of numbers"),
        (Box(-9, 9, (2,)), np.array([0, -1e39]), "at most 3.4e38 in size.* got 1e"),
        (MultiDiscrete([2, 2]), np.array([0, -1]), "got "),
        (Dict(a=Discrete(2), b=Discrete(2)), {"a": 1}, "observation must have `b`"),
        (Tuple([Discrete(2), Discrete(2)]), (1,), "observation must have `1`"),
        (Dict(a=Discrete(2)), None, "observation must have `a`, got None"),
    ],
    ids=lambda value: None if isinstance(value, np.ndarray) else str(value),
)
def test_an_observation_of_another_shape_or_type_is_a_fault(space, raw, message):
    with pytest.raises(EnvironmentFault, match=message):
        make_encoder(space)(raw)


@pytest.mark.parametrize(
    ("space", "raw", "expected"),
    [
        (Box(-1, 1, (2,)), np.array([0, 1]), [0, 1]),
        (Box(-1, 1, (2,)), np.array([[0.5], [1]]), [0.5, 1]),
        (Box(-1, 1, (1,)), 0.25, [0.25]),
        (Box(0, 9, (2,), np.int64), np.array([0.5, 1]), [0.5, 1]),
        (Discrete(3), 1.0, [0, 1, 0]),
        (Discrete(3), np.array([2]), [0, 0, 1]),
        (MultiDiscrete([2, 2]), np.array([[0, 1]]), [1, 0, 0, 1]),
    ],
)
def test_harmless_differences_from_the_space_are_accepted(space, raw, expected):
    encode = make_encoder(space)
    encode(space.sample())
    (vector,) = encode(raw).values()
    np.testing.assert_array_equal(vector, np.float32(expected))


def test_parts_without_numbers_are_left_out():
    encoder = make_encoder(Dict(x=Box(-1, 1, (2,)), goal=Box(-1, 1, (0,)), map=Box(0, 255, (0, 9))))
    assert encoder.shapes == {"x": (2,)}
    assert encoder.left_out.keys() == {"goal", "map"}
    with pytest.raises(ValueError, match="observation space must be a Box, .*got Box"):
        make_encoder(Box(-1, 1, (0,)))


# Actions


@pytest.mark.parametrize(
    ("space", "expected", "action", "raw"),
    [
        (Discrete(3), ActionSpace(3, True), one_hot(3, 2), 2),
        (Discrete(3, start=5), ActionSpace(3, True), one_hot(3, 1), 6),
        (MultiDiscrete([3, 2]), ActionSpace(5, True, (3, 2)), one_hot(5, 2, 3), [2, 0]),
        (
            MultiDiscrete([3, 2], start=[1, 7]),
            ActionSpace(5, True, (3, 2)),
            one_hot(5, 0, 4),
            [1, 8],
        ),
        (MultiDiscrete([[2], [3]]), ActionSpace(5, True, (2, 3)), one_hot(5, 1, 4), [[1], [2]]),
        (MultiDiscrete([4]), ActionSpace(4, True), one_hot(4, 3), [3]),
        (MultiBinary(3), ActionSpace(6, True, (2, 2, 2)), one_hot(6, 1, 2, 5), [1, 0, 1]),
        (Box(-1, 1, (2,)), ActionSpace(2, False), [-1, 0.5], [-1, 0.5]),
        (Box(0, 10, (2,)), ActionSpace(2, False), [-1, 0.5], [0, 7.5]),
        (
            Box(np.array([[0, -4]], np.float32), np.array([[1, 2]], np.float32)),
            ActionSpace(2, False),
            [1, 0],
            [[1, -1]],
        ),
        (Box(0, 9, (1,), np.int32), ActionSpace(1, False), [0.2], [5]),
        (Box(-1, 1, ()), ActionSpace(1, False), [2.0], 1),
    ],
    ids=str,
)
def test_actions_become_those_of_the_space(space, expected, action, raw):
    decode = ActionDecoder(space)
    assert decode.action_space == expected
    written = decode(np.array(action, np.float32))
    np.testing.assert_allclose(written, raw, rtol=1e-6)
    assert written in space


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Box(-np.inf, np.inf, (3,)), r"finite bounds.*got Box\(-inf, inf, \(3,\)"),
        (Box(0, np.array([1, np.inf], np.float32)), "finite bounds"),
        (Text(3), "Discrete, MultiDiscrete, MultiBinary or Box, got Text"),
        (Dict(a=Discrete(2)), "got Dict"),
        (Box(0, 1, (0,)), "must not be empty"),
    ],
    ids=str,
)
def test_actions_that_no_actor_can_choose_are_refused(space: gymnasium.Space, message):
    with pytest.raises(ValueError, match=message):
        ActionDecoder(space)


# Class images


@pytest.mark.parametrize(
    "space",
    [Box(0, 3, (5, 6), np.uint8), MultiDiscrete(np.full((5, 6), 4)), Box(0, 3, (12, 9), int)],
)
def test_tables_of_class_indices_stay_tables_of_bytes(space):
    encode = ObservationEncoder(space, grayscale=False, flat_keys="$^", class_keys="image")
    assert encode.shapes == {"image": space.shape}
    raw = space.sample()
    table = encode(raw)["image"]
    assert table.dtype == np.uint8
    assert not np.shares_memory(table, raw)
    np.testing.assert_array_equal(table, raw)


def test_only_the_named_parts_are_class_images():
    space = Dict(map=Box(0, 3, (5, 6), np.uint8), grid=Box(0, 3, (5, 6), np.uint8))
    encode = ObservationEncoder(space, grayscale=False, flat_keys="$^", class_keys="map")
    assert encode.shapes == {"map": (5, 6), "grid": (30,)}


@pytest.mark.parametrize(
    "space",
    [
        Box(0, 3, (5, 6), np.float32),
        Box(0, 3, (5, 6, 2), np.uint8),
        Box(-1, 3, (5, 6), np.int8),
        Box(0, 256, (5, 6), np.int16),
        MultiDiscrete([4, 4]),
        Discrete(4),
    ],
)
def test_what_is_no_table_of_class_indices_is_refused(space):
    with pytest.raises(ValueError, match=r"`image`, which `class_keys` matches, must be a table"):
        ObservationEncoder(space, grayscale=False, flat_keys="$^", class_keys=".*")


@pytest.mark.parametrize("raw", [np.full((5, 6), 4), np.full((5, 6), -1), np.zeros((5, 6))])
def test_indices_outside_their_space_are_faults(raw):
    space = Box(0, 3, (5, 6), np.uint8)
    encode = ObservationEncoder(space, grayscale=False, flat_keys="$^", class_keys="image")
    with pytest.raises(EnvironmentFault, match="`image` must be of Box"):
        encode(raw)
