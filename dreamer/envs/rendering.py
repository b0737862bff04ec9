"""Images for videos, rendered by an environment or drawn from its observations; and resizing.

Groups of environments and the evaluation use it. Only this file turns errors of an environment's
`render` into a `RenderingFault`. It knows arrays, no suite and no group.
"""

import functools
import textwrap
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dreamer.types import visible

MAX_EDGE = 4096  # pixels; a larger array is not accepted as an image


class RenderingFault(RuntimeError):  # noqa: N818 -- the environment's, not this program's
    """An environment returned no image; the message names it and the reason."""


def call_render(render: Callable[[], Any], name: str) -> np.ndarray:
    """Call `render` and return its image, (height, width, 3) uint8.

    Args:
        render: May return anything and raise any exception.
        name: Of the environment, for the message.

    Raises:
        RenderingFault: It raised an exception, or returned something other than an image.
    """
    try:
        result = render()
        image = np.asarray(result)
    except RenderingFault:  # from a process or a group member; it already has a name
        raise
    except Exception as error:
        reason = " ".join(traceback.format_exception_only(error))
        raise RenderingFault(f"{name}: `render` raised {textwrap.shorten(reason, 500)}") from error
    is_rgb = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    if not (is_rgb and image.size and max(image.shape) <= MAX_EDGE):
        raise RenderingFault(
            f"{name}: `render` must return an array (height, width, 3) of uint8 with edges of 1 to "
            f"{MAX_EDGE} pixels, got {_describe(result)}"
        )
    return image


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge observed images and convert them to RGB.

    Args:
        image: (E, C, height, width) uint8; one channel is grey, three are RGB.
        factor: Edge of the square, in pixels, that each pixel becomes.

    Returns:
        (E, factor * height, factor * width, 3) uint8.
    """
    colour = np.broadcast_to(image, (len(image), 3, *image.shape[2:])).transpose(0, 2, 3, 1)
    return colour.repeat(factor, 1).repeat(factor, 2)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a copy of an image (h, w, 3) in another size, by nearest-neighbour interpolation."""
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    return image[rows[:, None], columns]


def shrink(image: np.ndarray, edge: int) -> np.ndarray:
    """Shrink square images (..., size, size) uint8 to (..., edge, edge), by averages over areas."""
    weights = _area_weights(image.shape[-1], edge)
    return np.rint(weights @ image.astype(np.float32) @ weights.T).astype(np.uint8)


@functools.cache
def _area_weights(size: int, edge: int) -> np.ndarray:
    """Return (edge, size): the share of every old pixel in every new one."""
    ends = np.arange(edge + 1) * size / edge
    pixels = np.arange(size)
    overlap = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)
    return (overlap.clip(0) * edge / size).astype(np.float32)


def draw(obs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draw an observation: its first image, enlarged; without an image, its numbers as bars.

    A bar of half the height is 0, one of the full height is positive infinity.

    Args:
        obs: Of one environment: an image (C, height, width), vectors (O,).

    Returns:
        (4 height, 4 width, 3) for an image, (256, 256, 3) for numbers; uint8.
    """
    obs = visible(obs)
    images = [value for value in obs.values() if value.ndim == 3]
    if images:
        colours = images[0][:3] if len(images[0]) > 2 else images[0][:1]
        return enlarge(colours[None], 4)[0]
    numbers = np.concatenate(list(obs.values()))  # (O,)
    height = np.rint(128 * (1 - np.tanh(numbers))).astype(int)  # (O,) rows above the bar
    bar = np.arange(256) * len(numbers) // 256  # (256,) index of the bar in each column
    lit = np.arange(256)[:, None] >= height[bar]  # (256, 256)
    return np.repeat(np.where(lit, 255, 40).astype(np.uint8)[..., None], 3, -1)


def _describe(result: Any) -> str:
    if isinstance(result, np.ndarray):
        return f"an array {result.shape} of {result.dtype}"
    return "None" if result is None else f"a {type(result).__name__}"
