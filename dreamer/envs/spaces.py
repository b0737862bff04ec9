"""Convert data of Gymnasium spaces to and from images, vectors, one-hot choices and [-1, 1].

Suites with Gymnasium environments use it. It knows spaces and arrays, no environment.

How each space is observed, named by its path in Dict and Tuple spaces ("camera/left", "arm/0"):

    Box with an image's shape and bounds      image (C, 64, 64) uint8; the bounds become 0 and 255
    any other Box                             vector (O,), flattened, unscaled
    Box or MultiDiscrete in `class_keys`      class image (h, w) uint8, a table of class indices
    Discrete, MultiDiscrete                   vector of concatenated one-hot choices
    MultiBinary                               vector of zeros and ones

Parts below "probe/" are for probes, not for agents. They are vectors, except "probe/map": a Box of
integers from 0 or a MultiDiscrete, (height, width). It becomes (C, height, width), one-hot.

A Box has an image's shape if it is (height, width), (height, width, C) or (C, height, width) with
edges of at least 8 pixels, and fewer channels than pixels on an edge. All four channels of RGBA are
kept, because a stack of four grayscale frames has the same shape.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from PIL import Image

from dreamer.envs.faults import EnvironmentFault, one_line
from dreamer.types import HIDDEN, ActionSpace

IMAGE_SIZE = 64  # pixels, both edges
MIN_EDGE = 8  # pixels; a smaller array is a table, not an image
LUMINANCE = (0.299, 0.587, 0.114)  # weights of red, green and blue; ITU-R BT.601
OBSERVABLE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

Encode = Callable[[np.ndarray], np.ndarray]


class GymSpaces(NamedTuple):
    """Both spaces of an environment, and the options of its `ObservationEncoder`."""

    observation: spaces.Space
    action: spaces.Space
    grayscale: bool
    flat_keys: str
    class_keys: str = "$^"


class ObservationEncoder:
    """Converts observations of one space to dictionaries of images, class images and vectors."""

    def __init__(
        self,
        space: spaces.Space,
        *,
        grayscale: bool,
        flat_keys: str,
        class_keys: str = "$^",
        hidden: bool = True,
    ):
        """Choose an encoding for each part.

        Args:
            space: Of the observations.
            grayscale: Convert RGB images to one channel, the luminance.
            flat_keys: Pattern of names to flatten although they have an image's shape; an
                observation that is one image is called "image".
            class_keys: Pattern of names of tables (h, w) of class indices, in the same way.
            hidden: Encode the parts for probes, too.

        Raises:
            ValueError: A part in `class_keys` is no such table, no part of the space can be an
                image or a vector, or two parts have the same name.
        """
        self.left_out: dict[str, spaces.Space] = {}  # by name, parts that cannot be observed
        self.shapes: dict[str, tuple[int, ...]] = {}  # by name, of the encoded parts
        self._parts: dict[str, tuple[tuple, Encode]] = {}  # by name, path and encoding
        for path, part in list_parts(space):
            name = "/".join(map(str, path)).replace(".", "_")  # no dots in module names
            if name.startswith(HIDDEN) and not hidden:
                continue
            flat = name.startswith(HIDDEN) or re.match(flat_keys, name or "image") is not None
            if name == HIDDEN + "map":
                encoding = _choose_map(part, name)
            elif re.match(class_keys, name or "image") is not None:
                encoding = _choose_classes(part, name or "image")
            else:
                encoding = _choose_encoding(part, name or "observation", grayscale, flat)
            if encoding is None:
                self.left_out[name] = part
                continue
            shape, encode = encoding
            name = name or ("vector" if len(shape) == 1 else "image")
            if name in self.shapes:
                raise ValueError(f"Observations must have different names, got `{name}` twice")
            self.shapes[name], self._parts[name] = shape, (path, encode)
        if not self.shapes:
            known = ", ".join(kind.__name__ for kind in OBSERVABLE)
            raise ValueError(
                f"The observation space must be a {known}, or a Dict or Tuple that contains one "
                f"of them, got {space}"
            )

    def __call__(self, raw: Any) -> dict[str, np.ndarray]:
        """Encode an observation as new arrays.

        Images (C, 64, 64) and class images (h, w) are uint8, vectors (O,) float32.

        Raises:
            EnvironmentFault: A part is missing, has another shape than its space, is not an array
                of numbers or is too large for float32; or an image has another type than its space
                or contains NaN.
        """
        return {name: self._encode(name, raw) for name in self._parts}

    def _encode(self, name: str, raw: Any) -> np.ndarray:
        path, encode = self._parts[name]
        part = find_part(raw, path, name)
        try:
            array = np.asarray(part)
        except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, some tensors
            raise EnvironmentFault(f"`{name}` must be an array of numbers: {error}") from error
        if array.dtype.kind not in "biuf":
            raise EnvironmentFault(
                f"`{name}` must be an array of numbers, got {one_line(repr(part))}"
            )
        return encode(array)


class ActionDecoder:
    """Converts the agent's actions to those of one space."""

    def __init__(self, space: spaces.Space):
        """Choose a decoding; `action_space` is the agent's.

        Raises:
            ValueError: The actor has no distribution for this space.
        """
        self._decode: Callable[[np.ndarray], Any]
        match space:
            case spaces.Discrete():
                self.action_space = ActionSpace(int(space.n), discrete=True)
                self._decode = partial(_decode_choice, space)
            case spaces.MultiDiscrete() | spaces.MultiBinary():
                counts = _counts(space)
                choices = counts if len(counts) > 1 else ()
                self.action_space = ActionSpace(sum(counts), discrete=True, choices=choices)
                self._decode = partial(_decode_choices, space, counts)
            case spaces.Box():
                if not np.isfinite([space.low, space.high]).all():
                    raise ValueError(
                        f"Actions must have finite bounds, got {space}, from {space.low} to "
                        f"{space.high}. Set the bounds of your environment's action space."
                    )
                self.action_space = ActionSpace(int(np.prod(space.shape)), discrete=False)
                self._decode = partial(_decode_numbers, space)
            case _:
                raise ValueError(
                    "The action space must be Discrete, MultiDiscrete, MultiBinary or Box, "
                    f"got {space}"
                )
        if self.action_space.size == 0:
            raise ValueError(f"The action space must not be empty, got {space}")

    def __call__(self, action: np.ndarray) -> Any:
        """Convert an action (A,), one-hot or in [-1, 1], to an action of the space."""
        return self._decode(action)


