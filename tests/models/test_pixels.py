"""Bytes as floats, and neighbouring pixels as channels."""

import pytest
import torch
import torch.nn.functional as F
from tiny import B
from torch.testing import assert_close

from dreamer.models.pixels import grey_pixels, preprocess, sub_pixels


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (torch.tensor([0, 51, 255], dtype=torch.uint8), [-0.5, -0.3, 0.5]),
        (torch.tensor([3, -4]), [3.0, -4.0]),
        (torch.tensor([True, False]), [1.0, 0.0]),
        (torch.tensor([0.25, 300.0], dtype=torch.float64), [0.25, 300.0]),
    ],
)
def test_bytes_are_scaled_and_all_else_is_a_float(raw, expected):
    before = raw.clone()
    assert_close(preprocess(raw), torch.tensor(expected))
    assert torch.equal(raw, before)


@pytest.mark.parametrize(
    ("dtype", "edge"),
    [
        *((torch.uint8, edge) for edge in (2, 4)),
        *((torch.bfloat16, edge) for edge in (2, 4)),
        *((torch.float32, edge) for edge in (2, 4)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_sub_pixels_are_those_of_torch_with_channels_last(dtype, edge, channels):
    image = torch.randint(256, (B, channels, 16, 16)).to(dtype)
    ours = sub_pixels(image, edge)
    assert torch.equal(ours.float(), F.pixel_unshuffle(image.float(), edge))
    assert ours.dtype == dtype
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_grey_pixels_are_those_that_sub_pixels_were_made_of(dtype):
    image = torch.randint(256, (B, 1, 16, 16)).to(dtype)
    assert torch.equal(grey_pixels(sub_pixels(image, 4)), image)
