"""Writes words into the images of videos: labels, step counters, margins.

Videos of predictions and of episodes use it. It knows images (height, width, 3) uint8, and no
networks or environments.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK = (24, 27, 31), (235, 238, 241)
SEEN, DREAMT = (60, 180, 75), (230, 85, 70)  # steps with observations, and without
TEXT = 13  # pixels, height of the letters
LINE = 18  # of a line of text
GAP = 4  # between panels
WIDTH = 480  # about that of all sequences together
MAX_SCALE = 4
MIN_WIDTH = 250  # two lines of a caption fit into it


def panels(rows: Mapping[str, np.ndarray], *, context: int | None = None) -> np.ndarray:
    """Arrange sequences side by side, and rows of them with labels, below a step counter.

    Args:
        rows: by label, (T, B, H, W, 3) uint8; H may differ between rows.
        context: steps that the model observed, marked on a bar of all steps; None without a bar.

    Returns:
        (T, height, width, 3) uint8.
    """
    steps, sequences, _, edge = next(iter(rows.values())).shape[:4]
    scale = int(np.clip(round(WIDTH / (sequences * edge)), 1, MAX_SCALE))
    rows = {label: _enlarge(x, scale) for label, x in rows.items()}
    left = max(_width(label) for label in rows) + 2 * GAP
    width = left + sequences * (edge * scale + GAP)
    top = LINE + GAP if context is None else 2 * LINE
    height = top + sum(x.shape[2] + GAP for x in rows.values())
    frames = np.empty((steps, height, max(width, MIN_WIDTH), 3), np.uint8)
    frames[:] = PAPER
    y = top
    for label, images in rows.items():
        for b in range(sequences):
            x = left + b * (edge * scale + GAP)
            frames[:, y : y + images.shape[2], x : x + images.shape[3]] = images[:, b]
        centre = y + (images.shape[2] - LINE) // 2
        frames[:, centre : centre + LINE, :left] = _words(label, left, x=GAP)
        y += images.shape[2] + GAP
    for t in range(steps):
        counter = f"step {t + 1} of {steps}"
        color, text = INK, counter
        if context is not None:
            color = SEEN if t < context else DREAMT
            text = f"{counter}: " + ("the model observes" if t < context else "the model dreams")
            frames[t, LINE + 2 : top - GAP, left : width - GAP] = _bar(
                width - GAP - left, top - GAP - LINE - 2, now=t, steps=steps, context=context
            )
        frames[t, :LINE] = _words(text, frames.shape[2], x=left, color=color)
    return frames


def with_caption(image: np.ndarray, lines: list[str]) -> np.ndarray:
    """Put lines of text into a margin below an image (height, width, 3).

    A narrow image gets margins at its sides, too, so that the text fits.
    """
    height, width = image.shape[:2]
    framed = np.empty((height + LINE * len(lines) + GAP, max(width, MIN_WIDTH), 3), np.uint8)
    framed[:] = PAPER
    side = (framed.shape[1] - width) // 2
    framed[:height, side : side + width] = image
    for i, text in enumerate(lines):
        y = height + GAP // 2 + i * LINE
        framed[y : y + LINE] = _words(text, framed.shape[1], x=GAP)
    return framed


def episode_lines(*, episode: int, step: int, reward: float, total: float) -> list[str]:
    """Say where an episode is: its number, policy steps, latest reward and return so far."""
    return [f"episode {episode}   step {step}", f"reward {reward:+.2f}   return {total:.2f}"]


def _bar(width: int, height: int, *, now: int, steps: int, context: int) -> np.ndarray:
    """Draw all steps as a bar, green in the context, then red; those to come are dark."""
    ends = np.arange(width) * steps // width  # (width,) step of each column
    colors = np.where((ends < context)[:, None], np.array(SEEN), np.array(DREAMT))
    colors = np.where((ends <= now)[:, None], colors, colors // 3)
    bar = np.repeat(colors.astype(np.uint8)[None], height, 0)
    end = context * width // steps
    bar[:, end - 1 : end + 1] = INK
    return bar


def _words(text: str, width: int, *, x: int, color: tuple[int, int, int] = INK) -> np.ndarray:
    """Draw one line of text: (LINE, width, 3); what does not fit is cut off."""
    image = Image.new("RGB", (width, LINE), PAPER)
    ImageDraw.Draw(image).text((x, LINE // 2), text, fill=color, font=_font(), anchor="lm")
    return np.asarray(image)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT)


def _width(text: str) -> int:
    return int(_font().getlength(text)) + 1


def _enlarge(images: np.ndarray, scale: int) -> np.ndarray:
    """Repeat the pixels of images (T, B, H, W, 3)."""
    return images.repeat(scale, 2).repeat(scale, 3)
