"""Pictures for people: what is taken for one, and how observations are drawn."""

import re

import gymnasium
import numpy as np
import pytest

from dreamer.callbacks.interrupt import Interrupted
from dreamer.envs.rendering import RenderingFault, call_render, draw, resize

PICTURE = np.random.default_rng(0).integers(256, size=(4, 6, 3), dtype=np.uint8)


class UnprintableError(Exception):
    def __str__(self):
        raise ValueError("not even this")


def raise_(error):
    raise error


# What is taken


@pytest.mark.parametrize("given", [PICTURE, list(PICTURE), PICTURE[:1, :1], PICTURE[:, ::-1]])
def test_a_picture_is_taken_as_it_is(given):
    np.testing.assert_array_equal(call_render(lambda: given, "Toy-v0"), np.array(given))


@pytest.mark.parametrize(
    ("given", "described"),
    [
        (None, "None"),
        ("a picture", "a str"),
        ([], "a list"),
        ([PICTURE, PICTURE], "a list"),
        ([PICTURE, None], "a list"),
        (PICTURE.transpose(2, 0, 1), "an array (3, 4, 6) of uint8"),
        (PICTURE[..., 0], "an array (4, 6) of uint8"),
        (PICTURE / 255, "an array (4, 6, 3) of float64"),
        (np.full((4, 6, 3), np.nan, np.float32), "an array (4, 6, 3) of float32"),
        (PICTURE.astype(object), "an array (4, 6, 3) of object"),
        (PICTURE[:0], "an array (0, 6, 3) of uint8"),
        (np.broadcast_to(PICTURE[:, :1], (4, 4097, 3)), "an array (4, 4097, 3) of uint8"),
    ],
)
def test_what_is_no_picture_is_refused(given, described):
    # A ragged list is an error of NumPy's, so what was returned is not always known.
    expected = rf"^Toy-v0: `render` must .*, got {re.escape(described)}$"
    with pytest.raises(RenderingFault, match=f"{expected}|^Toy-v0: `render` raised Val"):
        call_render(lambda: given, "Toy-v0")


@pytest.mark.parametrize(
    "error",
    [
        ImportError("pip install pygame"),
        NotImplementedError(),
        gymnasium.error.DependencyNotInstalled("pip install pygame"),
        MemoryError("too large"),
        UnprintableError(),
    ],
)
def test_an_exception_is_refused_with_its_name(error):
    expected = f"^Toy-v0: `render` raised .*{type(error).__name__}"
    with pytest.raises(RenderingFault, match=expected) as fault:
        call_render(lambda: raise_(error), "Toy-v0")
    assert fault.value.__cause__ is error


def test_a_long_message_is_cut():
    with pytest.raises(RenderingFault) as fault:
        call_render(lambda: raise_(ValueError("word " * 10_000)), "Toy-v0")
    assert len(str(fault.value)) < 600


def test_a_fault_that_names_its_environment_is_passed_on():
    with pytest.raises(RenderingFault, match="^Member: render"):
        call_render(lambda: raise_(RenderingFault("Member: render")), "group")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), Interrupted(15)])
def test_what_stops_a_program_is_passed_on(error):
    with pytest.raises(type(error)):
        call_render(lambda: raise_(error), "Toy-v0")


def test_a_picture_in_another_size_has_the_nearest_pixels():
    np.testing.assert_array_equal(resize(PICTURE, 12, 12), PICTURE.repeat(3, 0).repeat(2, 1))
    np.testing.assert_array_equal(resize(PICTURE, 2, 3), PICTURE[::2, ::2])
    same = resize(PICTURE, 4, 6)
    np.testing.assert_array_equal(same, PICTURE)
    assert not np.shares_memory(same, PICTURE)


# What is drawn


def test_a_drawn_image_is_enlarged_in_its_colours():
    image = np.zeros((3, 64, 64), np.uint8)
    image[0, 0, 0], image[2, 1, 2] = 10, 20
    picture = draw({"vector": np.zeros(2, np.float32), "image": image})
    assert picture.shape == (256, 256, 3)
    assert (picture[:4, :4] == [10, 0, 0]).all()
    assert (picture[4:8, 8:12] == [0, 0, 20]).all()


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_images_of_any_number_of_channels_are_drawn(channels):
    image = np.random.default_rng(0).integers(256, size=(channels, 64, 64), dtype=np.uint8)
    picture = draw({"image": image})
    np.testing.assert_array_equal(picture[::4, ::4, 0], image[0])
    np.testing.assert_array_equal(picture[::4, ::4, 2], image[2 if channels > 2 else 0])


def test_drawn_numbers_are_bars_from_the_ground_up():
    picture = draw({"vector": np.array([-9, 0], np.float32), "other": np.array([9], np.float32)})
    assert picture.shape == (256, 256, 3)
    heights = (picture[..., 0] == 255).sum(0)
    assert (heights[:85] == 0).all()
    assert (heights[86:170] == 128).all()
    assert (heights[171:] == 256).all()
