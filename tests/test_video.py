"""Grids for people, and files that a decoder reads back."""

import imageio.v2 as imageio
import numpy as np
import pytest

from dreamer.video import (
    COLOURS,
    RIGHT,
    WRONG,
    draw_goals,
    draw_maps,
    encode_gif,
    open_loop_grid,
    to_rgb,
    write_mp4,
)

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


def map_pictures(**changes):
    """A map of 2 x 3 cells, two steps of one sequence; the agent is in the middle below."""
    truth = np.array([[[[0, 1, 2], [0, 0, 0]]]]).repeat(2, 0)
    given = {
        "model": truth,
        "seen": None,
        "position": np.array([1.0, 1.0]) + np.zeros((2, 1, 2)),
        "direction": np.array([1.0, 0.0]) + np.zeros((2, 1, 2)),
    }
    return draw_maps(truth, **given | changes)


def test_maps_show_truth_prediction_and_what_is_wrong():
    model = np.array([[[[0, 1, 1], [0, 0, 0]]]]).repeat(2, 0)
    pictures = map_pictures(model=model)
    assert pictures.shape == (2, 3 * 2 * 8, 3 * 8, 3)
    truth, predicted, errors = np.split(pictures[0], 3)
    corner = (2, 18)  # in the third cell of the first row
    assert truth[corner].tolist() == COLOURS[2].tolist()
    assert predicted[corner].tolist() == COLOURS[1].tolist()
    assert errors[corner].tolist() == list(WRONG)
    assert errors[2, 2].tolist() == list(RIGHT)


def test_cells_that_were_never_seen_are_darker_on_all_maps():
    seen = np.array([[[[True, True, False], [True, True, True]]]]).repeat(2, 0)
    everywhere, partly = map_pictures()[0].astype(int), map_pictures(seen=seen)[0].astype(int)
    for rows in (slice(0, 8), slice(16, 24), slice(32, 40)):
        np.testing.assert_array_equal(partly[rows, :16], everywhere[rows, :16])
        assert (partly[rows, 16:23] < everywhere[rows, 16:23]).all()


def test_the_agent_is_white_and_its_nose_is_ahead():
    picture = map_pictures()[0]
    white = (picture[:16] == 255).all(-1)[:, :-1]  # without the line between sequences
    rows, columns = np.nonzero(white)
    assert (rows.min(), rows.max()) == (10, 13)
    assert (columns.min(), columns.max()) == (10, 15)  # the nose is two pixels to the right


def test_goals_ahead_are_above_the_middle_and_those_to_the_right_are_right_of_it():
    truth = np.array([[[[4.0, 0.0], [0.0, 4.0]]]])
    (picture,) = draw_goals(truth, truth, edge=64)
    for goal, (y, x) in enumerate([(8, 32), (32, 56)]):
        found = np.argwhere((picture == COLOURS[7 + goal]).all(-1))
        np.testing.assert_allclose(found.mean(0), [y, x], atol=1)


def test_a_predicted_goal_is_where_the_prediction_says():
    truth, model = np.array([[[[4.0, 0.0]]]]), np.array([[[[0.0, -2.0]]]])
    (picture,) = draw_goals(truth, model, edge=64)
    found = np.argwhere((picture == COLOURS[7] // 2 + 127).all(-1))
    np.testing.assert_allclose(found.mean(0), [32, 20], atol=1)
