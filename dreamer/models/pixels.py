"""Pixels as numbers: bytes as floats, and neighbours as channels of one larger pixel.

The networks of `vision.py` and their convolutions use it; it knows no weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def preprocess(observation: Tensor) -> Tensor:
    """Bytes become floats in [-0.5, 0.5], all else floats, any shape: as in the authors' code."""
    if observation.dtype == torch.uint8:
        return observation.float().div_(255).sub_(0.5)
    return observation.float()


def sub_pixels(image: Tensor, edge: int) -> Tensor:
    """Neighbouring pixels as channels of one: `pixel_unshuffle(image, edge)`, channels last.

    Args:
        image: (N, C, h, w) bytes, float32 or bfloat16; h and w can be divided by `edge`.
        edge: 2 or 4.

    Returns:
        (N, C * edge**2, h / edge, w / edge), in memory (N, h / edge, w / edge, C * edge**2).
    """
    if image.device.type != "cpu":
        return F.pixel_unshuffle(image, edge)
    # Neighbours in a row are moved as one number: (N, C, h, w / edge).
    rows = image.contiguous().view(_wide(edge, image))
    rows = rows.unflatten(2, (-1, edge)).permute(1, 0, 2, 4, 3)  # (C, N, h', w', edge)
    result = rows.new_empty(*rows.shape[1:4], len(rows), edge)
    for channel, of_channel in enumerate(rows):  # one by one, the inner loops are long
        result[:, :, :, channel] = of_channel
    return result.view(image.dtype).flatten(3).permute(0, 3, 1, 2)


def grey_pixels(squares: Tensor) -> Tensor:
    """Undo `sub_pixels` with 4 x 4 pixels of one channel: (N, 16, m, m) -> (N, 1, 4 m, 4 m)."""
    rows = squares.permute(0, 2, 3, 1).contiguous().view(_wide(4, squares))  # (N, m, m, 4)
    rows = rows.transpose(2, 3).contiguous().view(squares.dtype)
    return rows.flatten(1, 2)[:, None].flatten(3)


def _wide(count: int, image: Tensor) -> torch.dtype:
    """A type as large as so many neighbours, to move them at once."""
    sizes = {2: torch.int16, 4: torch.float32, 8: torch.float64, 16: torch.complex128}
    return sizes[count * image.itemsize]
