"""Stored episodes: read without touching them, and copied into a replay step by step."""

import numpy as np
import pytest
from replay_world import ACTION_SIZE, OBS_SHAPES, World

from dreamer.replay import stored
from dreamer.replay.buffer import Replay, ReplayConfig, columns_of
from dreamer.replay.stored import copy_episodes, count_too_old, read_replay


def open_replay(directory, env_count, capacity=1000, sampling="episodes"):
    return Replay(
        directory,
        obs_shapes=OBS_SHAPES,
        action_size=ACTION_SIZE,
        env_count=env_count,
        config=ReplayConfig(capacity, sampling, across_episodes=False),
        seed=0,
    )


@pytest.fixture(params=[3, 2**8])
def chunk(request, monkeypatch):
    """Pieces that are shorter, and longer, than episodes."""
    monkeypatch.setattr(stored, "CHUNK", request.param)


@pytest.fixture
def play(tmp_path):
    """A replay with steps of a world."""

    def make(env_count=3, steps=61, capacity=1000, **options):
        replay = open_replay(tmp_path / "source", env_count, capacity)
        world = World(env_count, **options)
        world.play(replay, steps)
        return world, replay

    return make


def steps_of(episode):
    """All steps of an episode by column."""
    pieces = list(episode.read())
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def origins(replay):
    """The episodes held: of each step, the environment and the number that the world gave it."""
    files, found = replay._files, []
    for env in range(files.env_count):
        slots = np.arange(files.oldest, files.steps) % files.slots
        rows = files.columns["obs_vector"][env, slots, :2].astype(int).tolist()
        first = files.columns["is_first"][env, slots]
        assert first[0]
        for row, is_first in zip(rows, first, strict=True):
            if is_first:
                found.append([])
            found[-1].append(tuple(row))
    return found


def of_world(world, until):
    """The same of all episodes of a world, the oldest first; the open ones end with the newest."""
    found = []
    for env in range(world.env_count):
        starts = np.flatnonzero(world.is_first[:, env]).tolist()
        for start, stop in zip(starts, [*starts[1:], until], strict=True):
            found.append([(env, n) for n in range(start, stop)])
    return sorted(found, key=lambda episode: episode[0][::-1])


def test_only_the_named_columns_are_read(play, tmp_path):
    play()
    found = read_replay(tmp_path / "source")
    assert found is not None
    for episode in found.episodes:
        assert {name for piece in episode.read(["reward"]) for name in piece} == {"reward"}


def test_episodes_are_read_with_every_column(play, tmp_path, chunk):
    world, _ = play()
    found = read_replay(tmp_path / "source")
    assert found is not None and found.headless == 0
    assert found.columns == columns_of(OBS_SHAPES, ACTION_SIZE)
    assert len(found.episodes) == world.is_first.sum()
    for episode, origin in zip(found.episodes, of_world(world, 61), strict=True):
        steps = steps_of(episode)
        env, numbers = origin[0][0], np.array([n for _, n in origin])
        assert episode.length == len(origin) == len(steps["reward"])
        assert (
            steps["obs_vector"]
            == np.stack([np.full_like(numbers, env), numbers, np.ones_like(numbers)], 1)
        ).all()
        assert (steps["obs_image"] == ((31 * env + numbers) % 256)[:, None, None, None]).all()
        assert (steps["reward"][1:] == numbers[1:]).all() and steps["reward"][0] == 0
        assert (
            steps["prev_action"][1:] == np.stack([np.full_like(numbers, env + 1), numbers], 1)[1:]
        ).all()
        assert (steps["is_first"] == world.is_first[numbers, env]).all()
        assert (steps["is_last"] == world.is_last[numbers, env]).all()


def test_a_full_ring_has_lost_starts(play, tmp_path):
    world, replay = play(steps=200, capacity=3 * 40)
    found = read_replay(tmp_path / "source")
    assert found is not None
    whole = [episode for episode in of_world(world, 200) if episode[0][1] >= 160]
    assert [episode.length for episode in found.episodes] == list(map(len, whole))
    assert found.headless == 3 * 40 - sum(map(len, whole)) > 0


