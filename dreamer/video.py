"""Layout and encoding of videos.

The callbacks use it for predictions and episodes. It knows arrays, not networks.
"""

import io
from pathlib import Path

import imageio.v2 as imageio
import numpy as np


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Convert images (..., C, H, W) in [0, 1] or uint8 to (..., H, W, 3) uint8.

    With one or two channels, the first becomes grey; with more, the first three become RGB.
    """
    if images.dtype != np.uint8:
        images = (images.clip(0, 1) * 255).round().astype(np.uint8)
    images = np.moveaxis(images, -3, -1)
    return images[..., :1].repeat(3, -1) if images.shape[-1] < 3 else images[..., :3]


def open_loop_grid(truth: np.ndarray, model: np.ndarray, context: int) -> np.ndarray:
    """Arrange the truth above the model's prediction above their difference.

    Args:
        truth: (T, B, C, H, W) in [0, 1].
        model: (T, B, C, H, W) in [0, 1].
        context: Steps that the model saw; a bar on the left is green for them, then red.

    Returns:
        (T, 3 H, bar + B W, 3) uint8; a difference of zero is grey.
    """
    error = (model - truth + 1) / 2
    rows = [np.concatenate(list(to_rgb(x).swapaxes(0, 1)), 2) for x in (truth, model, error)]
    grid = np.concatenate(rows, 1)  # (T, 3 H, B W, 3)
    bar = np.zeros((*grid.shape[:2], 4, 3), np.uint8)
    bar[:context] = (60, 180, 75)
    bar[context:] = (220, 60, 50)
    return np.concatenate([bar, grid], 2)


def write_mp4(path: Path, frames: np.ndarray, *, fps: int) -> None:
    """Encode frames (T, H, W, 3) uint8; small ones are enlarged, odd sizes padded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with imageio.get_writer(
        path, format="FFMPEG", mode="I", fps=fps, codec="libx264", quality=8, macro_block_size=2
    ) as writer:
        for frame in _enlarge(frames):
            writer.append_data(frame)  # pyright: ignore[reportAttributeAccessIssue]


def encode_gif(frames: np.ndarray, *, fps: int) -> bytes:
    """Encode frames (T, H, W, 3) uint8 as an animation that loops forever."""
    buffer = io.BytesIO()
    imageio.mimwrite(buffer, list(frames), format="GIF", duration=1000 / fps, loop=0)
    return buffer.getvalue()


def _enlarge(frames: np.ndarray, min_edge: int = 256) -> np.ndarray:
    scale = max(1, -(-min_edge // max(frames.shape[1:3])))
    frames = frames.repeat(scale, 1).repeat(scale, 2)
    odd = [(0, n % 2) for n in frames.shape[1:3]]  # the codec needs even sizes
    return np.pad(frames, [(0, 0), *odd, (0, 0)])
