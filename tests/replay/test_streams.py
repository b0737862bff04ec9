"""Streams: every entry of a batch continues where it ended in the batch before."""

import functools
import io
import itertools

import numpy as np
import pytest
import torch

from dreamer.replay.streams import SequentialSampler

PLAIN = dict(
    skip_first=False,
    allow_mid_reset=True,
    reset_interval=0,
    piece_policy_steps=0,
    newest_policy_steps=0,
)


def sequential(**changes):
    return functools.partial(SequentialSampler, **PLAIN | changes)


def numbers(batch):
    """The environment and the number of every step, (T, B) each."""
    vector = batch.obs["vector"].numpy().astype(int)
    return vector[..., 0], vector[..., 1]


def read(replay, size, length, batches):
    """Stream by stream, all steps in the order in which they were read: env, step, is_first."""
    rows = [[] for _ in range(size)]
    for _ in range(batches):
        batch = replay.sample(size, length)
        env, step = numbers(batch)
        for entry, row in enumerate(rows):
            columns = env[:, entry], step[:, entry], batch.is_first[:, entry].numpy()
            row += zip(*(x.tolist() for x in columns), strict=True)
    return rows


def test_every_stream_reads_whole_episodes_in_order(make_replay, make_world):
    replay = make_replay(2, 300, sampling=sequential())
    world = make_world(2, lengths=itertools.cycle([9, 23, 7, 14]).__next__)
    world.play(replay, 140)
    episodes = [(e, a, b) for e, a, b in world.episodes() if b - a >= 6]
    read_whole = set()
    for row in read(replay, 3, 6, 150):
        while row:
            env, first, is_first = row[0]
            episode = next(x for x in episodes if x[:2] == (env, first))
            length = min(episode[2] - first, len(row))
            assert is_first and not any(flag for _, _, flag in row[1:length])
            assert [x[:2] for x in row[:length]] == [(env, first + n) for n in range(length)]
            read_whole.add(episode)
            row = row[length:]
    assert read_whole == set(episodes)  # none in progress, none shorter than a sequence


def test_batches_hold_what_is_stored(make_replay, make_world):
    replay = make_replay(3, 300, sampling=sequential(skip_first=True))
    world = make_world(3)
    world.play(replay, 250)
    for _ in range(40):
        batch = replay.sample(4, 6)
        env, step = numbers(batch)
        assert (step >= 150).all()  # of 250 steps the newest 100 are held
        first = world.is_first[step, env]
        assert (batch.is_first.numpy() == first).all()  # pieces are whole episodes here
        assert (batch.reward.numpy() == np.where(first, 0, step)).all()
        pixel = (31 * env + step) % 256
        assert (batch.obs["image"].numpy() == pixel[..., None, None, None]).all()


def test_the_first_step_of_a_piece_is_a_reset_without_a_reward(make_replay, make_world):
    replay, world = make_replay(1, sampling=sequential()), make_world(1, lengths=lambda: 9)
    for _ in range(40):
        step, action = world.step()
        replay.add(step._replace(reward=step.reward + 5), action)  # of resets, too
    batch = replay.sample(2, 9)
    assert batch.is_first[0].all() and not batch.is_first[1:].any()
    assert (batch.reward[0] == 0).all()
    assert (batch.reward[1:] == 5 + batch.obs["vector"][1:, :, 1]).all()


def test_only_the_first_piece_of_a_stream_may_start_inside(make_replay, make_world):
    replay = make_replay(1, sampling=sequential(skip_first=True))
    world = make_world(1, lengths=lambda: 30)
    world.play(replay, 30 * 7)
    first = replay.sample(200, 10)
    offsets = numbers(first)[1][0] % 30
    assert set(offsets) == set(range(21))  # up to the last one that leaves a whole sequence
    assert (first.is_first[0].numpy() == (offsets == 0)).all()
    later = [replay.sample(200, 10) for _ in range(9)]
    for batch in later:
        assert (batch.is_first.numpy() == (numbers(batch)[1] % 30 == 0)).all()
    assert any(batch.is_first.any() for batch in later)


@pytest.mark.parametrize("allow_mid_reset", [True, False])
def test_a_last_shorter_chunk_is_completed_or_dropped(make_replay, make_world, allow_mid_reset):
    sampling = sequential(allow_mid_reset=allow_mid_reset)
    replay, world = make_replay(1, sampling=sampling), make_world(1, lengths=lambda: 13)
    world.play(replay, 60)
    row = read(replay, 1, 5, 13)[0]
    inside = [step % 13 for _, step, _ in row]
    if allow_mid_reset:  # 5 + 5 + 3, and 2 of the next
        assert inside == [*range(13)] * 5
    else:
        assert inside == [*range(10)] * 6 + [*range(5)]
    assert [flag for _, _, flag in row] == [n == 0 for n in inside]


def test_random_resets_stand_at_the_start_of_chunks(make_replay, make_world):
    length, interval = 4, 20
    replay = make_replay(1, 2000, sampling=sequential(reset_interval=interval))
    world = make_world(1, lengths=lambda: 150)
    world.play(replay, 1000)
    row = read(replay, 5, length, 500)[0]
    resets = [step % 150 for _, step, flag in row if flag]
    cuts = [n for n in resets if n]
    assert len(cuts) > 5 and all(n % length == 0 or n % length == 2 for n in cuts)
    distances = np.diff([n for n, (_, _, flag) in enumerate(row) if flag])
    assert distances.min() >= length and (distances > interval).any()
    # n is uniform in 1 ... 8, so that there are 3.5 cuts per episode of 150 steps.
    episodes = resets.count(0)
    assert 2.4 < len(cuts) / episodes < 4.6