def list_parts(space: spaces.Space, path: tuple = ()) -> Iterator[tuple[tuple, spaces.Space]]:
    """Yield every part that is neither Dict nor Tuple, with its path of keys and indices."""
    children = {}
    match space:
        case spaces.Dict():
            children = space.spaces
        case spaces.Tuple():
            children = dict(enumerate(space.spaces))
        case _:
            yield path, space
    for key, child in children.items():
        yield from list_parts(child, (*path, key))


def find_part(raw: Any, path: tuple, name: str) -> Any:
    """Follow keys and indices into an observation.

    Raises:
        EnvironmentFault: There is no such part; the message calls it `name`.
    """
    part = raw
    for key in path:
        try:
            part = part[key]
        except (KeyError, IndexError, TypeError) as error:
            raise EnvironmentFault(
                f"The observation must have `{name}`, got {one_line(repr(raw))}"
            ) from error
    return part


def _choose_encoding(
    space: spaces.Space, name: str, grayscale: bool, flat: bool
) -> tuple[tuple[int, ...], Encode] | None:
    """Return the shape and encoding of one part; None if it cannot be observed."""
    if space.shape is not None and 0 in space.shape:  # a goal without numbers, for example
        return None
    match space:
        case spaces.Box():
            axis = None if flat else _channel_axis(space)
            if axis is None:
                return (int(np.prod(space.shape)),), partial(_encode_vector, space, name)
            channels = space.shape[axis] if len(space.shape) == 3 else 1
            grayscale = grayscale and channels == 3
            shape = (1 if grayscale else channels, IMAGE_SIZE, IMAGE_SIZE)
            return shape, partial(_encode_image, space, name, axis, grayscale)
        case spaces.MultiBinary():
            return (int(np.prod(space.shape)),), partial(_encode_vector, space, name)
        case spaces.Discrete() | spaces.MultiDiscrete():
            counts = _counts(space)
            return (sum(counts),), partial(_encode_choices, space, counts, name)
    return None


