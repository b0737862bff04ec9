"""Folders of episode files, and a way to read all of a source."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dreamer.data.formats import Pass

FILES = Path(__file__).parent / "files"


@pytest.fixture
def files(tmp_path) -> Callable[[str], Path]:
    """Copy one of the folders."""
    return lambda name: Path(shutil.copytree(FILES / name, tmp_path / name))


@pytest.fixture
def read() -> Callable[..., tuple[list[dict[str, np.ndarray]], dict[str, str]]]:
    """Read all episodes at an address as dictionaries; and what is skipped."""

    def call(address) -> tuple[list[dict[str, np.ndarray]], dict[str, str]]:
        walk = Pass.of(str(address))
        return [e.flags._asdict() | dict(x) for e, x in walk.whole()], walk.skipped

    return call


@pytest.fixture
def same() -> Callable[..., None]:
    """Compare episodes, whose numbers may have other types."""

    def call(left: list[dict[str, np.ndarray]], right: list[dict[str, np.ndarray]]) -> None:
        assert len(left) == len(right) > 0
        for one, other in zip(left, right, strict=True):
            assert one.keys() == other.keys()
            for key, array in one.items():
                np.testing.assert_allclose(array, other[key], rtol=1e-6, atol=0, err_msg=key)

    return call
