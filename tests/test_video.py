"""Grids for people, and files that a decoder reads back."""

import imageio.v2 as imageio
import numpy as np
import pytest

from dreamer.video import encode_gif, open_loop_grid, to_rgb, write_mp4

T, B, HEIGHT, WIDTH, BAR = 7, 3, 10, 12, 4


def test_rgb_keeps_every_brightness_of_bytes_that_went_through_the_network():
    brightness = np.arange(256, dtype=np.float32).reshape(1, 16, 16)
    seen_by_network = brightness / np.float32(255) - np.float32(0.5)
    np.testing.assert_array_equal(to_rgb(seen_by_network + np.float32(0.5))[..., 0], brightness[0])
    np.testing.assert_array_equal(to_rgb(brightness.astype(np.uint8))[..., 0], brightness[0])


def test_rgb_repeats_grey_and_keeps_colours():
    grey, colour = np.random.default_rng(0).random((2, T, 3, HEIGHT, WIDTH), np.float32)
    assert to_rgb(grey[:, :1]).shape == (T, HEIGHT, WIDTH, 3)
    assert (np.ptp(to_rgb(grey[:, :1]), -1) == 0).all()
    np.testing.assert_allclose(to_rgb(colour)[..., 1], colour[:, 1] * 255, atol=1)


def test_rgb_shows_the_first_of_two_channels_and_three_of_four():
    two, four = np.zeros((2, 5, 6), np.uint8), np.zeros((4, 5, 6), np.uint8)
    two[0], four[3] = 7, 9
    assert (to_rgb(two) == 7).all()
    assert to_rgb(four).shape == (5, 6, 3)
    assert (to_rgb(four) == 0).all()


def test_rgb_clips_what_is_too_dark_or_too_bright():
    assert to_rgb(np.array([-1.0, 2.0]).reshape(1, 1, 2)).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("channels", [1, 3])
def test_open_loop_grid_shows_truth_model_and_difference(channels):
    truth, model = np.random.default_rng(0).random((2, T, B, channels, HEIGHT, WIDTH))
    grid = open_loop_grid(truth, model, context=2)
    assert grid.shape == (T, 3 * HEIGHT, BAR + B * WIDTH, 3)
    assert grid.dtype == np.uint8
    second = slice(BAR + WIDTH, BAR + 2 * WIDTH)
    for row, images in enumerate([truth, model, 0.5 + (model - truth) / 2]):
        cell = grid[:, row * HEIGHT : (row + 1) * HEIGHT, second]
        np.testing.assert_allclose(cell[..., 0], images[:, 1, 0] * 255, atol=1)


def test_open_loop_grid_is_green_where_the_model_saw_and_red_after():
    zeros = np.zeros((T, B, 1, HEIGHT, WIDTH))
    bar = open_loop_grid(zeros, zeros, context=2)[:, :, :BAR].astype(int)
    greener = bar[..., 1] > bar[..., 0]
    assert greener[:2].all()
    assert not greener[2:].any()


def moving_square(height: int, width: int) -> np.ndarray:
    frames = np.zeros((T, height, width, 3), np.uint8)
    for t in range(T):
        frames[t, height // 4 : height // 2, t : t + width // 3] = (250, 40, 40)
    return frames


@pytest.mark.parametrize(
    ("size", "written"),
    [((64, 64), (256, 256)), ((30, 43), (180, 258)), ((301, 300), (302, 300))],
)
def test_mp4_is_read_back_with_its_frames_enlarged_to_even_sides(tmp_path, size, written):
    frames = moving_square(*size)
    path = tmp_path / "videos" / "episode.mp4"
    write_mp4(path, frames, fps=15)
    with imageio.get_reader(path) as reader:
        decoded = np.stack([frame for frame in reader])  # it has no length
        assert reader.get_meta_data()["fps"] == 15
    assert decoded.shape == (T, *written, 3)
    scale = max(1, written[0] // size[0])
    expected = frames.repeat(scale, 1).repeat(scale, 2)
    error = np.abs(decoded[:, : expected.shape[1], : expected.shape[2]].astype(int) - expected)
    assert error.mean() < 8


def test_gif_is_read_back_with_its_frames():
    frames = moving_square(32, 40)
    decoded = np.stack([x[..., :3] for x in imageio.mimread(encode_gif(frames, fps=10))])
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 8
