"""Pictures for people: taken of an environment, or drawn from its observations.

Groups of environments and the evaluation use it. What an environment's `render` does wrong becomes
a `RenderingFault` here, and only here. It knows arrays, no suite and no group.
"""

import textwrap
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

LARGEST = 4096  # pixels, either edge, of what is taken for a picture


class RenderingFault(RuntimeError):  # noqa: N818 -- a fault, not an error of ours
    """An environment gave no picture; the message names it and says what happened."""


def take_picture(render: Callable[[], Any], name: str) -> np.ndarray:
    """Return the picture that `render` gives, (height, width, 3) uint8.

    Args:
        render: May return and raise whatever it likes.
        name: Of the environment, for the message.

    Raises:
        RenderingFault: It raised an exception, or returned something else.
    """
    try:
        given = render()
        picture = np.asarray(given)
    except RenderingFault:  # of a process, or a member of a group, which has been named
        raise
    except Exception as error:
        reason = " ".join(traceback.format_exception_only(error))
        raise RenderingFault(f"{name}: render raised {textwrap.shorten(reason, 500)}") from error
    is_rgb = picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8
    if not (is_rgb and picture.size and max(picture.shape) <= LARGEST):
        raise RenderingFault(
            f"{name}: render returned {_describe(given)}, not an array (height, width, 3) of "
            f"uint8 with edges of 1 to {LARGEST} pixels"
        )
    return picture


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Turn observed images into pictures for people.

    Args:
        image: (E, C, height, width) uint8; one channel is grey, three are RGB.
        factor: Edge of the square, in pixels, that each pixel becomes.

    Returns:
        (E, factor * height, factor * width, 3) uint8.
    """
    colour = np.broadcast_to(image, (len(image), 3, *image.shape[2:])).transpose(0, 2, 3, 1)
    return colour.repeat(factor, 1).repeat(factor, 2)


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a copy of a picture (h, w, 3) in another size, made of the nearest pixels."""
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    return picture[rows[:, None], columns]


def draw(obs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draw an observation for people: its first image, enlarged, else its numbers as bars.

    A bar of half the height is a zero, one of the full height positive infinity.

    Args:
        obs: Of one environment: an image (C, height, width), vectors (O,).

    Returns:
        (4 height, 4 width, 3) of an image, (256, 256, 3) of numbers.
    """
    images = [value for value in obs.values() if value.ndim == 3]
    if images:
        colours = images[0][:3] if len(images[0]) > 2 else images[0][:1]
        return enlarge(colours[None], 4)[0]
    numbers = np.concatenate(list(obs.values()))  # (O,)
    height = np.rint(128 * (1 - np.tanh(numbers))).astype(int)  # (O,) rows above the bar
    bar = np.arange(256) * len(numbers) // 256  # (256,) which bar a column belongs to
    lit = np.arange(256)[:, None] >= height[bar]  # (256, 256)
    return np.repeat(np.where(lit, 255, 40).astype(np.uint8)[..., None], 3, -1)


def _describe(given: Any) -> str:
    if isinstance(given, np.ndarray):
        return f"an array {given.shape} of {given.dtype}"
    return "None" if given is None else f"a {type(given).__name__}"
