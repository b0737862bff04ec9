"""What users say and hear of observations and actions, and what that is in our words.

A trained agent uses it, so that it needs no environment: terms are written to the run folder as
plain types, and read from there. It knows arrays and spaces, no environment and no network.

In users' terms, arrays may have leading axes: none for one step, (B,) for several at once, (T,) or
(T, B) for sequences. Which it is follows from the shape of one observation or action.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from dreamer.envs.base import VectorEnvs
from dreamer.envs.gym_codec import GymCodec, read_spaces
from dreamer.envs.native_codec import Leading, NativeCodec
from dreamer.types import ActionSpace


class SpaceCodec(Protocol):
    """The terms of one kind of environment."""

    obs_shapes: dict[str, tuple[int, ...]]  # in our words, as in `VectorEnvs`
    action_space: ActionSpace

    def encode_observations(self, raw: Any) -> tuple[dict[str, np.ndarray], Leading]:
        """Observations in our words (*leading, *shape), uint8 or float32, and their leading axes.

        Raises:
            ValueError: they are none of this environment.
        """
        ...

    def encode_actions(self, raw: Any) -> np.ndarray:
        """Actions in our words: (*leading, A) float32.

        Raises:
            ValueError: they are none of this environment.
        """
        ...

    def decode_actions(self, actions: np.ndarray) -> Any:
        """Actions (*leading, A) in users' terms."""
        ...

    def as_plain(self) -> dict[str, Any]:
        """The same as JSON can hold it, for `read_codec`."""
        ...


def codec_of(envs: VectorEnvs) -> SpaceCodec:
    """The terms of a group of environments."""
    spaces = getattr(envs, "user_spaces", None)
    return NativeCodec(envs.obs_shapes, envs.action_space) if spaces is None else GymCodec(spaces)


def read_codec(plain: Mapping[str, Any]) -> SpaceCodec:
    """Make the terms that `as_plain` described."""
    if "gymnasium" in plain:
        return GymCodec(read_spaces(plain["gymnasium"]))
    size, discrete, choices = (plain["actions"][name] for name in ActionSpace._fields)
    obs_shapes = {key: tuple(shape) for key, shape in plain["observations"].items()}
    return NativeCodec(obs_shapes, ActionSpace(size, discrete, tuple(choices)))