def _choose_map(space: spaces.Space, name: str) -> tuple[tuple[int, ...], Encode]:
    """Return the shape (C, height, width) of a map, and its one-hot encoding.

    Raises:
        ValueError: The space is no map.
    """
    classes: set[int] = set()
    match space:
        case spaces.MultiDiscrete() if not np.any(space.start):
            classes = set(space.nvec.ravel().tolist())
        case spaces.Box() if space.dtype.kind in "iu" and not space.low.any():
            classes = {int(high) + 1 for high in space.high.ravel()}
    if len(classes) != 1 or space.shape is None or len(space.shape) != 2:
        raise ValueError(
            f"`{name}` must be a Box of integers from 0 or a MultiDiscrete, (height, width), "
            f"with the same number of classes everywhere, got {space}"
        )
    return (*classes, *space.shape), partial(_encode_map, space, name, *classes)


def _encode_map(space: spaces.Space, name: str, classes: int, array: np.ndarray) -> np.ndarray:
    assert space.shape is not None
    _require_shape(name, array, space.shape)
    if array.dtype.kind not in "biu" or not ((array >= 0) & (array < classes)).all():
        raise EnvironmentFault(f"`{name}` must hold classes below {classes}, got {array}")
    return np.ascontiguousarray(np.moveaxis(np.eye(classes, dtype=np.uint8)[array], -1, 0))


def _choose_classes(space: spaces.Space, name: str) -> tuple[tuple[int, ...], Encode]:
    """Return the shape and encoding of a table of class indices.

    Raises:
        ValueError: The space is no table (h, w) of integers from 0 to 255 at most.
    """
    match space:
        case spaces.Box(shape=(_, _)) if space.dtype.kind in "iu":
            low, high = space.low, space.high
        case spaces.MultiDiscrete(shape=(_, _)):
            low, high = space.start, space.start + space.nvec - 1
        case _:
            low, high = np.array(-1), np.array(0)
    if low.min() < 0 or high.max() > np.iinfo(np.uint8).max:
        raise ValueError(
            f"`{name}`, which `class_keys` matches, must be a table (height, width) of integers "
            f"from 0 to 255, got {space}"
        )
    assert space.shape is not None
    return space.shape, partial(_encode_classes, space, name, low, high)


def _channel_axis(space: spaces.Box) -> int | None:
    """Return an image's channel axis, 0 or -1 (-1 also without channels); None if not an image."""
    if not all(np.isfinite(x).all() and (x == x.flat[0]).all() for x in (space.low, space.high)):
        return None
    shape = space.shape
    if len(shape) == 2:
        bounds = (space.low.flat[0], space.high.flat[0])
        pixels = space.dtype == np.uint8 or bounds in ((0, 1), (0, 255))
        return -1 if pixels and min(shape) >= MIN_EDGE else None
    if len(shape) != 3:
        return None
    axis = 0 if shape[0] < shape[-1] else -1
    edges = shape[1:] if axis == 0 else shape[:-1]
    return axis if min(edges) >= MIN_EDGE and shape[axis] < min(edges) else None


def _counts(
    space: spaces.Discrete[Any] | spaces.MultiDiscrete | spaces.MultiBinary,
) -> tuple[int, ...]:
    """Return the number of options of each choice."""
    match space:
        case spaces.Discrete():
            return (int(space.n),)
        case spaces.MultiDiscrete():
            return tuple(space.nvec.flatten().tolist())
        case _:
            return (2,) * int(np.prod(space.shape))


def _encode_image(
    space: spaces.Box, name: str, axis: int, grayscale: bool, array: np.ndarray
) -> np.ndarray:
    _require_shape(name, array, space.shape)
    if (array.dtype.kind == "f") != (space.dtype.kind == "f"):  # the scale would be ambiguous
        raise EnvironmentFault(
            f"`{name}` must be {space.dtype}, as in its space, got {array.dtype}"
        )
    if array.ndim == 2:
        array = array[..., None]
    elif axis == 0:
        array = np.moveaxis(array, 0, -1)
    low, high = float(space.low.flat[0]), float(space.high.flat[0])
    if (array.dtype, low, high) != (np.uint8, 0, 255):
        if not np.isfinite(array).all():
            raise EnvironmentFault(f"`{name}` must be finite, got NaN or infinity")
        scaled = (array.astype(np.float32) - low) * (255 / max(high - low, 1e-12))
        array = scaled.clip(0, 255).round().astype(np.uint8)
    array = resize_image(array)
    if grayscale:
        array = (array @ np.array(LUMINANCE, np.float32)).round().astype(np.uint8)[..., None]
    return np.array(np.moveaxis(array, -1, 0), order="C")  # (C, 64, 64)


