"""Weights in the format safetensors."""

import json
import random

import pytest
import torch

from dreamer.files import DamagedFile
from dreamer.tensor_file import load_tensors, save_tensors

TENSORS = {
    "weight": torch.arange(6.0).reshape(2, 3).T,
    "half": torch.ones(3, dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 4),
}


@pytest.fixture
def path(tmp_path):
    save_tensors(tmp_path / "w.safetensors", TENSORS, {"frames": "3"})
    return tmp_path / "w.safetensors"


def test_tensors_come_back(path):
    loaded = load_tensors(path)
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)


def test_the_layout_is_that_of_the_format(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % 8 == 0
    assert header["__metadata__"].keys() == {"frames", "program", "sha256"}
    assert header["__metadata__"]["frames"] == "3"
    assert header["weight"] == {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}
    assert len(data) == 8 + length + header["nothing"]["data_offsets"][1]


def test_every_flipped_bit_is_seen(path):
    whole, generator = path.read_bytes(), random.Random(0)
    end = 8 + int.from_bytes(whole[:8], "little")
    places = [generator.randrange(8 * len(whole)) for _ in range(300)]
    places += [8 * place for place in range(end, len(whole))]
    for place in places:
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(DamagedFile):
            load_tensors(path)


def test_files_of_other_programs_need_no_checksum(path):
    assert load_tensors(rewritten(path, {}))["steps"] == 7
    first = {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}
    for entry in (
        {"shape": [2**40]},
        {"shape": [0, 2**62, 2**62], "data_offsets": [0, 0]},
        {"data_offsets": [-4, 20]},
        {"data_offsets": [2, 26]},
        {"dtype": "O"},
    ):
        with pytest.raises(DamagedFile, match="w.safetensors is damaged"):
            load_tensors(rewritten(path, {"weight": first | entry}))


def rewritten(path, changes):
    """Write the file with other entries, and no notes."""
    save_tensors(path, TENSORS, {})
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = {**json.loads(data[8:end]), **changes}
    del header["__metadata__"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    return path


def test_damage_is_told_and_ends_no_interpreter(path):
    whole, generator = path.read_bytes(), random.Random(0)
    for end in range(0, len(whole) - 2, 9):
        path.write_bytes(whole[:end])
        with pytest.raises(DamagedFile, match="w.safetensors is damaged"):
            load_tensors(path)
    for _ in range(300):
        data = bytearray(whole)
        data[generator.randrange(200)] = generator.randrange(256)
        path.write_bytes(data)
        try:
            load_tensors(path)
        except DamagedFile as error:
            assert "\n" not in str(error)
