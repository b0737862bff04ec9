"""Convert observations and actions between an environment's spaces and the agent's arrays.

A trained agent uses it in place of an environment: the run folder stores each codec as plain
types. It knows arrays and spaces, no environment and no network.

Arrays may have leading axes: none for one step, (B,) for several environments, (T,) or (T, B) for
sequences. The codec infers them from the shape of one observation or action.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from dreamer.envs.base import VectorEnvs
from dreamer.envs.gym_codec import GymCodec, spaces_from_dict
from dreamer.envs.native_codec import Leading, NativeCodec
from dreamer.types import ActionSpace


class SpaceCodec(Protocol):
    """Converts the observations and actions of one kind of environment."""

    obs_shapes: dict[str, tuple[int, ...]]  # of the agent's arrays, as in `VectorEnvs`
    action_space: ActionSpace

    def encode_observations(self, raw: Any) -> tuple[dict[str, np.ndarray], Leading]:
        """Return the agent's observations (*leading, *shape), uint8 or float32, and `leading`.

        Raises:
            ValueError: The observations do not match the environment's space.
        """
        ...

    def encode_actions(self, raw: Any) -> np.ndarray:
        """Return the agent's actions, (*leading, A) float32.

        Raises:
            ValueError: The actions do not match the environment's space.
        """
        ...

    def decode_actions(self, actions: np.ndarray) -> Any:
        """Convert actions (*leading, A) to those of the environment's space."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Describe the codec in JSON types, for `codec_from_dict`."""
        ...


def codec_of(envs: VectorEnvs) -> SpaceCodec:
    """Make the codec of a group of environments, or return that of stored data."""
    if codec := getattr(envs, "codec", None):
        return codec
    spaces = getattr(envs, "user_spaces", None)
    return NativeCodec(envs.obs_shapes, envs.action_space) if spaces is None else GymCodec(spaces)


def codec_from_dict(plain: Mapping[str, Any]) -> SpaceCodec:
    """Make the codec that `to_dict` described."""
    if "gymnasium" in plain:
        return GymCodec(spaces_from_dict(plain["gymnasium"]))
    size, discrete, choices = (plain["actions"][name] for name in ActionSpace._fields)
    obs_shapes = {key: tuple(shape) for key, shape in plain["observations"].items()}
    return NativeCodec(obs_shapes, ActionSpace(size, discrete, tuple(choices)))
