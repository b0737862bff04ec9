"""What a probe of maps gets and predicts: coordinates on the map, and the cells that were seen.

Environments with maps store positions and counts; these functions convert them. They know no
networks.

Source: the preprocessing of PyDreamer, https://github.com/jurgisp/pydreamer
"""

import torch
from torch import Tensor

UNSEEN = 500  # a cell counts as seen if it was visible fewer than so many steps ago


def map_coordinates(position: Tensor, direction: Tensor, size: int | Tensor) -> Tensor:
    """Describe where the agent is on a map, and where it looks.

    Args:
        position: (..., 2) in cells.
        direction: (..., 2), a unit vector.
        size: cells of an edge, or of both, (2,), in the order of the position.

    Returns:
        (..., 4): the position from -1 to 1, and the direction.
    """
    return torch.cat([2 * position / size - 1, direction], -1).float()


def seen_mask(*, seen: Tensor | None = None, steps_since_visible: Tensor | None = None) -> Tensor:
    """Return which cells (..., h, w) of a map were seen: from flags, else from ages in steps.

    Raises:
        ValueError: neither is given.
    """
    if seen is not None:
        return seen > 0
    if steps_since_visible is None:
        raise ValueError("`seen` or `steps_since_visible` must be given, got neither")
    return steps_since_visible < UNSEEN
