"""Gymnasium's spaces in our words: images, vectors, one-hot choices, numbers in [-1, 1].

Suites whose environments speak Gymnasium use it. It knows spaces and arrays, no environment.

What a space becomes, named by its place in dictionaries and tuples ("camera/left", "arm/0"):

    Box of an image's shape, with bounds      image (C, 64, 64) uint8; its bounds are 0 and 255
    any other Box                             vector (O,), flattened, in its own units
    Discrete, MultiDiscrete                   vector of one-hot choices, one after the other
    MultiBinary                               vector of zeros and ones

A Box has an image's shape if it is (height, width), (height, width, C) or (C, height, width) with
edges of 8 pixels or more, and fewer channels than pixels on an edge. The four channels of RGBA stay
four, alpha is one more colour: a stack of four frames looks the same, and loses nothing that way.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from PIL import Image

from dreamer.envs.group import EnvironmentFault
from dreamer.types import ActionSpace

IMAGE_SIZE = 64  # pixels, both edges
LEAST_EDGE = 8  # pixels; what is smaller is a table, not a picture
LUMINANCE = (0.299, 0.587, 0.114)  # weights of red, green and blue; ITU-R BT.601
OBSERVABLE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

Read = Callable[[np.ndarray], np.ndarray]


class GymSpaces(NamedTuple):
    """Both spaces of an environment, and how its observations are read."""

    observation: spaces.Space
    action: spaces.Space
    grayscale: bool
    flat_keys: str


class ObservationReader:
    """Turns observations of one space into dictionaries of images and vectors."""

    def __init__(self, space: spaces.Space, *, grayscale: bool, flat_keys: str):
        """Plan how each part is read.

        Args:
            space: of the observations.
            grayscale: RGB images become one channel, their luminance.
            flat_keys: pattern of names that are vectors though they have an image's shape; a bare
                image's is "image".

        Raises:
            ValueError: nothing in the space can be an image or a vector, or two parts would have
                the same name.
        """
        self.left_out: dict[str, spaces.Space] = {}  # by name, what cannot be observed
        self.shapes: dict[str, tuple[int, ...]] = {}  # by name, in our words
        self._parts: dict[str, tuple[tuple, Read]] = {}  # where it is, and how it is read
        self._kinds: dict[str, str] = {}  # of the data that came first
        for place, part in list_parts(space):
            name = "/".join(map(str, place)).replace(".", "_")  # dots would divide modules' names
            flat = re.match(flat_keys, name or "image") is not None
            plan = _plan(part, name or "observation", grayscale, flat)
            if plan is None:
                self.left_out[name] = part
                continue
            shape, read = plan
            name = name or ("image" if len(shape) == 3 else "vector")
            if name in self.shapes:
                raise ValueError(f"Expect observations of different names, actually twice: {name}")
            self.shapes[name], self._parts[name] = shape, (place, read)
        if not self.shapes:
            known = ", ".join(kind.__name__ for kind in OBSERVABLE)
            raise ValueError(
                f"Expect an observation space of type {known}, or a Dict or Tuple with one of "
                f"them in it, actually: {space}"
            )

    def __call__(self, raw: Any) -> dict[str, np.ndarray]:
        """Read an observation: image (C, 64, 64) uint8, vector (O,) float32, arrays of their own.

        Raises:
            EnvironmentFault: it is not of the space: a part is missing, or has another shape or
                type; an image holds NaN.
        """
        return {name: self._read(name, raw) for name in self._parts}

    def _read(self, name: str, raw: Any) -> np.ndarray:
        place, read = self._parts[name]
        raw = find_part(raw, place, name)
        array = np.asarray(raw)
        if isinstance(raw, np.ndarray):  # plain numbers may well be whole by chance
            first = self._kinds.setdefault(name, array.dtype.kind)
            if array.dtype.kind != first:
                raise EnvironmentFault(
                    f"Expect `{name}` to keep its type, of kind {first!r}, actually: {array.dtype}"
                )
        return read(array)


class ActionWriter:
    """Turns actions in our words into those of one space."""

    def __init__(self, space: spaces.Space):
        """Plan the translation; `action_space` is ours.

        Raises:
            ValueError: the space is none that an actor can choose from.
        """
        self._write: Callable[[np.ndarray], Any]
        match space:
            case spaces.Discrete():
                self.action_space = ActionSpace(int(space.n), discrete=True)
                self._write = partial(_write_choice, space)
            case spaces.MultiDiscrete() | spaces.MultiBinary():
                counts = _counts(space)
                choices = counts if len(counts) > 1 else ()
                self.action_space = ActionSpace(sum(counts), discrete=True, choices=choices)
                self._write = partial(_write_choices, space, counts)
            case spaces.Box():
                if not np.isfinite([space.low, space.high]).all():
                    raise ValueError(
                        "Expect actions between finite bounds, which say how far an action "
                        f"reaches, actually: {space}, from {space.low} to {space.high}. Give "
                        "your environment an action space with bounds."
                    )
                self.action_space = ActionSpace(int(np.prod(space.shape)), discrete=False)
                self._write = partial(_write_numbers, space)
            case _:
                raise ValueError(
                    "Expect an action space of type Discrete, MultiDiscrete, MultiBinary or Box, "
                    f"actually: {space}"
                )
        if self.action_space.size == 0:
            raise ValueError(f"Expect an action space with something in it, actually: {space}")

    def __call__(self, action: np.ndarray) -> Any:
        """(A,) one-hot or in [-1, 1] -> an action of the space."""
        return self._write(action)


def list_parts(space: spaces.Space, place: tuple = ()) -> Iterator[tuple[tuple, spaces.Space]]:
    """Yield what is neither dictionary nor tuple, with the keys and indices that lead to it."""
    children = {}
    match space:
        case spaces.Dict():
            children = space.spaces
        case spaces.Tuple():
            children = dict(enumerate(space.spaces))
        case _:
            yield place, space
    for key, child in children.items():
        yield from list_parts(child, (*place, key))


def find_part(raw: Any, place: tuple, name: str) -> Any:
    """Follow keys and indices into an observation.

    Raises:
        EnvironmentFault: there is no such part; the message calls it `name`.
    """
    part = raw
    for key in place:
        try:
            part = part[key]
        except (KeyError, IndexError, TypeError) as error:
            raise EnvironmentFault(
                f"Expect `{name}` in the observation, actually: {raw}"
            ) from error
    return part


def _plan(
    space: spaces.Space, name: str, grayscale: bool, flat: bool
) -> tuple[tuple[int, ...], Read] | None:
    """Shape and reader of one part; None if it cannot be observed."""
    match space:
        case spaces.Box():
            axis = None if flat else _channel_axis(space)
            if axis is None:
                return (int(np.prod(space.shape)),), partial(_read_vector, space, name)
            channels = space.shape[axis] if len(space.shape) == 3 else 1
            grayscale = grayscale and channels == 3
            shape = (1 if grayscale else channels, IMAGE_SIZE, IMAGE_SIZE)
            return shape, partial(_read_image, space, name, axis, grayscale)
        case spaces.MultiBinary():
            return (int(np.prod(space.shape)),), partial(_read_vector, space, name)
        case spaces.Discrete() | spaces.MultiDiscrete():
            counts = _counts(space)
            return (sum(counts),), partial(_read_choices, space, counts, name)
    return None


def _channel_axis(space: spaces.Box) -> int | None:
    """Where an image's channels are: 0 or -1, -1 also where there is no such axis; else None."""
    if not (
        np.isfinite([space.low, space.high]).all() and np.ptp(space.low) == np.ptp(space.high) == 0
    ):
        return None
    shape = space.shape
    if len(shape) == 2:
        bounds = (space.low.flat[0], space.high.flat[0])
        pixels = space.dtype == np.uint8 or bounds in ((0, 1), (0, 255))
        return -1 if pixels and min(shape) >= LEAST_EDGE else None
    if len(shape) != 3:
        return None
    axis = 0 if shape[0] < shape[-1] else -1
    edges = shape[1:] if axis == 0 else shape[:-1]
    return axis if min(edges) >= LEAST_EDGE and shape[axis] < min(edges) else None


