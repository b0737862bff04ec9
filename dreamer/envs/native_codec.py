"""The codec of environments without Gymnasium spaces, and one-hot encoding of choices.

See `codecs.py`. It knows arrays, no environment and no network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dreamer.types import ActionSpace, obs_dtype, visible

Leading = tuple[int, ...]


class NativeCodec:
    """Codec of environments without Gymnasium spaces, such as Atari and the dummy worlds.

    Observations are a dictionary of arrays, a list of such dictionaries, or one array if there is
    one key: images (C, 64, 64) uint8, vectors (O,). Actions are the index of a choice, an array of
    indices if there are several choices, or A numbers in [-1, 1]. Observations for probes need not
    be given.
    """

    def __init__(self, obs_shapes: dict[str, tuple[int, ...]], action_space: ActionSpace):
        self.obs_shapes, self.action_space = obs_shapes, action_space
        size, self._discrete, choices = action_space
        self._choices = choices or (size,)

    def encode_observations(self, raw: Any) -> tuple[dict[str, np.ndarray], Leading]:
        """See `SpaceCodec`."""
        shapes = visible(self.obs_shapes)
        raw = _stacked(raw, list(shapes))
        if not isinstance(raw, Mapping):
            if len(shapes) != 1:
                raise ValueError(
                    f"Observations must be a dictionary with {list(shapes)}, "
                    f"got {type(raw).__name__}"
                )
            raw = dict.fromkeys(shapes, raw)
        if missing := shapes.keys() - raw.keys():
            raise ValueError(f"Observations must be {list(shapes)}, missing: {missing}")
        obs = {k: _encode_array(k, raw[k], shape) for k, shape in shapes.items()}
        leading = {k: x.shape[: x.ndim - len(shapes[k])] for k, x in obs.items()}
        if len(set(leading.values())) > 1:
            raise ValueError(f"Observations must have the same leading axes, got {leading}")
        return obs, next(iter(leading.values()))

    def encode_actions(self, raw: Any) -> np.ndarray:
        """See `SpaceCodec`."""
        array = np.asarray(raw)
        if not self._discrete:
            size = self.action_space.size
            if array.shape[-1:] != (size,) or not (np.abs(array) <= 1).all():
                raise ValueError(
                    f"Actions must be {size} numbers in [-1, 1], got {describe(array)}"
                )
            return array.astype(np.float32)
        if not self.action_space.choices:
            array = array[..., None]
        return one_hots(array, self._choices)

    def decode_actions(self, actions: np.ndarray) -> Any:
        """See `SpaceCodec`."""
        if not self._discrete:
            return actions
        chosen = chosen_options(actions, self._choices)
        if self.action_space.choices:
            return chosen
        return chosen[..., 0] if chosen.ndim > 1 else int(chosen[0])

    def to_dict(self) -> dict[str, Any]:
        """See `SpaceCodec`."""
        return describe_kind(self.obs_shapes, self.action_space)


def describe_kind(
    obs_shapes: dict[str, tuple[int, ...]], action_space: ActionSpace
) -> dict[str, Any]:
    """Describe observations and actions in JSON types."""
    return {
        "observations": {key: list(shape) for key, shape in obs_shapes.items()},
        "actions": action_space._asdict() | {"choices": list(action_space.choices)},
    }


def one_hots(chosen: np.ndarray, choices: tuple[int, ...]) -> np.ndarray:
    """Convert indices (*leading, len(choices)) to concatenated one-hot vectors (*leading, A).

    Raises:
        ValueError: An index is not an integer or out of range.
    """
    limits = np.array(choices)
    whole = chosen.dtype.kind in "biu" and chosen.shape[-1:] == limits.shape
    if not whole or (chosen < 0).any() or (chosen >= limits).any():
        raise ValueError(
            f"Actions must be whole numbers below {', '.join(map(str, choices))}, "
            f"got {describe(chosen.squeeze(-1) if len(choices) == 1 else chosen)}"
        )
    rows = [np.eye(n, dtype=np.float32)[chosen[..., i]] for i, n in enumerate(choices)]
    return np.concatenate(rows, -1)


def chosen_options(actions: np.ndarray, choices: tuple[int, ...]) -> np.ndarray:
    """Convert concatenated one-hot vectors (*leading, A) to indices (*leading, len(choices))."""
    parts = np.split(actions, np.cumsum(choices)[:-1], -1)
    return np.stack([part.argmax(-1) for part in parts], -1)


def _stacked(raw: Any, keys: Sequence[str]) -> Any:
    """Make one dictionary from a list of dictionaries, or of lists of them; return all else."""
    first = raw
    while isinstance(first, list | tuple) and first:
        first = first[0]
    if not isinstance(first, Mapping) or first is raw:
        return raw
    rows = [_stacked(row, keys) for row in raw]
    if not all(isinstance(row, Mapping) and row.keys() >= set(keys) for row in rows):
        raise ValueError(f"Observations in a list must all be dictionaries with {list(keys)}")
    return {key: np.array([row[key] for row in rows]) for key in keys}


def _encode_array(key: str, raw: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Check the observations of one key, and convert them to uint8 (images) or float32."""
    array = np.asarray(raw)
    if array.shape[max(array.ndim - len(shape), 0) :] != shape:
        raise ValueError(f"`{key}` must have shape (..., {shape}), got {array.shape}")
    if obs_dtype(shape) is np.uint8:
        if array.dtype != np.uint8:
            raise ValueError(f"Image `{key}` must be uint8, got {array.dtype}")
        return array
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(f"`{key}` must hold finite numbers, got {describe(array)}")
    return array.astype(np.float32)


def describe(array: np.ndarray) -> str:
    """Describe an array on one line: its values if there are few, else its shape and range."""
    if array.size <= 8 or array.dtype.kind not in "biuf":
        return str(array.tolist())[:200]
    return f"shape {array.shape}, {array.dtype}, from {array.min()} to {array.max()}"