def test_directories_without_steps_have_no_episodes(tmp_path, play):
    assert read_replay(tmp_path / "nowhere") is None
    _, replay = play(steps=5)
    replay.clear()
    assert read_replay(tmp_path / "source") is None
    (tmp_path / "source" / "own.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"own.txt is not part of a replay"):
        read_replay(tmp_path / "source")


@pytest.mark.parametrize("env_count", [1, 2, 4])
def test_a_copy_holds_the_episodes_in_order(play, tmp_path, chunk, env_count):
    world, _ = play()
    before = {p: p.read_bytes() for p in (tmp_path / "source").iterdir()}
    found = read_replay(tmp_path / "source")
    assert found is not None
    replay = open_replay(tmp_path / "copy", env_count)
    copied = copy_episodes(found.episodes, replay, env_count=env_count)
    assert {p: p.read_bytes() for p in (tmp_path / "source").iterdir()} == before
    expected, held = of_world(world, 61), origins(replay)
    assert copied.episodes == replay.episodes == len(held)
    total = sum(map(len, held))
    assert copied.policy_steps == replay.policy_steps == total - len(held)
    assert copied.lost_steps == sum(map(len, expected)) - total
    for episode in held:  # whole, or the beginning of one
        (whole,) = [e for e in expected if e[0] == episode[0]]
        assert whole[: len(episode)] == episode
    if env_count == 1:
        assert held == expected and copied.lost_steps == 0
    cut = sum(episode not in expected for episode in held)
    assert cut < env_count and copied.lost_steps <= (env_count - 1) * 14
    assert replay._files.columns["is_last"][:, replay._files.steps - 1].all()
    replay.sample(5, 4)
    world = World(env_count)
    world.play(replay, 9)  # the new run continues with resets
    assert replay.total_policy_steps == copied.policy_steps + int((~world.is_first).sum())


def test_a_cut_end_is_not_terminal(tmp_path):
    source = open_replay(tmp_path / "source", 2)
    World(2, lengths=iter([3, 9]).__next__).play(source, 3)
    found = read_replay(tmp_path / "source")
    assert found is not None
    replay = open_replay(tmp_path / "copy", 2)
    assert copy_episodes(found.episodes, replay, env_count=2) == (2, 4, 0)
    assert replay._files.columns["is_last"][:, 2].all()
    assert replay._files.columns["is_terminal"][:, 2].tolist() == [True, False]


@pytest.mark.parametrize(
    ("capacity", "count"), [(0, 0), (4, 0), (5, 1), (11, 1), (12, 2), (15, 3), (99, 3)]
)
def test_the_newest_episodes_that_fit_are_kept(capacity, count):
    assert count_too_old((3, 7, 5), capacity) == 3 - count


def test_a_smaller_replay_keeps_the_newest(play, tmp_path):
    world, _ = play()
    found = read_replay(tmp_path / "source")
    assert found is not None
    too_old = count_too_old([episode.length for episode in found.episodes], 80)
    replay = open_replay(tmp_path / "copy", 1, 80)
    copied = copy_episodes(found.episodes[too_old:], replay, env_count=1)
    assert copied.lost_steps == 0
    assert origins(replay) == of_world(world, 61)[too_old:]
    assert 80 - 14 < copied.policy_steps + copied.episodes <= 80


def test_steps_that_are_overwritten_meanwhile_are_left_out(play, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "CHUNK", 4)
    world, source = play(env_count=1, steps=60, capacity=60)
    found = read_replay(tmp_path / "source")
    assert found is not None
    replay = open_replay(tmp_path / "copy", 1)
    calls = []

    def overwrite():
        if not calls:
            world.play(source, 50)
        calls.append(1)

    copied = copy_episodes(found.episodes, replay, env_count=1, check=overwrite)
    held = origins(replay)
    assert copied.lost_steps > 20
    assert len(held) == copied.episodes == replay.episodes
    whole = of_world(world, 110)
    for episode in held:
        (same,) = [e for e in whole if e[0] == episode[0]]
        assert same[: len(episode)] == episode


def test_a_roll_back_meanwhile_is_noticed(play, tmp_path):
    _, source = play(env_count=1, steps=30)
    found = read_replay(tmp_path / "source")
    assert found is not None
    source._files.roll_back(10, floor=0)
    lengths = [sum(len(p["reward"]) for p in e.read()) for e in found.episodes]
    assert 0 in lengths and sum(lengths) <= 10


def test_a_copy_can_be_stopped(play, tmp_path):
    play()
    found = read_replay(tmp_path / "source")
    assert found is not None
    replay = open_replay(tmp_path / "copy", 1)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_episodes(found.episodes, replay, env_count=1, check=stop)
    assert replay.policy_steps > 0
    replay.clear()
    assert copy_episodes(found.episodes, replay, env_count=1).episodes == len(found.episodes)
