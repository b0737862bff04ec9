"""Grids for people, and files that a decoder reads back."""

import imageio.v2 as imageio
import numpy as np
import pytest

from dreamer.captions import GAP, LINE, MAX_SCALE, PAPER, episode_lines, with_caption
from dreamer.video import (
    COLOURS,
    RIGHT,
    WRONG,
    encode_gif,
    goal_rows,
    map_rows,
    open_loop_grid,
    to_rgb,
    write_mp4,
)

T, B, HEIGHT, WIDTH = 7, 3, 10, 12


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
def test_open_loop_grid_shows_truth_model_and_difference_with_gaps(channels):
    truth, model = np.random.default_rng(0).random((2, T, B, channels, 24, 20))
    grid = open_loop_grid(truth, model, context=2)
    assert grid.dtype == np.uint8
    assert len(grid) == T
    high, wide = 24 * MAX_SCALE, 20 * MAX_SCALE
    left = grid.shape[2] - B * (wide + GAP)  # labels
    top = grid.shape[1] - 3 * (high + GAP)  # step counter and bar
    for row, images in enumerate([truth, model, 0.5 + (model - truth) / 2]):
        y, x = top + row * (high + GAP), left + wide + GAP
        cell = grid[:, y : y + high, x : x + wide]
        enlarged = to_rgb(images[:, 1]).repeat(MAX_SCALE, 1).repeat(MAX_SCALE, 2)
        np.testing.assert_array_equal(cell, enlarged)
        gap = grid[:, y : y + high, x + wide : x + wide + GAP]
        assert (gap == PAPER).all()


def test_open_loop_grid_marks_the_end_of_the_context_on_every_frame():
    zeros = np.zeros((10, 1, 1, 64, 64))
    grid = open_loop_grid(zeros, zeros, context=4)
    bar = grid[:, LINE + 4, -64 * MAX_SCALE - GAP : -GAP].astype(int)  # (T, 256, 3)
    white = (bar > 200).all(-1)
    assert white.any(1).all()
    ends = [np.flatnonzero(row).max() / 256 for row in white]
    np.testing.assert_allclose(ends, 0.4, atol=0.02)
    seen, dreamt = bar[:, 10], bar[:, 120]
    assert (seen[:, 1] > seen[:, 0]).all()
    assert (dreamt[:, 0] > dreamt[:, 1]).all()
    assert dreamt[3].max() < 100 < dreamt[9].max()  # later steps are dark until they are shown


def test_every_frame_counts_its_step_and_every_row_has_a_label():
    zeros = np.zeros((3, 1, 1, 64, 64))
    grid = open_loop_grid(zeros, zeros, context=1)
    counters = grid[:, :LINE]
    assert len(np.unique(counters, axis=0)) == 3
    labels = np.split(grid[0, 2 * LINE :, : grid.shape[2] - 64 * MAX_SCALE - GAP], 3)
    inked = [(label != PAPER).any() for label in labels]
    assert inked == [True, True, True]
    assert len({label.tobytes() for label in labels}) == 3


def test_a_caption_is_below_the_picture_and_fits_beside_a_narrow_one():
    picture = np.full((30, 20, 3), 200, np.uint8)
    lines = episode_lines(episode=12, step=1234, reward=-123.45, total=-12345.67)
    framed = with_caption(picture, lines)
    assert framed.shape[0] == 30 + 2 * LINE + GAP
    side = (framed.shape[1] - 20) // 2
    np.testing.assert_array_equal(framed[:30, side : side + 20], picture)
    assert (framed[:30, :side] == PAPER).all()
    for line in np.split(framed[30 + GAP // 2 : -GAP // 2], 2):
        columns = np.flatnonzero((line != PAPER).any((0, 2)))
        assert columns.max() < framed.shape[1] - 5  # nothing is cut off
    assert lines == ["episode 12   step 1234", "reward -123.45   return -12345.67"]


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
    return map_rows(truth, **given | changes)


def test_maps_show_truth_prediction_and_what_is_wrong():
    model = np.array([[[[0, 1, 1], [0, 0, 0]]]]).repeat(2, 0)
    pictures = map_pictures(model=model)
    assert [*pictures] == ["truth", "model", "error"]
    assert {images.shape for images in pictures.values()} == {(2, 1, 2 * 8, 3 * 8, 3)}
    truth, predicted, errors = (images[0, 0] for images in pictures.values())
    corner = (2, 18)  # in the third cell of the first row
    assert truth[corner].tolist() == COLOURS[2].tolist()
    assert predicted[corner].tolist() == COLOURS[1].tolist()
    assert errors[corner].tolist() == list(WRONG)
    assert errors[2, 2].tolist() == list(RIGHT)


def test_cells_that_were_never_seen_are_darker_on_all_maps():
    seen = np.array([[[[True, True, False], [True, True, True]]]]).repeat(2, 0)
    everywhere, partly = map_pictures(), map_pictures(seen=seen)
    for label, images in partly.items():
        light, dark = everywhere[label][0, 0, :8].astype(int), images[0, 0, :8].astype(int)
        np.testing.assert_array_equal(dark[:, :16], light[:, :16])
        assert (dark[:, 16:] < light[:, 16:]).all()


def test_the_agent_is_white_and_its_nose_is_ahead():
    white = (map_pictures()["truth"][0, 0] == 255).all(-1)
    rows, columns = np.nonzero(white)
    assert (rows.min(), rows.max()) == (10, 13)
    assert (columns.min(), columns.max()) == (10, 15)  # the nose is two pixels to the right


def test_goals_ahead_are_above_the_middle_and_those_to_the_right_are_right_of_it():
    truth = np.array([[[[4.0, 0.0], [0.0, 4.0]]]])
    picture = goal_rows(truth, truth, edge=64)["goals"][0, 0]
    for goal, (y, x) in enumerate([(8, 32), (32, 56)]):
        found = np.argwhere((picture == COLOURS[7 + goal]).all(-1))
        np.testing.assert_allclose(found.mean(0), [y, x], atol=1)


def test_a_predicted_goal_is_where_the_prediction_says():
    truth, model = np.array([[[[4.0, 0.0]]]]), np.array([[[[0.0, -2.0]]]])
    picture = goal_rows(truth, model, edge=64)["goals"][0, 0]
    found = np.argwhere((picture == COLOURS[7] // 2 + 127).all(-1))
    np.testing.assert_allclose(found.mean(0), [32, 20], atol=1)
