"""Checkpoints that end with a checksum."""

import random
import zipfile

import pytest
import torch

from dreamer.checkpoint_file import install, read_checkpoint
from dreamer.files import DamagedFile

STATE = {"counters": {"frames": 7, "updates": 3}, "state_dict": {"w": torch.arange(500.0)}}


@pytest.fixture
def path(tmp_path):
    torch.save(STATE, tmp_path / "draft")
    install(tmp_path / "draft", tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_torch_reads_the_file_as_well(path):
    assert read_checkpoint(path)["state_dict"]["w"].equal(STATE["state_dict"]["w"])
    for mmap in (False, True):
        assert torch.load(path, weights_only=True, mmap=mmap)["counters"] == STATE["counters"]
    assert zipfile.ZipFile(path).testzip() is None


def test_no_flipped_bit_is_overlooked(path, tmp_path):
    whole, generator = path.read_bytes(), random.Random(0)
    places = [generator.randrange(len(whole)) for _ in range(150)]
    for place in [*places, *range(len(whole) - 100, len(whole))]:
        data = bytearray(whole)
        data[place] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        with pytest.raises(DamagedFile, match="last.ckpt is damaged"):
            read_checkpoint(path)


def test_a_flipped_bit_of_a_weight_is_seen_in_files_of_earlier_versions(tmp_path):
    old = tmp_path / "last.ckpt"
    torch.save(STATE, old)
    whole = old.read_bytes()
    weights = whole.index(torch.arange(500.0).numpy().tobytes())
    for place in range(weights, weights + 2000, 40):
        data = bytearray(whole)
        data[place] ^= 4
        old.write_bytes(data)
        with pytest.raises(DamagedFile, match="does not match its checksum"):
            read_checkpoint(old)


def test_a_file_that_cannot_be_read_back_replaces_none(path, tmp_path):
    before = path.read_bytes()
    torch.save({"counters": {"frames": 9, "updates": 9}, "path": tmp_path}, tmp_path / "draft")
    with pytest.raises(OSError, match="cannot be read back.*The one before is still there"):
        install(tmp_path / "draft", path, previous=tmp_path / "previous.ckpt")
    assert path.read_bytes() == before
    assert not (tmp_path / "previous.ckpt").exists()


@pytest.mark.parametrize("counters", [{"frames": "x", "updates": 3}, {"frames": -1}, [3], None])
def test_a_checkpoint_counts_frames_and_updates(counters, tmp_path):
    torch.save({"counters": counters}, tmp_path / "last.ckpt")
    with pytest.raises(DamagedFile, match="last.ckpt is damaged or not a checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_the_one_before_is_kept(path, tmp_path):
    before = path.read_bytes()
    torch.save({"counters": {"frames": 9, "updates": 9}}, tmp_path / "draft")
    install(tmp_path / "draft", path, previous=tmp_path / "previous.ckpt")
    assert read_checkpoint(path)["counters"]["frames"] == 9
    assert (tmp_path / "previous.ckpt").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
