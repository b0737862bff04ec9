"""Reads pickled NumPy arrays without unpickling: it builds arrays, and calls nothing.

`convert.py` reads the authors' `variables.pkl` with it. It knows the instructions of the pickle
format and what NumPy writes for an array, but no other class.
"""

import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

KINDS = {"b1", "f2", "f4", "f8", *(f"{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8))}
MOST_DIMENSIONS = 32
MOST_OBJECTS = 100_000  # nested containers can repeat each other without end


class ArrayPickleError(pickle.UnpicklingError):
    """The file is damaged, or holds something else than arrays."""


class _Name(str):
    """The dotted name of a class or function; it is compared, never imported."""


class _Type:
    """A NumPy dtype: a kind with its size, and the order of its bytes."""

    def __init__(self, kind: str):
        self.kind, self.order = kind, "<"

    def dtype(self) -> np.dtype:
        """Return it as NumPy's; single bytes have no order."""
        return np.dtype(self.kind).newbyteorder(">" if self.order == ">" else "<")


class _Array:
    """An array whose content follows, as `_reconstruct` makes it."""

    value: np.ndarray | None = None


class _Mark(NamedTuple):
    """The start of a list of arguments on the stack."""


def read_arrays(data: bytes) -> Any:
    """Return the arrays, numbers and text of a pickle, in tuples, lists and dictionaries.

    Raises:
        ArrayPickleError: The data is damaged or holds other objects; the message names them.
    """
    machine = _Machine()
    try:
        for instruction, argument, _ in pickletools.genops(data):
            machine.step(instruction.name, argument)
        return _Finish()(machine.stack.pop())
    except ArrayPickleError:
        raise
    except Exception as error:  # of damaged data: many kinds, an IndexError for instance
        raise ArrayPickleError(f"it is damaged ({type(error).__name__})") from error


class _Machine:
    """The stack and the memory of a pickle; only the instructions below exist."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _IGNORED:
            return
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            stack.append(_Mark())
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            self.memory[len(self.memory) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memory[argument])
        elif name == "GLOBAL":
            stack.append(_Name(argument.replace(" ", ".")))
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        else:
            raise ArrayPickleError(f"it must hold NumPy arrays only, got the instruction {name}")

    def pop(self, count: int) -> tuple[Any, ...]:
        values = tuple(self.stack[len(self.stack) - count :])
        if len(values) != count:
            raise IndexError
        del self.stack[len(self.stack) - count :]
        return values

    def pop_to_mark(self) -> list[Any]:
        start = max(i for i, value in enumerate(self.stack) if isinstance(value, _Mark))
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def push_tuple(self, count: int) -> None:
        self.stack.append(self.pop(count))

    def name(self) -> None:
        module, name = self.pop(2)
        self.stack.append(_Name(f"{module}.{name}"))

    def call(self) -> None:
        function, arguments = self.pop(2)
        self.stack.append(_called(function, arguments))

    def build(self) -> None:
        (state,) = self.pop(1)
        _set_state(self.stack[-1], state)

    def append(self, values: list[Any]) -> None:
        assert isinstance(self.stack[-1], list)
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        assert isinstance(self.stack[-1], dict)
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))


_IGNORED = {"PROTO", "FRAME", "STOP"}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "TUPLE1": lambda machine: machine.push_tuple(1),
    "TUPLE2": lambda machine: machine.push_tuple(2),
    "TUPLE3": lambda machine: machine.push_tuple(3),
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.pop_to_mark())),
    "LIST": lambda machine: machine.stack.append(machine.pop_to_mark()),
    "APPEND": lambda machine: machine.append(list(machine.pop(1))),
    "APPENDS": lambda machine: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine: machine.set_items(list(machine.pop(2))),
    "SETITEMS": lambda machine: machine.set_items(machine.pop_to_mark()),
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}


def _called(function: Any, arguments: Any) -> Any:
    """Return what a function of NumPy would make of its arguments; it is not called."""
    name = function.replace("numpy.core.", "numpy._core.") if isinstance(function, _Name) else ""
    match name, arguments:
        case "numpy.dtype", (str(kind), *_) if kind in KINDS:
            return _Type(kind)
        case "numpy.dtype", (str(kind), *_):
            raise ArrayPickleError(f"its arrays must hold numbers, got the type {kind}")
        case "numpy._core.multiarray._reconstruct", (_Name() as kind, _, _):
            if kind == "numpy.ndarray":
                return _Array()
        case "numpy._core.multiarray.scalar", (_Type() as kind, content):
            return _filled((), kind, content, "C")[()]
        case "numpy._core.numeric._frombuffer", (content, _Type() as kind, shape, order):
            return _filled(shape, kind, content, order)
    raise ArrayPickleError(f"it must hold NumPy arrays only, got {name or 'another object'}")


def _set_state(target: Any, state: Any) -> None:
    match target, state:
        case _Type(), (int(), str(order), None, None, None, -1, -1, 0) if order in "<>|":
            target.order = order
        case _Array(), (int(), shape, _Type() as kind, bool(fortran), content):
            target.value = _filled(shape, kind, content, "F" if fortran else "C")
        case _:
            raise ArrayPickleError("it must hold arrays of numbers only, got another type")


def _filled(shape: Any, kind: _Type, content: Any, order: Any) -> np.ndarray:
    """Make an array of its own memory, in this machine's order of bytes."""
    dtype = kind.dtype()
    sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not sizes or len(shape) > MOST_DIMENSIONS or not isinstance(content, bytes | bytearray):
        raise ArrayPickleError("an array must have a shape and bytes, got others")
    if len(content) != math.prod(shape) * dtype.itemsize or order not in ("C", "F"):
        raise ArrayPickleError(
            f"an array of shape {shape} must have {math.prod(shape) * dtype.itemsize} bytes, got "
            f"{len(content)}"
        )
    flat = np.frombuffer(content, dtype) if content else np.empty(0, dtype)
    return flat.astype(dtype.newbyteorder("=")).reshape(shape, order=order)


class _Finish:
    """Replaces the arrays in containers; anything but arrays, numbers and text is refused."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, value: Any) -> Any:
        self._count += 1
        if self._count > MOST_OBJECTS:
            raise ArrayPickleError(f"it must hold at most {MOST_OBJECTS:,} objects, got more")
        match value:
            case _Array():
                if value.value is None:
                    raise ArrayPickleError("an array must have a content, got none")
                return value.value
            case _Name() | _Type() | _Mark():
                raise ArrayPickleError(f"it must hold NumPy arrays only, got {value}")
            case tuple():
                return tuple(self(one) for one in value)
            case list():
                return [self(one) for one in value]
            case dict():
                return {key: self(one) for key, one in value.items()}
        return value
