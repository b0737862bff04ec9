"""env=offline: the spaces of stored data in place of an environment that is not installed.

`dreamer.run` makes the spaces from the data or from a run folder. Nothing can be played in them.
"""

from typing import NoReturn

import numpy as np

from dreamer.envs.codecs import SpaceCodec
from dreamer.types import TimeStep


class StoredSpaces:
    """A `VectorEnvs` whose environment is absent: it has spaces, and takes no step."""

    count = 1
    action_repeat = 1

    def __init__(self, codec: SpaceCodec):
        """`codec` has the spaces."""
        self.codec = codec
        self.obs_shapes, self.action_space = codec.obs_shapes, codec.action_space
        self.reference_returns: dict[str, float] = {}

    def reset(self) -> TimeStep:
        """Refuse; see `make_offline`."""
        raise _absent()

    def step(self, action: np.ndarray) -> TimeStep:
        """Refuse; see `make_offline`."""
        raise _absent()

    def render(self) -> np.ndarray:
        """Refuse; see `make_offline`."""
        raise _absent()

    def close(self) -> None:
        """Do nothing."""


def make_offline(*, seed: int, count: int = 1) -> NoReturn:
    """Refuse to make environments.

    Raises:
        ValueError: Always.
    """
    raise _absent()


def _absent() -> ValueError:
    return ValueError(
        "`env` must be an installed environment to play in, got offline: the run has learned from "
        "stored data alone"
    )
