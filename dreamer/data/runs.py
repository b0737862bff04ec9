"""The experience of run folders, read and written: their replays.

A run may be using its replay while it is read. It knows the files of a replay, no run.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dreamer.data.address import Place, to_read
from dreamer.data.episodes import BrokenFile, Episode, Flags, Observations, Summary, split
from dreamer.envs.codecs import SpaceCodec, codec_from_dict
from dreamer.envs.native_codec import NativeCodec
from dreamer.files import DamagedFile, read_json, write_text
from dreamer.replay.buffer import Replay, ReplayConfig
from dreamer.replay.storage import LAYOUT, Column
from dreamer.replay.stored import Episode as Stored
from dreamer.replay.stored import read_replay
from dreamer.types import ActionSpace, TimeStep, obs_dtype

REPLAY, SPACES = "replay", "spaces.json"
FLAGS = ("prev_action", "reward", "is_first", "is_last", "is_terminal")
OBSERVED = "obs_"  # how the names of a replay's columns of observations begin


def is_run(place: Place) -> bool:
    """Whether there is a run folder at an address, or its folder replay/."""
    return place.exists(f"{REPLAY}/{LAYOUT}") or place.exists(LAYOUT)


class RunSource:
    """The replay of a run folder."""

    format = "run"

    def __init__(self, place: Place):
        """Read nothing yet."""
        self._place = place
        self.action_space: ActionSpace | None = None
        self.codec: SpaceCodec | None = None

    def episodes(self, skip: Callable[[str, str], None]) -> Iterator[Episode]:
        """See `Source`.

        Raises:
            ValueError: The folder holds other files than those of a replay, or spaces.json is
                damaged.
            OSError: The place cannot be reached.
        """
        with to_read(self._place) as folder:
            directory = folder / REPLAY if (folder / REPLAY).is_dir() else folder
            self.codec = _codec(directory.parent / SPACES)
            self.action_space = self.codec.action_space if self.codec else None
            stored = read_replay(directory)
            if stored is None:
                return
            if stored.headless:
                skip(f"{stored.headless:,} steps", "the start of their episode is overwritten")
            columns = {
                name.removeprefix(OBSERVED): column
                for name, column in stored.columns.items()
                if name.startswith(OBSERVED)
            }
            for number, episode in enumerate(stored.episodes):
                yield from _read(f"episode {number}", episode, columns, skip)


def _read(
    name: str, stored: Stored, columns: dict[str, Column], skip: Callable[[str, str], None]
) -> Iterator[Episode]:
    """Yield one episode; a run may have overwritten it meanwhile."""
    pieces = list(stored.read(FLAGS))
    if sum(len(piece["reward"]) for piece in pieces) < stored.length:
        skip(name, "the run has overwritten it")
        return
    flags = Flags(**{key: np.concatenate([piece[key] for piece in pieces]) for key in FLAGS})
    names = [OBSERVED + key for key in columns]

    def read() -> Observations:
        parts = [{key: piece[OBSERVED + key] for key in columns} for piece in stored.read(names)]
        whole = {key: np.concatenate([part[key] for part in parts]) for key in columns if parts}
        if not whole or len(next(iter(whole.values()))) < stored.length:
            raise BrokenFile("the run has overwritten it")
        return whole

    yield from split(name, flags, columns, read, skip)


def _codec(path: Path) -> SpaceCodec | None:
    with contextlib.suppress(FileNotFoundError):  # older runs have none
        spaces = read_json(path)
        try:
            return codec_from_dict(spaces)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(f"{path} is damaged: it describes no spaces ({error!r:.60}).") from (
                error
            )
    return None


class RunWriter:
    """Writes a folder with replay/ and spaces.json, for one environment."""

    def __init__(self, folder: Path, summary: Summary, space: ActionSpace):
        """Create the replay, as large as the episodes.

        Raises:
            ValueError: An observation is no image, class image or vector.
            OSError: The disk is too small.
        """
        shapes = {name: stored_shape(name, column) for name, column in summary.columns.items()}
        self._shapes = shapes
        self._replay = Replay(
            folder / REPLAY,
            obs_shapes=shapes,
            action_size=space.size,
            env_count=1,
            config=ReplayConfig(summary.steps + summary.episodes, "episodes", False),
            seed=0,
        )
        spaces = NativeCodec(shapes, space).to_dict()
        write_text(folder / SPACES, json.dumps(spaces, indent=2) + "\n")

    def add(self, episode: Episode, observations: Observations) -> None:
        """Append an episode.

        Raises:
            ValueError: The numbers of an image are outside of 0 to 255.
        """
        obs = {
            key: as_stored(episode.name, key, array, self._shapes[key])
            for key, array in observations.items()
        }
        action, *others = (array[:, None] for array in episode.flags)
        action = action.astype(np.float32)
        for n in range(episode.steps + 1):
            step = TimeStep({k: x[n, None] for k, x in obs.items()}, *(x[n] for x in others))
            self._replay.add(step, action[n])

    def close(self) -> None:
        """Do nothing: every step is written."""


def stored_shape(name: str, column: Column) -> tuple[int, ...]:
    """Return the shape of an observation in a replay; tables of floats become vectors.

    Raises:
        ValueError: It is no image, class image or vector.
    """
    shape, is_float = column.shape or (1,), np.dtype(column.dtype).kind == "f"
    if len(shape) == 2 and is_float:
        return (math.prod(shape),)
    if len(shape) > 3 or (len(shape) == 3 and is_float):
        raise ValueError(
            f"`{name}` must be an image or a table of whole numbers, or a vector, got "
            f"{'x'.join(map(str, shape))} {np.dtype(column.dtype)}"
        )
    return shape


def as_stored(name: str, key: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Convert observations (n, ...) to the shape and the type of a replay.

    Args:
        name: Of the episode, for the message.
        key: Name of the observation.
        array: The observations.
        shape: Of one of them in the replay, see `stored_shape`.

    Raises:
        ValueError: The numbers of an image are outside of 0 to 255.
    """
    numbers = obs_dtype(shape)
    if numbers is np.uint8 and (array.min() < 0 or array.max() > 255):
        raise ValueError(
            f"`{key}` must be from 0 to 255, got {array.min()} to {array.max()} in {name}"
        )
    return array.reshape(len(array), *shape).astype(numbers)
