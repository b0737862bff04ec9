"""Pickles of arrays, read by a parser that can build arrays and call nothing."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from dreamer.array_pickle import ArrayPickleError, read_arrays

ARRAYS = (
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4)),
    np.arange(5, dtype=">i4"),
    np.arange(12, dtype=np.float16).reshape(3, 4)[:, ::2],
    np.array([True, False]),
    np.array(7, np.int64),
    np.zeros((0, 3), np.uint8),
    np.float32(2.5),
    np.int32(-3),
)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_are_those_of_pickle(protocol):
    content = (*ARRAYS, [ARRAYS[0], {"a": ARRAYS[0], "n": 3}], "text", 2.5, None)
    read = read_arrays(pickle.dumps(content, protocol))
    np.testing.assert_equal(read, content)
    for array, expected in zip(read, content, strict=True):
        if isinstance(expected, np.ndarray):
            assert array.dtype == expected.dtype.newbyteorder("=")
            array += array.dtype.type(0)  # its own memory


class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "content",
    [
        *(
            Call(os.system, "false"),
            Call(eval, "1"),
            Call(np.zeros, 3),
            Call(getattr, "a", "upper"),
        ),
        *(Call(np.load, "x"), Call(np.frombuffer, b"1234"), eval, np.zeros, np.ndarray),
        *({1, 2}, slice(1, 2), 1j, np.array(["text"]), np.array([None]), np.zeros(2, "f4,i4")),
        *(np.zeros(2, "M8[s]"), np.zeros(2, np.complex64), np.dtype("f4"), bytearray),
        (np.zeros(1), Call(os.system, "false")),
    ],
)
def test_anything_else_is_refused_and_not_called(content, monkeypatch):
    data = pickle.dumps(content)
    for name in ("system", "popen", "mkdir"):
        monkeypatch.setattr(os, name, lambda *_: pytest.fail("it was called"))
    with pytest.raises(ArrayPickleError):
        read_arrays(data)


def test_forged_types_and_damage_end_no_interpreter():
    """In a process of its own: such files have crashed NumPy."""
    program = """
import pickle, random, sys
import numpy as np
from dreamer.array_pickle import ArrayPickleError, read_arrays
whole = pickle.dumps((np.arange(6, dtype=np.float32).reshape(2, 3), np.int32(4)), 4)
generator = random.Random(0)
outcomes = {"read": 0, "refused": 0}
for number in range(4000):
    data = bytearray(whole)
    for _ in range(generator.randint(1, 3)):
        data[generator.randrange(len(data))] = generator.randrange(256)
    if number % 4 == 0:
        data = data[: generator.randrange(len(data))]
    try:
        read_arrays(bytes(data))
        outcomes["read"] += 1
    except ArrayPickleError:
        outcomes["refused"] += 1
print(outcomes)
for state in [
    (3, "<", None, None, None, 99, 99, 255),
    (3, "<", None, ("a",), None, -1, -1, 0),
    (3, "<", (b"f4", (2**62,)), None, None, -1, -1, 0),
    (3, "<", None, None, None, -1, -1, 63),
]:
    class Forged:
        def __reduce__(self):
            return np.dtype, ("f4", False, True), state
    class Array:
        def __reduce__(self):
            return (np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"),
                    (1, (2,), Forged(), False, b"12345678"))
    try:
        read_arrays(pickle.dumps(Array(), 4))
        sys.exit("a forged type was accepted")
    except ArrayPickleError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'read': " in done.stdout and "'refused': " in done.stdout


def test_containers_that_repeat_themselves_are_refused():
    nested = ()
    for _ in range(64):
        nested = (nested, nested)
    with pytest.raises(ArrayPickleError, match="at most 100,000 objects"):
        read_arrays(pickle.dumps(nested))
    endless: list = []
    endless.append(endless)
    with pytest.raises(ArrayPickleError):
        read_arrays(pickle.dumps(endless))


def test_an_array_has_the_bytes_of_its_shape():
    data = pickle.dumps(np.zeros(300, np.float32), 4).replace(b"M\x2c\x01", b"M\x2d\x01")
    with pytest.raises(ArrayPickleError, match=r"shape \(301,\) must have 1204 bytes, got 1200"):
        read_arrays(data)