def resize_image(array: np.ndarray) -> np.ndarray:
    """Resize (height, width, C) uint8 to (64, 64, C) by averaging areas."""
    if array.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE):
        return array
    if array.shape[2] != 3:  # Pillow would weight the colours of RGBA by alpha
        planes = [_resize_plane(array[..., c]) for c in range(array.shape[2])]
        return np.stack(planes, -1)
    return _resize_plane(array)


def _resize_plane(array: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(array))
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX))


def _encode_classes(
    space: spaces.Space, name: str, low: np.ndarray, high: np.ndarray, array: np.ndarray
) -> np.ndarray:
    assert space.shape is not None
    _require_shape(name, array, space.shape)
    if array.dtype.kind not in "biu" or (array < low).any() or (array > high).any():
        raise EnvironmentFault(f"`{name}` must be of {space}, got {array}")
    return array.astype(np.uint8)  # a copy, (h, w)


def _encode_vector(space: spaces.Space, name: str, array: np.ndarray) -> np.ndarray:
    assert space.shape is not None
    _require_numbers(name, array, space.shape)
    with np.errstate(over="ignore"):
        vector = array.astype(np.float32).reshape(-1)
    if array.dtype == np.float64 and np.isinf(vector).any() and np.isfinite(array).all():
        raise EnvironmentFault(
            f"`{name}` must be at most 3.4e38 in size, as float32 is, got {np.abs(array).max():g}"
        )
    return vector


def _encode_choices(
    space: spaces.Discrete[Any] | spaces.MultiDiscrete,
    counts: tuple[int, ...],
    name: str,
    array: np.ndarray,
) -> np.ndarray:
    assert space.shape is not None
    _require_numbers(name, array, space.shape)
    whole = array.astype(np.int64) if np.isfinite(array).all() else array
    chosen = (whole.reshape(space.shape) - space.start).reshape(-1)
    if not np.array_equal(whole, array) or (chosen < 0).any() or (chosen >= counts).any():
        raise EnvironmentFault(f"`{name}` must be of {space}, got {one_line(str(array))}")
    vector = np.zeros(sum(counts), np.float32)
    vector[_offsets(counts) + chosen] = 1
    return vector


def _require_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise EnvironmentFault(f"`{name}` must have shape {shape}, got {array.shape}")


def _require_numbers(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Reject another shape; axes of length 1 do not matter, because the result is flat."""
    if tuple(n for n in array.shape if n != 1) != tuple(n for n in shape if n != 1):
        _require_shape(name, array, shape)


def _offsets(counts: tuple[int, ...]) -> np.ndarray:
    """Return the index at which each choice's one-hot vector begins."""
    return np.cumsum((0, *counts[:-1]))


def _decode_choice(space: spaces.Discrete[Any], action: np.ndarray) -> Any:
    return space.start + action.argmax()


def _decode_choices(
    space: spaces.MultiDiscrete | spaces.MultiBinary, counts: tuple[int, ...], action: np.ndarray
) -> np.ndarray:
    options = np.split(action, _offsets(counts)[1:])
    chosen = np.array([option.argmax() for option in options]).reshape(space.shape)
    return (chosen + getattr(space, "start", 0)).astype(space.dtype)


def _decode_numbers(space: spaces.Box, action: np.ndarray) -> np.ndarray:
    fraction = (np.clip(action, -1, 1).reshape(space.shape) + 1) / 2  # from low to high
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    numbers = low + fraction * (high - low)
    if space.dtype.kind != "f":
        numbers = numbers.round()
    return np.asarray(numbers.clip(low, high), space.dtype)
