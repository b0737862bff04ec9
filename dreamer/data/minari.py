"""Minari datasets, read and written with Minari's own storage, in all of its file formats.

Observations and actions are encoded as those of `env=gym`. Minari starts no environment for it. It
knows spaces and arrays, no networks.

Source: Minari 0.5, https://minari.farama.org.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from dreamer.data.address import INSTALL, Place, one_line, to_read
from dreamer.data.episodes import Episode, Flags, Observations, Summary, split
from dreamer.envs.codecs import SpaceCodec
from dreamer.envs.gym_codec import GymCodec
from dreamer.envs.native_codec import chosen_options
from dreamer.envs.spaces import GymSpaces
from dreamer.replay.storage import Column
from dreamer.types import ActionSpace, visible

METADATA = "metadata.json"
SPACES = ("observation_space", "action_space")


def is_minari(place: Place) -> bool:
    """Whether there is a Minari dataset at an address, or its folder data/."""
    for name in (f"data/{METADATA}", METADATA):
        if place.exists(name):
            with contextlib.suppress(ValueError), place.open(place.below(name)) as file:
                metadata = json.load(file)
                return isinstance(metadata, dict) and "data_format" in metadata
    return False


class MinariSource:
    """A Minari dataset."""

    format = "minari"

    def __init__(self, place: Place):
        """Open it when the episodes are read."""
        self._place = place
        self.action_space: ActionSpace | None = None
        self.codec: SpaceCodec | None = None

    def episodes(self, skip: Callable[[str, str], None]) -> Iterator[Episode]:
        """See `Source`.

        Raises:
            ValueError: The dataset is damaged, or the agent has no encoding of its spaces.
            ImportError: Minari, or what it needs for this file format, is not installed.
        """
        with to_read(self._place) as folder:
            data = folder / "data" if (folder / "data" / METADATA).exists() else folder
            storage = _open(data, self._place.address)
            codec = GymCodec(
                GymSpaces(
                    storage.observation_space, storage.action_space, grayscale=False, flat_keys="$^"
                )
            )
            self.codec, self.action_space = codec, codec.action_space
            for number in range(storage.total_episodes):
                name = f"episode {number}"
                try:
                    (raw,) = storage.get_episodes([number])
                    flags, observations = _encode(raw, codec)
                except Exception as error:  # each file format and each codec has its own
                    skip(name, one_line(error))
                    continue
                columns = {k: Column(x.shape[1:], x.dtype.str) for k, x in observations.items()}
                yield from split(name, flags, columns, lambda found=observations: found, skip)


class MinariWriter:
    """Writes a Minari dataset: `data/` in a folder whose name is the name of the dataset."""

    def __init__(
        self, folder: Path, name: str, summary: Summary, space: ActionSpace, file_format: str
    ):
        """Create an empty dataset.

        Args:
            folder: Empty.
            name: Of the dataset, such as my_dataset-v0.
            summary: Of the episodes to come.
            space: Of their actions.
            file_format: One of Minari's.

        Raises:
            ImportError: Minari, or what it needs for this file format, is not installed.
        """
        self._space = space
        with _installed():
            import minari
            from minari.data_collector import EpisodeBuffer
            from minari.dataset.minari_storage import MinariStorage

            self._storage = MinariStorage.new(
                folder / "data",
                observation_space=_observation_space(summary.columns),
                action_space=_gym_space(space),
                data_format=file_format,
                jpeg_encoding=False,  # which would lose something
            )
        self._storage.update_metadata({"dataset_id": name, "minari_version": minari.__version__})
        self._make = EpisodeBuffer

    def add(self, episode: Episode, observations: Observations) -> None:
        """Append an episode."""
        flags, tree = episode.flags, {}
        for name, array in visible(observations).items():
            *path, key = name.split("/")
            part = tree
            for step in path:
                part = part.setdefault(step, {})
            part[key] = np.ascontiguousarray(
                np.moveaxis(array, 1, -1) if array.ndim == 4 else array
            )
        self._storage.update_episodes(
            [
                self._make(
                    observations=tree,
                    actions=self._actions(flags.prev_action[1:]),  # pyright: ignore
                    rewards=flags.reward[1:].astype(np.float64),  # pyright: ignore
                    terminations=flags.is_terminal[1:],  # pyright: ignore
                    truncations=(flags.is_last & ~flags.is_terminal)[1:],  # pyright: ignore
                )
            ]
        )

    def close(self) -> None:
        """Do nothing: every episode is written."""

    def _actions(self, actions: np.ndarray) -> np.ndarray:
        if not self._space.discrete:
            return actions.astype(np.float32)
        chosen = chosen_options(actions, self._space.choices or (self._space.size,))
        return chosen if self._space.choices else chosen[:, 0]


def _open(data: Path, address: str) -> Any:
    """Open a dataset without starting the environment that it names."""
    with _installed():
        from minari.dataset.minari_storage import MinariStorage
    try:
        metadata = json.loads((data / METADATA).read_text())
        missing = [key for key in SPACES if key not in metadata]
        if missing:  # Minari would make the environment that the file names
            raise ValueError(f"its {METADATA} must have `{missing[0]}`")
        with _installed():
            return MinariStorage.read(data)
    except (ValueError, KeyError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"{address} must be a Minari dataset: {one_line(error)}") from error


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(f"Minari datasets need `{INSTALL}`: {one_line(error)}") from error


def _encode(raw: dict[str, Any], codec: GymCodec) -> tuple[Flags, dict[str, np.ndarray]]:
    """Convert one episode: n observations, and n - 1 actions, rewards and flags."""
    observations, (count,) = codec.encode_observations(raw["observations"])
    names = ("rewards", "terminations", "truncations")
    rewards, terminal, truncated = (np.asarray(raw[name]).reshape(-1) for name in names)
    actions = codec.encode_actions(raw["actions"])
    lengths = [len(x) for x in (actions, rewards, terminal, truncated)]
    if lengths != [count - 1] * len(lengths):
        raise ValueError(f"its {count} observations must have {count - 1} actions, got {lengths}")
    if not np.isfinite(rewards).all():
        raise ValueError("its rewards must be finite")
    if (terminal | truncated)[:-1].any():
        raise ValueError("its steps continue after the end")
    first = np.arange(count) == 0
    led = np.concatenate([np.zeros_like(actions[:1]), actions])
    reward = np.concatenate([[0], rewards])
    is_terminal = np.append(False, terminal.astype(bool))
    return Flags(led, reward, first, first[::-1], is_terminal), observations


def _observation_space(columns: dict[str, Column]) -> spaces.Dict:
    """Return the space of the observations that agents see; names with slashes are nested."""
    tree: dict[str, Any] = {}
    for name, (shape, dtype) in visible(columns).items():
        *path, key = name.split("/")
        part = tree
        for step in path:
            part = part.setdefault(step, {})
        shape = (*shape[1:], shape[0]) if len(shape) == 3 else shape
        numbers = np.dtype(dtype)
        is_byte = numbers == np.uint8
        bounds = (0, 255) if is_byte else (-np.inf, np.inf)
        part[key] = spaces.Box(*bounds, shape, numbers.type)  # pyright: ignore
    return _dict_space(tree)


def _dict_space(tree: dict[str, Any]) -> spaces.Dict:
    parts: dict[str, Any] = {
        k: _dict_space(v) if isinstance(v, dict) else v for k, v in tree.items()
    }
    return spaces.Dict(parts)


def _gym_space(space: ActionSpace) -> spaces.Space:
    if not space.discrete:
        return spaces.Box(-1, 1, (space.size,), np.float32)
    return (
        spaces.MultiDiscrete(list(space.choices)) if space.choices else spaces.Discrete(space.size)
    )
