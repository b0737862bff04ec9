"""Weights in the format safetensors: names, types and shapes as JSON, then bytes.

Other programs read it without running code, and so does `init_from`. It knows tensors, no agent.
A checksum of all else is among the notes, where other programs ignore it.

    8 bytes: the header's length | header: {"name": {"dtype", "shape", "data_offsets"}} | data
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamer.files import DamagedFile

SUFFIX = ".safetensors"
NOTES = "__metadata__"  # text about the tensors
CHECKSUM = "sha256"
PROGRAM = ("program", "dreamer")  # a note of files that have a checksum
LONGEST_HEADER = 100_000_000  # bytes, as in the format's description
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in TYPES.items()}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write tensors and text about them.

    Raises:
        ValueError: A tensor has a type that the format lacks.
    """
    header: dict[str, Any] = {}
    notes = {**notes, PROGRAM[0]: PROGRAM[1]}
    blocks, end = [], 0
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise ValueError(f"`{name}` must have a type of the format, got {tensor.dtype}")
        # A view of bytes needs an axis.
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        start, end = end, end + flat.numel()
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        blocks.append(flat.numpy().tobytes())
    data = b"".join(blocks)
    whole = {NOTES: {**notes, CHECKSUM: _checksum({**header, NOTES: notes}, data)}, **header}
    text = json.dumps(whole).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, data]))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors.

    Raises:
        DamagedFile: The file is damaged or has another format.
    """
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(LONGEST_HEADER, len(data) - 8):
        raise DamagedFile(f"{path} is damaged: its header is incomplete.")
    content = memoryview(bytearray(data[8 + length :]))  # writable: torch warns of others
    try:
        header = json.loads(data[8 : 8 + length])
        _verify(header, content)
        entries = {name: entry for name, entry in header.items() if name != NOTES}
        ends = [0]
        for start, stop in sorted(map(_place, entries.values())):
            ends += [stop] if start == ends[-1] else [-1]
        if -1 in ends or ends[-1] != len(content):
            raise ValueError("its tensors must fill it without gaps")
        return {name: _tensor(entry, content) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise DamagedFile(f"{path} is damaged: {reason:.80}.") from error


def load_notes(path: Path) -> dict[str, str]:
    """Read the text about the tensors; nothing is checked but its form, see `load_tensors`.

    Raises:
        DamagedFile: The file is damaged or has another format.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, LONGEST_HEADER))
    try:
        return {str(key): str(value) for key, value in json.loads(header).get(NOTES, {}).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged: its header cannot be read.") from error


def _checksum(header: Mapping[str, Any], data: bytes | memoryview) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()


def _verify(header: Mapping[str, Any], content: memoryview) -> None:
    """Compare the file with its checksum; those of other programs have none."""
    notes = dict(header.get(NOTES, {}))
    written = notes.pop(CHECKSUM, None)
    absent = written is None and notes.get(PROGRAM[0]) != PROGRAM[1]
    if not absent and written != _checksum({**header, NOTES: notes}, content):
        raise ValueError("its content does not match its checksum")


def _place(entry: Mapping[str, Any]) -> tuple[int, int]:
    start, stop = entry["data_offsets"]
    return start, stop


def _tensor(entry: Mapping[str, Any], content: memoryview) -> Tensor:
    dtype, shape, (start, stop) = TYPES[entry["dtype"]], entry["shape"], _place(entry)
    if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
        raise ValueError("sizes must be whole numbers")
    if stop - start != math.prod(shape) * dtype.itemsize or stop > len(content):
        raise ValueError("a tensor does not have the bytes of its shape")
    if start == stop:
        return torch.empty(shape, dtype=dtype)
    return (
        torch.frombuffer(content[start:stop], dtype=torch.uint8).clone().view(dtype).reshape(shape)
    )