def test_short_episodes_are_joined(make_replay, make_world):
    world = make_world(1, lengths=lambda: 4)
    alone = make_replay(1, sampling=sequential())
    joined = make_replay(1, sampling=sequential(piece_policy_steps=20), directory="joined")
    for _ in range(99):
        step, action = world.step()
        alone.add(step, action)
        joined.add(step, action)
    assert not alone.can_sample(5)
    with pytest.raises(ValueError, match="No sequence of 5 steps can be sampled"):
        alone.sample(2, 5)
    row = read(joined, 1, 7, 40)[0]
    steps = [step for _, step, _ in row]
    assert [flag for _, _, flag in row] == [step % 4 == 0 for step in steps]
    jumps = [b for a, b in itertools.pairwise(steps) if b != a + 1]
    assert jumps and all(step % 20 == 0 for step in [steps[0], *jumps])
    assert max(steps) == 95  # the last piece has 16 steps, and then one episode is in progress


def test_only_the_newest_pieces_are_read(make_replay, make_world):
    world = make_world(2, lengths=lambda: 10)  # 9 policy steps each
    replay = make_replay(2, 600, sampling=sequential(newest_policy_steps=28))
    world.play(replay, 100)
    steps = {(env, step // 10) for env, step, _ in read(replay, 4, 5, 60)[0]}
    assert steps == {(0, 9), (1, 9), (0, 8)}  # 27 steps are below 28, 36 are not


def test_pieces_follow_what_the_replay_holds(make_replay, make_world):
    replay = make_replay(2, 200, sampling=sequential(skip_first=True))
    world = make_world(2, lengths=itertools.cycle([12, 17, 26]).__next__)
    world.play(replay, 60)
    for _ in range(300):
        world.play(replay, 3)
        batch = replay.sample(3, 6)
        _, step = numbers(batch)
        assert step.min() >= world.steps - 100 and step.max() < world.steps


def test_a_stream_restarts_when_its_steps_are_overwritten(make_replay, make_world):
    replay, world = make_replay(1, 100, sampling=sequential()), make_world(1, lengths=lambda: 40)
    assert make_replay(1, 100, directory="other").stream_restarts is None
    world.play(replay, 80)
    replay.sample(2, 5)
    assert replay.stream_restarts == 0
    world.play(replay, 64)  # step 43 is overwritten, 44 is not
    oldest = world.steps - 100
    env, step = numbers(replay.sample(2, 5))
    assert step.min() >= oldest
    world.play(replay, 80)
    before = replay.stream_restarts
    batch = replay.sample(2, 5)
    assert replay.stream_restarts == before + 2
    assert batch.is_first[0].all() and set(numbers(batch)[1][0] % 40) == {0}


def test_a_piece_that_was_read_to_its_end_is_no_loss(make_replay, make_world):
    replay, world = make_replay(1, 60, sampling=sequential()), make_world(1, lengths=lambda: 10)
    world.play(replay, 30)
    replay.sample(3, 10)
    world.play(replay, 300)
    replay.sample(3, 10)
    assert replay.stream_restarts == 0


def test_saved_streams_continue(make_replay, make_world):
    kind = 2, 400, sequential(skip_first=True, reset_interval=13)
    replay, world = make_replay(*kind), make_world(2, lengths=itertools.cycle([26, 60]).__next__)
    world.play(replay, 26 + 60 + 26 + 60)
    for _ in range(5):
        replay.sample(3, 6)
    replay.close_episodes()  # as a load does
    file = io.BytesIO()
    torch.save(replay.state_dict(), file)
    file.seek(0)
    restored = make_replay(*kind, seed=9)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(30):
        torch.testing.assert_close(replay.sample(3, 6), restored.sample(3, 6), rtol=0, atol=0)
    assert restored.stream_restarts == replay.stream_restarts == 0


def test_streams_beyond_a_roll_back_restart(make_replay, make_world):
    kind = 1, 100, sequential()
    replay, world = make_replay(*kind), make_world(1, lengths=lambda: 40)
    world.play(replay, 120)
    replay.sample(2, 5)
    state = replay.state_dict()
    world.play(replay, 90)  # overwrites all but the newest ten steps of the state
    with pytest.warns(UserWarning, match="overwritten"):
        replay.load_state_dict(state)
    world.roll_back(120)
    world.play(replay, 45)
    replay.sample(2, 5)
    assert replay.stream_restarts == 2


def test_the_batch_size_must_stay(make_replay, make_world):
    replay, world = make_replay(1, sampling=sequential()), make_world(1)
    world.play(replay, 90)
    replay.sample(3, 4)
    with pytest.raises(ValueError, match="The batch size must stay 3, .* got 4"):
        replay.sample(4, 4)


def test_combinations_that_cannot_work_are_refused(make_replay, make_world):
    with pytest.raises(
        ValueError, match="`replay.across_episodes` must be false with .*sequential"
    ):
        make_replay(1, sampling=sequential(), across_episodes=True)
    replay, world = make_replay(1, sampling=sequential(reset_interval=10)), make_world(1)
    world.play(replay, 60)
    with pytest.raises(ValueError, match=r"reset_interval` must be 0, or at least .* 11, got 10"):
        replay.sample(2, 5)
    replay.sample(2, 4)
