"""Held-out episodes: which ones they are, what is read of them, and how they are stacked."""

import numpy as np
import pytest
from torch.testing import assert_close

from dreamer.data.address import find
from dreamer.data.episodes import Episode, Flags
from dreamer.data.feed import Fit, episodes, keep_all, read_header
from dreamer.data.holdout import is_held_out, read_clips, stack
from dreamer.data.npz import DreamerV2Writer
from dreamer.replay.storage import Column
from dreamer.types import ActionSpace

LENGTHS = (3, 9, 4, 12, 2, 7, 5, 30, 6, 8)  # policy steps
SPACE = ActionSpace(2, discrete=True)
SHAPES = {"vector": (3,)}


@pytest.fixture
def folder(tmp_path):
    """Episodes whose numbers say where they are from: 100 times the episode plus the step."""
    writer = DreamerV2Writer(find(str(tmp_path / "data")))
    for number, length in enumerate(LENGTHS):
        n = np.arange(length + 1)
        vector = np.repeat((100 * number + n)[:, None], 3, 1).astype(np.float32)
        flags = Flags(
            np.eye(2, dtype=np.float32)[n % 2],
            n.astype(np.float32),
            n == 0,
            n == length,
            np.zeros(len(n), bool),
        )
        episode = Episode("x", flags, {"vector": Column((3,), "float32")}, lambda v=vector: v)
        writer.add(episode, {"vector": vector})
    return str(tmp_path / "data")


def clips_of(folder, *, count, length, keep=keep_all):
    header = read_header("data.holdout", folder, SPACE, keep)
    fit = Fit.of(header, SHAPES, SPACE, {})
    return read_clips(header, fit, keep, count=count, length=length)


def test_the_share_of_names_is_held_out_whatever_the_other_names():
    names = [f"episode {n}" for n in range(5000)]
    held = {name for name in names if is_held_out(name, 0.1)}
    assert 400 < len(held) < 600
    assert held <= {name for name in names if is_held_out(name, 0.3)}
    assert held == {name for name in reversed(names) if is_held_out(name, 0.1)}


def test_both_sides_of_a_split_make_the_whole_and_have_nothing_in_common(folder):
    whole = read_header("data.train", folder, SPACE)
    fit = Fit.of(whole, SHAPES, SPACE, {})
    sides = []
    for keep in (lambda x: is_held_out(x, 0.5), lambda x: not is_held_out(x, 0.5)):
        header = read_header("data.train", folder, SPACE, keep)
        read = [next(iter(e.read()))["obs_vector"][0, 0] for e in episodes(header, fit)]
        assert len(read) == header.summary.episodes > 0
        sides.append(set(read))
    assert sorted(sides[0] | sides[1]) == [100 * n for n in range(len(LENGTHS))]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize("keep", [lambda name: False, lambda name: is_held_out(name, 1e-9)])
def test_a_split_that_leaves_nothing_is_refused(folder, keep):
    with pytest.raises(ValueError, match="`data.holdout` must leave episodes on both sides.* 10 "):
        read_header("data.train", folder, SPACE, keep)


def test_clips_are_pieces_of_so_many_episodes_and_always_the_same(folder):
    clips = clips_of(folder, count=4, length=6)
    again = clips_of(folder, count=4, length=6)
    whole = clips_of(folder, count=99, length=6)
    assert len(clips) == 4
    assert len(whole) == len(LENGTHS)
    for one, other, first in zip(clips, again, whole[:4], strict=True):
        for name, column in one.columns.items():
            assert_close(column, other.columns[name])
            assert_close(column, first.columns[name])
    for clip in whole:
        number, start = divmod(int(clip.columns["obs_vector"][0, 0]), 100)
        expected = min(LENGTHS[number] + 1, 6)
        steps = np.arange(start, start + expected)
        assert_close(clip.columns["reward"], steps.astype(np.float32))  # 0 at the reset
        assert clip.columns["is_first"].tolist() == [True] + [False] * (expected - 1)
        assert start + expected <= LENGTHS[number] + 1


def test_stacked_clips_are_padded_and_masked(folder):
    clips = clips_of(folder, count=99, length=6)
    held_out = stack(clips)
    assert held_out.mask.shape == held_out.batch.reward.shape == (6, len(LENGTHS))
    for n, clip in enumerate(clips):
        length = len(clip.columns["reward"])
        assert held_out.mask[:, n].sum() == length
        assert_close(held_out.batch.obs["vector"][:length, n].numpy(), clip.columns["obs_vector"])
        assert_close(held_out.batch.prev_action[:length, n].numpy(), clip.columns["prev_action"])
        assert not held_out.batch.reward[length:, n].any()
