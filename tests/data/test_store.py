"""The files of a run's store: their names, and which of them make up a replay."""

from pathlib import Path

import numpy as np
import pytest

from dreamer.data import store
from dreamer.data.address import find
from dreamer.data.formats import Pass
from dreamer.data.store import EpisodeWriter, Name, find_episodes, name_of, parse
from dreamer.replay.buffer import Replay, ReplayConfig
from dreamer.types import TimeStep

RUN = "0a1b2c3d"
SHAPES = {"image": (3, 8, 9), "arm/joints": (4,), "map": (5, 6)}


def fill(replay, envs, steps, length):
    """Episodes of so many steps; everything tells step and environment."""
    for n in range(replay.steps, replay.steps + steps):
        value = np.arange(envs) * 100 + n
        obs = {
            key: np.broadcast_to(value.reshape(-1, *[1] * len(shape)), (envs, *shape)).astype(
                np.float32 if len(shape) == 1 else np.uint8
            )
            for key, shape in SHAPES.items()
        }
        first, last = n % length == 0, n % length == length - 1
        flags = (np.full(envs, x) for x in (first, last, last and n % 2 == 0))
        reward = np.where(first, 0, value).astype(np.float32)
        replay.add(TimeStep(obs, reward, *flags), np.stack([value, -value], 1) * (not first) / 1e3)


@pytest.fixture
def replay(tmp_path):
    def make(envs=2, capacity=200, name="replay"):
        return Replay(
            tmp_path / name,
            obs_shapes=SHAPES,
            action_size=2,
            env_count=envs,
            config=ReplayConfig(capacity, "episodes", False),
            seed=0,
        )

    return make


@pytest.fixture
def place(tmp_path):
    return find(str(tmp_path / "store"))


def touch(place, *, time, start, stop, env=0, run=RUN):
    place.write(str(Name(time, run, env, start, stop - start - 1)), b"")


def ranges(place, limit, monkeypatch):
    """First step and steps of the episodes that are found."""
    found = []
    monkeypatch.setattr(store, "_reader", lambda place, path, rows, broken: (parse(path), rows))
    for found_ in find_episodes(place, RUN, limit).episodes:
        name, rows = found_.read  # pyright: ignore
        found.append((name.env, name.start, rows))
    return found


def test_names_are_like_the_authors_and_tell_what_the_files_hold():
    name = name_of(RUN, 3, 2**33, 2**33 + 11)
    time, identifier, length = str(name).removesuffix(".npz").split("-")
    assert (len(time), len(identifier), length) == (15, 32, "10")
    assert parse(f"bucket/run/{name}") == name
    assert name.stop - name.start == 11
    assert parse("bucket/20261130T001100-1134383e64b530744df11a87e4eeb524.npz") is None


def test_episodes_are_written_as_they_are_and_read_back(replay, place, tmp_path):
    ring, ended = replay(), []
    ring.on_episode = lambda *episode: ended.append(episode)
    fill(ring, 2, 25, length=7)
    assert ended == [(e, s, s + 7) for s in (0, 7, 14) for e in (0, 1)]
    writer = EpisodeWriter(place, tmp_path / "replay")
    for env, start, stop in [*ended, *ring.open_episodes()]:
        assert writer.write(name_of(RUN, env, start + 1000, stop + 1000), start)
    found = find_episodes(place, RUN, 1025)
    assert [episode.length for episode in found.episodes] == [7, 7, 7, 7, 7, 7, 4, 4]
    columns = ring._files.columns
    for number, episode in enumerate(found.episodes):
        (piece,) = episode.read()
        env, start = number % 2, number // 2 * 7
        for key, array in piece.items():
            expected = columns[key][env, start : start + episode.length]
            if key == "is_last":  # a cut episode ends, too
                expected = np.arange(episode.length) == episode.length - 1
            np.testing.assert_array_equal(array, expected, err_msg=key)
            assert array.dtype == expected.dtype
    walk = Pass.of(place.address)
    assert len(list(walk.whole())) == 8 and not walk.skipped


def test_what_the_replay_has_overwritten_is_not_written(replay, place, tmp_path):
    ring = replay(capacity=20)
    fill(ring, 2, 40, length=7)
    assert not EpisodeWriter(place, tmp_path / "replay").write(name_of(RUN, 0, 0, 7), 0)
    assert not Path(place.path).exists()


def test_episodes_end_with_the_checkpoint_and_other_runs_are_left_out(place, monkeypatch):
    touch(place, time="20260101T000000", start=0, stop=10)
    touch(place, time="20260101T000000", start=0, stop=12, env=1)
    touch(place, time="20260101T000009", start=10, stop=20)
    touch(place, time="20260101T000010", start=20, stop=30)
    touch(place, time="20260101T000000", start=0, stop=9, run="ffffffff")
    place.write("20260101T000000-1134383e64b530744df11a87e4eeb524-9.npz", b"")
    assert ranges(place, 17, monkeypatch) == [(0, 0, 10), (1, 0, 12), (0, 10, 7)]
    assert ranges(place, 11, monkeypatch) == [(0, 0, 10), (1, 0, 11)]
    assert ranges(place.folder("missing"), 11, monkeypatch) == []


def test_of_steps_that_were_repeated_the_newer_ones_count(place, monkeypatch):
    # The first process got to step 40; the second went on from a checkpoint at 15.
    for start, stop in ((0, 10), (10, 20), (20, 30), (30, 40)):
        touch(place, time=f"20260101T0000{stop:02}", start=start, stop=stop)
    for start, stop in ((10, 15), (15, 27), (27, 33)):
        touch(place, time=f"20260101T0001{stop:02}", start=start, stop=stop)
    assert ranges(place, 33, monkeypatch) == [(0, 0, 10), (0, 10, 5), (0, 15, 12), (0, 27, 6)]


def test_broken_files_are_left_out_and_named(replay, place, tmp_path):
    ring, ended = replay(envs=1), []
    ring.on_episode = lambda *episode: ended.append(episode)
    fill(ring, 1, 21, length=7)
    writer = EpisodeWriter(place, tmp_path / "replay")
    for env, start, stop in ended:
        writer.write(name_of(RUN, env, start, stop), start)
    path = sorted(Path(place.path).iterdir())[1]
    path.write_bytes(path.read_bytes()[:50])
    found = find_episodes(place, RUN, 21)
    assert [len(list(episode.read())) for episode in found.episodes] == [1, 0, 1]
    assert list(found.broken) == [path.name]
