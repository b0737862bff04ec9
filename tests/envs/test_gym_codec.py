"""Observations and actions as Gymnasium's environments give and take them, there and back."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from dreamer.envs.codecs import read_codec
from dreamer.envs.gym import GymEnv
from dreamer.envs.gym_codec import GymCodec
from dreamer.envs.spaces import ActionWriter, GymSpaces, ObservationReader

CAMERA = spaces.Box(0, 255, (20, 30, 3), np.uint8)
SPEED = spaces.Box(np.float32([-1, -np.inf]), np.float32([np.inf, 2.5]))
GRIP = spaces.Box(np.array([[0, -2.0]]), np.array([[1, 3.0]]), dtype=np.float64)
OBSERVATIONS = {
    "image": CAMERA,
    "vector": SPEED,
    "table": spaces.Box(-1, 1, (2, 3), np.float64),
    "one of": spaces.Discrete(4, start=-1),
    "switches": spaces.MultiBinary((2, 2)),
    "several": spaces.MultiDiscrete([3, 2]),
    "pair": spaces.Tuple([spaces.Discrete(2), spaces.Text(5), SPEED]),
    "dictionary": spaces.Dict(
        [
            ("wheel", SPEED),
            ("eyes", spaces.Dict(left=CAMERA, right=CAMERA)),
            ("words", spaces.Text(5)),
        ]
    ),
}
ACTIONS = {
    "choice": spaces.Discrete(5),
    "from two on": spaces.Discrete(3, start=2),
    "several": spaces.MultiDiscrete([3, 2]),
    "square": spaces.MultiDiscrete([[3, 2], [2, 4]]),
    "switches": spaces.MultiBinary(3),
    "box": GRIP,
    "whole": spaces.Box(-3, 5, (2,), np.int32),
    "stuck": spaces.Box(np.float32([1, 0]), np.float32([1, 2])),
}


def codec(observation=CAMERA, action=ACTIONS["choice"], *, grayscale=False) -> GymCodec:
    """What a run folder gives back."""
    written = GymCodec(GymSpaces(observation, action, grayscale, "$^")).as_plain()
    read = read_codec(json.loads(json.dumps(written, allow_nan=False)))
    assert isinstance(read, GymCodec)
    return read


def as_batch(space, raws):
    """Many observations as vector environments give them: arrays in the place of numbers."""
    if isinstance(space, spaces.Dict):
        return {k: as_batch(s, [raw[k] for raw in raws]) for k, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(as_batch(s, [raw[i] for raw in raws]) for i, s in enumerate(space.spaces))
    return np.array(raws)


@pytest.mark.parametrize("space", OBSERVATIONS.values(), ids=OBSERVATIONS)
@pytest.mark.parametrize("as_list", [True, False])
def test_observations_are_read_as_the_environment_reads_them(space, as_list):
    space.seed(0)
    raws = [space.sample() for _ in range(3)]
    read = ObservationReader(space, grayscale=False, flat_keys="$^")
    expected = [read(raw) for raw in raws]
    one, leading = codec(space).encode_observations(raws[0])
    assert leading == ()
    many, leading = codec(space).encode_observations(raws if as_list else as_batch(space, raws))
    assert leading == (3,)
    assert one.keys() == many.keys() == expected[0].keys()
    for key in one:
        np.testing.assert_array_equal(one[key], expected[0][key])
        np.testing.assert_array_equal(many[key], np.stack([row[key] for row in expected]))
        assert many[key].dtype == expected[0][key].dtype


def test_sequences_of_batches_have_two_leading_axes():
    obs, leading = codec().encode_observations(np.zeros((7, 3, 20, 30, 3), np.uint8))
    assert leading == (7, 3)
    assert obs["image"].shape == (7, 3, 3, 64, 64)


def test_grey_stays_grey():
    obs, _ = codec(grayscale=True).encode_observations(np.zeros((20, 30, 3), np.uint8))
    assert obs["image"].shape == (1, 64, 64)


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
@pytest.mark.parametrize("leading", [(), (3,), (7, 3)])
def test_actions_come_back_as_they_were(space, leading):
    space.seed(1)
    samples = [space.sample() for _ in range(int(np.prod(leading)))]
    raw = np.array(samples).reshape((*leading, *space.shape))
    read = codec(action=space).encode_actions(raw if leading else samples[0])
    assert read.shape == (*leading, ActionWriter(space).action_space.size)
    written = codec(action=space).decode_actions(read)
    np.testing.assert_allclose(written, raw, rtol=1e-6, atol=1e-6)
    if not leading:
        assert space.contains(np.int64(written) if isinstance(written, int) else written)


def test_actions_are_those_of_the_space():
    assert codec(action=ACTIONS["from two on"]).decode_actions(np.eye(3)[1]) == 3
    np.testing.assert_allclose(codec(action=GRIP).encode_actions([[0.25, 3]]), [-0.5, 1])
    np.testing.assert_allclose(codec(action=GRIP).decode_actions(np.zeros(2)), [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("action", "raw", "message"),
    [
        ("choice", 5, r"whole numbers below 5 for actions, actually: 5"),
        ("choice", 1.0, r"whole numbers below 5 for actions, actually: 1\.0"),
        ("box", [[0.5, 3.5]], r"Expect actions of Box\(.*, actually: \[\[0\.5, 3\.5\]\]"),
        ("box", [0.5, 3.0], r"Expect actions of Box\(.*, actually: \[0\.5, 3\.0\]"),
        ("several", [3, 0], r"whole numbers below 3, 2 for actions, actually: \[3, 0\]"),
    ],
)
def test_other_actions_are_refused(action, raw, message):
    with pytest.raises(ValueError, match=message):
        codec(action=ACTIONS[action]).encode_actions(raw)


@pytest.mark.parametrize(
    ("space", "raw", "message"),
    [
        ("image", np.zeros((20, 31, 3), np.uint8), r"`observation` to be of Box.* shape \(20, 31"),
        ("image", np.zeros((20, 30, 3)), r"`observation` to be uint8, .* actually: float64"),
        ("vector", [np.nan, 0], r"`vector` to be finite, actually: \[nan, 0\.0\]"),
        ("one of", 3, r"`observation` to be of Discrete\(4, start=-1\), actually: 3"),
        ("pair", (1,), r"`1` in the observation, actually: \(1,\)"),
        ("dictionary", {"wheel": [0, 0]}, r"`eyes` in the observation, actually: {'wheel'"),
        (
            "dictionary",
            {
                "wheel": [[0, 0]],
                "eyes": {k: CAMERA.sample() for k in ("left", "right")},
                "words": "",
            },
            r"same leading axes, actually: {'wheel': \(1,\), 'eyes/left': \(\)",
        ),
    ],
)
def test_other_observations_are_refused(space, raw, message):
    with pytest.raises(ValueError, match=message):
        codec(OBSERVATIONS[space]).encode_observations(raw)


def test_environments_name_their_spaces():
    env = GymEnv(gymnasium.make("CartPole-v1"), grayscale=True)
    assert env.user_spaces.observation == env.env.observation_space
    assert env.user_spaces.grayscale