def _counts(
    space: spaces.Discrete[Any] | spaces.MultiDiscrete | spaces.MultiBinary,
) -> tuple[int, ...]:
    """Options of each choice."""
    match space:
        case spaces.Discrete():
            return (int(space.n),)
        case spaces.MultiDiscrete():
            return tuple(space.nvec.flatten().tolist())
        case _:
            return (2,) * int(np.prod(space.shape))


def _read_image(
    space: spaces.Box, name: str, axis: int, grayscale: bool, array: np.ndarray
) -> np.ndarray:
    _require_shape(name, array, space.shape)
    if (array.dtype.kind == "f") != (space.dtype.kind == "f"):  # 0 to 1, or 0 to 255?
        raise EnvironmentFault(
            f"Expect `{name}` to be {space.dtype}, as its space says, actually: {array.dtype}"
        )
    if array.ndim == 2:
        array = array[..., None]
    elif axis == 0:
        array = np.moveaxis(array, 0, -1)
    low, high = float(space.low.flat[0]), float(space.high.flat[0])
    if (array.dtype, low, high) != (np.uint8, 0, 255):
        if not np.isfinite(array).all():
            raise EnvironmentFault(f"Expect `{name}` to be finite, actually it holds NaN or inf")
        scaled = (array.astype(np.float32) - low) * (255 / max(high - low, 1e-12))
        array = scaled.clip(0, 255).round().astype(np.uint8)
    array = _resize(array)
    if grayscale:
        array = (array @ np.array(LUMINANCE, np.float32)).round().astype(np.uint8)[..., None]
    return np.array(np.moveaxis(array, -1, 0), order="C")  # (C, 64, 64)


