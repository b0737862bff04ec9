"""Replays that share batches: their shares, and what a checkpoint keeps of them."""

from functools import partial

import numpy as np
import pytest
import torch
from replay_world import ACTION_SIZE, OBS_SHAPES, World

from dreamer.replay.buffer import Replay, ReplayConfig
from dreamer.replay.mixture import MixedReplay
from dreamer.replay.streams import SequentialSampler

STREAMS = partial(
    SequentialSampler,
    skip_first=False,
    allow_mid_reset=False,
    reset_interval=0,
    piece_policy_steps=0,
    newest_policy_steps=0,
)


@pytest.fixture
def make_mixture(tmp_path):
    """Three replays; the reward of a step names its replay: 0, 1000 or 2000 and more."""

    def make(weights=(1, 2, 5), sampling="steps", place="a"):
        parts = []
        for number in range(len(weights)):
            replay = Replay(
                tmp_path / place / str(number),
                obs_shapes=OBS_SHAPES,
                action_size=ACTION_SIZE,
                env_count=1,
                config=ReplayConfig(1000, sampling, across_episodes=sampling == "steps"),
                seed=number,
            )
            World(1).play(replay, 60)
            replay._files.columns["reward"][:] += 1000 * number
            parts.append(replay)
        return MixedReplay(parts, weights, seed=3)

    return make


def shares(batch):
    """The sequences of each replay in a batch."""
    return np.bincount((batch.reward[1] // 1000).int().numpy(), minlength=3).tolist()


def test_the_mean_share_is_the_weight_and_each_batch_is_near_it(make_mixture):
    mixture = make_mixture()
    found = np.array([shares(mixture.sample(5, 4)) for _ in range(400)])
    assert (found.sum(1) == 5).all()
    expected = 5 * np.array([1, 2, 5]) / 8
    assert (np.abs(found - expected) < 1).all()
    np.testing.assert_allclose(found.mean(0), expected, atol=0.08)


def test_a_whole_share_is_the_same_in_every_batch(make_mixture):
    mixture = make_mixture((0.7, 0.3))
    assert {tuple(shares(mixture.sample(10, 4))) for _ in range(20)} == {(7, 3, 0)}


def test_streams_keep_their_columns(make_mixture):
    mixture = make_mixture(sampling=STREAMS)
    batches = [mixture.sample(7, 4) for _ in range(3)]
    assert [shares(batch) for batch in batches] == [[1, 2, 4]] * 3
    for a, b in zip(batches, batches[1:], strict=False):  # each column goes on
        goes_on = ~b.is_first[0]
        assert goes_on.any()
        assert (b.obs["vector"][0, goes_on, 1] == a.obs["vector"][-1, goes_on, 1] + 1).all()
    with pytest.raises(ValueError, match=r"`batch.size` must be .* got 2, .* give \[0, 1, 1\]"):
        mixture.sample(2, 4)


def test_a_saved_mixture_goes_on_with_the_same_batches(make_mixture):
    mixture = make_mixture()
    mixture.sample(5, 4)
    state = mixture.state_dict()
    after = [mixture.sample(5, 4) for _ in range(3)]
    other = make_mixture(place="b")
    other.load_state_dict(state)
    torch.testing.assert_close([other.sample(5, 4) for _ in range(3)], after, rtol=0, atol=0)


def test_steps_go_to_the_first_replay_and_counts_are_sums(make_mixture):
    mixture = make_mixture()
    before = [part.policy_steps for part in mixture.parts]
    World(1).play(mixture, 9)
    after = [part.policy_steps for part in mixture.parts]
    assert after[0] > before[0] and after[1:] == before[1:]
    assert mixture.policy_steps == sum(after)
    assert mixture.episodes == sum(part.episodes for part in mixture.parts)
    assert mixture.size_bytes == sum(part.size_bytes for part in mixture.parts)
    assert mixture.can_sample(12) and not mixture.can_sample(2000)
    mixture.clear()
    assert mixture.policy_steps == 0 and not mixture.can_sample(4)
