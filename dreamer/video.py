"""Layout and encoding of videos.

The callbacks use it for predictions and episodes. It knows arrays, not networks.
"""

import io
from pathlib import Path

import imageio.v2 as imageio
import numpy as np

from dreamer.captions import panels

CELL = 8  # pixels, both edges of a cell of a map
UNSEEN = 0.4  # light of a cell that was never visible
RIGHT, WRONG = (200, 200, 200), (220, 60, 50)
COLOURS = np.array(  # of the classes of a map; MiniGrid's: empty, wall, floor, door, key, ball, ...
    [
        *((20, 20, 20), (150, 150, 150), (90, 70, 60), (230, 200, 60), (160, 80, 200)),
        *((70, 120, 220), (220, 140, 50), (60, 180, 75), (230, 90, 40), (90, 200, 210)),
        *((240, 150, 190), (110, 110, 40)),
    ],
    np.uint8,
)


def to_rgb(images: np.ndarray) -> np.ndarray:
    """Convert images (..., C, H, W) in [0, 1] or uint8 to (..., H, W, 3) uint8.

    With one or two channels, the first becomes grey; with more, the first three become RGB.
    """
    if images.dtype != np.uint8:
        images = (images.clip(0, 1) * 255).round().astype(np.uint8)
    images = np.moveaxis(images, -3, -1)
    return images[..., :1].repeat(3, -1) if images.shape[-1] < 3 else images[..., :3]


def open_loop_grid(truth: np.ndarray, model: np.ndarray, context: int) -> np.ndarray:
    """Arrange the truth above the model's prediction above their difference, with labels.

    Args:
        truth: (T, B, C, H, W) in [0, 1].
        model: (T, B, C, H, W) in [0, 1].
        context: Steps that the model saw; a bar of all steps marks their end.

    Returns:
        (T, height, width, 3) uint8; a difference of zero is grey.
    """
    error = (model - truth + 1) / 2
    images = {"truth": truth, "model": model, "error": error}
    return panels({label: to_rgb(x) for label, x in images.items()}, context=context)


def map_rows(
    truth: np.ndarray,
    model: np.ndarray,
    *,
    seen: np.ndarray | None,
    position: np.ndarray,
    direction: np.ndarray,
) -> dict[str, np.ndarray]:
    """Draw maps above predicted ones above the errors; cells that were never visible are darker.

    Args:
        truth: (T, B, h, w) class of each cell.
        model: (T, B, h, w) predicted classes.
        seen: (T, B, h, w) bool, None: everywhere.
        position: (T, B, 2) of the agent, x and y in cells.
        direction: (T, B, 2) in which it looks.

    Returns:
        The rows of `panels`, (T, B, 8 h, 8 w, 3) uint8. In the errors, wrong cells are red.
    """
    errors = np.where((truth != model)[..., None], np.array(WRONG), np.array(RIGHT))
    rows = {
        "truth": COLOURS[truth % len(COLOURS)],
        "model": COLOURS[model % len(COLOURS)],
        "error": errors,
    }
    light = np.ones(truth.shape) if seen is None else np.where(seen, 1, UNSEEN)
    drawn = {}
    for label, row in rows.items():  # (T, B, h, w, 3)
        cells = (row * light[..., None]).astype(np.uint8).repeat(CELL, 2).repeat(CELL, 3)
        _mark(cells, CELL * (position + 0.5), CELL // 2)
        _mark(cells, CELL * (position + 0.5 + 0.375 * direction), CELL // 4)
        drawn[label] = cells
    return drawn


def goal_rows(truth: np.ndarray, model: np.ndarray, edge: int = 96) -> dict[str, np.ndarray]:
    """Draw where goals are, as seen from the agent in the middle, which looks up.

    Args:
        truth: (T, B, G, 2) vectors, ahead and to the right.
        model: (T, B, G, 2) predicted vectors.
        edge: Height and width of a sequence's image.

    Returns:
        The row of `panels`, (T, B, edge, edge, 3) uint8. Large squares are goals, small ones of
        their colour predictions.
    """
    images = np.full((*truth.shape[:2], edge, edge, 3), 40, np.uint8)
    scale = (edge / 2 - CELL) / max(np.abs(truth).max(), 1e-6)
    middle = np.full((*truth.shape[:2], 2), edge / 2)
    _mark(images, middle, CELL // 2)
    for goal in range(truth.shape[2]):
        colour = COLOURS[(7 + goal) % len(COLOURS)]
        for vectors, size in ((truth, CELL), (model, CELL // 2)):
            ahead, right = vectors[:, :, goal, 0], vectors[:, :, goal, 1]
            place = middle + scale * np.stack([right, -ahead], -1)
            _mark(images, place.clip(0, edge), size, colour if size == CELL else colour // 2 + 127)
    return {"goals": images}


def _mark(images: np.ndarray, place: np.ndarray, edge: int, colour: np.ndarray | int = 255) -> None:
    """Draw a square of that edge into each image (T, B, height, width, 3), around (x, y) pixels."""
    corner = np.rint(place - edge / 2).astype(int).clip(0)  # (T, B, 2)
    for t, b in np.ndindex(*corner.shape[:2]):
        x, y = corner[t, b]
        images[t, b, y : y + edge, x : x + edge] = colour


def write_mp4(path: Path, frames: np.ndarray, *, fps: int) -> None:
    """Encode frames (T, H, W, 3) uint8; small ones are enlarged, odd sizes padded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a link is replaced, not followed
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
