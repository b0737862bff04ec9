"""Batches from the copy on the device are those of the files, whatever has happened to them."""

import pytest
import torch

from dreamer.replay import device_cache
from dreamer.replay.buffer import ReplayConfig
from dreamer.replay.device_cache import DeviceCache

LENGTH = 5


def use_mirror(replay, device="cpu"):
    """What replay.device does, also for a device on which it would be of no use."""
    replay._device_cache = DeviceCache(replay._files, replay._sampled, torch.device(device))
    return replay


def assert_same_batches(one, other):
    for _ in range(5):
        expected, actual = one.sample(7, LENGTH), other.sample(7, LENGTH)
        for x, y in zip(flat(expected), flat(actual), strict=True):
            torch.testing.assert_close(y.cpu(), x, rtol=0, atol=0)


def flat(batch):
    return [*batch.obs.values(), *batch[1:]]


@pytest.mark.parametrize("env_count", [1, 3])
def test_same_seed_gives_the_same_batches_while_the_ring_wraps(make_replay, make_world, env_count):
    plain = make_replay(env_count, 31 * env_count, directory="plain")
    mirrored = use_mirror(make_replay(env_count, 31 * env_count, directory="mirrored"))
    worlds = make_world(env_count), make_world(env_count)
    for steps in (29, 1, 2, 7, 40, 3, 31, 100):
        for world, replay in zip(worlds, (plain, mirrored), strict=True):
            world.play(replay, steps)
        assert_same_batches(plain, mirrored)


def test_steps_found_on_opening_are_copied_in_chunks(make_replay, make_world, monkeypatch):
    monkeypatch.setattr(device_cache, "CHUNK", 4)
    make_world(3).play(make_replay(capacity=93), 75)
    assert_same_batches(make_replay(capacity=93), use_mirror(make_replay(capacity=93)))


@pytest.mark.parametrize("kept", [0, 20])
def test_steps_written_after_a_roll_back_are_copied_anew(make_replay, make_world, kept):
    replays = make_replay(directory="plain"), use_mirror(make_replay(directory="mirrored"))
    worlds = make_world(3), make_world(3)
    for world, replay in zip(worlds, replays, strict=True):
        world.play(replay, kept)
        state = replay.state_dict()
        world.play(replay, 40)
        replay.sample(7, LENGTH)
        replay.load_state_dict(state)
        world.roll_back(kept)
        make_world(3, seed=1).play(replay, 40)
    assert_same_batches(*replays)


def test_unknown_device_is_refused():
    with pytest.raises(ValueError, match="`device` must be cpu or cuda, got `gpu`"):
        ReplayConfig(100, "episodes", False, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_cuda_without_a_device_is_refused(tmp_path):
    from dreamer.replay.buffer import Replay

    config = ReplayConfig(100, "episodes", False, device="cuda")
    with pytest.raises(ValueError, match="`replay.device` to be cpu without a CUDA device"):
        Replay(
            tmp_path / "replay",
            obs_shapes={"vector": (3,)},
            action_size=2,
            env_count=1,
            config=config,
            seed=0,
        )
    assert not (tmp_path / "replay").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_cuda_are_those_of_the_files(make_replay, make_world):
    plain = make_replay(directory="plain", capacity=93)
    mirrored = use_mirror(make_replay(directory="mirrored", capacity=93), "cuda")
    for steps in (30, 50):
        for replay in (plain, mirrored):
            make_world(3).play(replay, steps)
        assert_same_batches(plain, mirrored)
    assert {x.device.type for x in flat(mirrored.sample(7, LENGTH))} == {"cuda"}
