"""Users' codec of observations and actions, there and back, and written down."""

import json

import numpy as np
import pytest

from dreamer.envs.codecs import NativeCodec, codec_from_dict, codec_of
from dreamer.envs.dummy import make_dummy
from dreamer.types import ActionSpace

IMAGE = {"image": (3, 64, 64)}
SPACES = [
    ActionSpace(5, discrete=True),
    ActionSpace(4, discrete=False),
    ActionSpace(5, discrete=True, choices=(3, 2)),
]


def random_actions(space, *leading):
    rng = np.random.default_rng(0)
    if not space.discrete:
        return rng.uniform(-1, 1, (*leading, space.size)).astype(np.float32)
    rows = [
        np.eye(n, dtype=np.float32)[rng.integers(n, size=leading)] for n in space.choices or (5,)
    ]
    return np.concatenate(rows, -1)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("leading", [(), (3,), (7, 3)])
def test_actions_come_back_as_they_were(space, leading):
    codec, actions = NativeCodec(IMAGE, space), random_actions(space, *leading)
    written = codec.decode_actions(actions)
    np.testing.assert_array_equal(codec.encode_actions(written), actions)


def test_actions_are_what_users_call_them():
    one, numbers, several = (NativeCodec(IMAGE, space) for space in SPACES)
    assert one.decode_actions(np.eye(5)[3]) == 3
    np.testing.assert_array_equal(one.decode_actions(np.eye(5)[[3, 0]]), [3, 0])
    np.testing.assert_array_equal(numbers.decode_actions(np.ones(4)), np.ones(4))
    np.testing.assert_array_equal(several.decode_actions(np.array([0, 0, 1, 1, 0])), [2, 0])


def test_a_list_of_observations_is_one_more_axis():
    codec = NativeCodec({"image": (1, 64, 64), "vector": (3,)}, SPACES[0])
    one = {"image": np.ones((1, 64, 64), np.uint8), "vector": np.arange(3.0)}
    for raw, leading in (([one, one], (2,)), ([[one], [one]], (2, 1))):
        obs, found = codec.encode_observations(raw)
        assert found == leading
        assert {key: x.shape for key, x in obs.items()} == {
            "image": (*leading, 1, 64, 64),
            "vector": (*leading, 3),
        }
        np.testing.assert_array_equal(obs["vector"].reshape(2, 3), [[0, 1, 2]] * 2)
    for raw in ([one, {"vector": 1}], [one, 1]):
        with pytest.raises(ValueError, match="must all be dictionaries with \\['image', 'vector'"):
            codec.encode_observations(raw)


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (SPACES[0], -1, "Actions must be whole numbers below 5, got -1"),
        (SPACES[0], 2.0, r"Actions must be whole numbers below 5, got 2\.0"),
        (SPACES[1], np.zeros(3), r"Actions must be 4 numbers in \[-1, 1\], got \[0\.0, 0"),
        (SPACES[1], np.full(4, 1.5), r"Actions must be 4 numbers in \[-1, 1\], got \[1\.5"),
        (SPACES[2], [2, 2], r"Actions must be whole numbers below 3, 2, got \[2, 2\]"),
    ],
)
def test_other_actions_are_refused(space, action, message):
    with pytest.raises(ValueError, match=message):
        NativeCodec(IMAGE, space).encode_actions(action)


@pytest.mark.parametrize("leading", [(), (3,), (7, 3)])
def test_leading_axes_are_what_one_observation_does_not_have(leading):
    codec = NativeCodec(IMAGE | {"speed": (2,)}, SPACES[0])
    raw = {"image": np.zeros((*leading, 3, 64, 64), np.uint8), "speed": np.ones((*leading, 2), int)}
    obs, found = codec.encode_observations(raw | {"more": "is ignored"})
    assert found == leading
    assert {k: (x.shape, x.dtype) for k, x in obs.items()} == {
        "image": ((*leading, 3, 64, 64), np.uint8),
        "speed": ((*leading, 2), np.float32),
    }


@pytest.mark.parametrize("space", SPACES)
def test_a_codec_survives_json(space):
    codec = NativeCodec(IMAGE, space)
    read = codec_from_dict(json.loads(json.dumps(codec.to_dict())))
    assert (read.obs_shapes, read.action_space) == (IMAGE, space)


def test_a_group_of_environments_has_a_codec():
    envs = make_dummy(
        "point", count=2, seed=0, rounds=1, corridor=1, length=5, speed=0.5, maze_length=9
    )
    codec = codec_of(envs)
    obs, leading = codec.encode_observations(envs.reset().obs)
    assert leading == (2,)
    assert codec.decode_actions(np.zeros((2, codec.action_space.size))).shape[0] == 2
    assert obs.keys() == envs.obs_shapes.keys()