def _resize(array: np.ndarray) -> np.ndarray:
    """(height, width, C) uint8 -> (64, 64, C), each pixel the mean of the area it covers."""
    if array.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE):
        return array
    if array.shape[2] != 3:  # Pillow would weigh the colours of RGBA by alpha
        planes = [_resize_picture(array[..., c]) for c in range(array.shape[2])]
        return np.stack(planes, -1)
    return _resize_picture(array)


def _resize_picture(array: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(array))
    return np.asarray(picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX))


def _read_vector(space: spaces.Space, name: str, array: np.ndarray) -> np.ndarray:
    assert space.shape is not None
    _require_shape(name, array, space.shape)
    return array.astype(np.float32).reshape(-1)


def _read_choices(
    space: spaces.Discrete[Any] | spaces.MultiDiscrete,
    counts: tuple[int, ...],
    name: str,
    array: np.ndarray,
) -> np.ndarray:
    assert space.shape is not None
    _require_shape(name, array, space.shape)
    chosen = (array - space.start).reshape(-1)
    if array.dtype.kind not in "biu" or (chosen < 0).any() or (chosen >= counts).any():
        raise EnvironmentFault(f"Expect `{name}` to be of {space}, actually: {array}")
    vector = np.zeros(sum(counts), np.float32)
    vector[_offsets(counts) + chosen] = 1
    return vector


def _require_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise EnvironmentFault(f"Expect `{name}` of shape {shape}, actually: {array.shape}")


def _offsets(counts: tuple[int, ...]) -> np.ndarray:
    """Where each choice's one-hot vector begins."""
    return np.cumsum((0, *counts[:-1]))


def _write_choice(space: spaces.Discrete[Any], action: np.ndarray) -> Any:
    return space.start + action.argmax()


def _write_choices(
    space: spaces.MultiDiscrete | spaces.MultiBinary, counts: tuple[int, ...], action: np.ndarray
) -> np.ndarray:
    options = np.split(action, _offsets(counts)[1:])
    chosen = np.array([option.argmax() for option in options]).reshape(space.shape)
    return (chosen + getattr(space, "start", 0)).astype(space.dtype)


def _write_numbers(space: spaces.Box, action: np.ndarray) -> np.ndarray:
    share = (np.clip(action, -1, 1).reshape(space.shape) + 1) / 2  # of the way from low to high
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    numbers = low + share * (high - low)
    if space.dtype.kind != "f":
        numbers = numbers.round()
    return np.asarray(numbers.clip(low, high), space.dtype)
