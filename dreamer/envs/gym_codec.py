"""The codec of Gymnasium environments.

See `codecs.py`. It knows spaces and arrays, no environment and no network.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from dreamer.envs.group import EnvironmentFault
from dreamer.envs.native_codec import Leading, describe, describe_kind, one_hots
from dreamer.envs.spaces import ActionDecoder, GymSpaces, ObservationEncoder
from dreamer.types import HIDDEN

Path = tuple[str | int, ...]  # keys and indices that lead to a part of a space
ROUNDING = 1e-5  # tolerance of an action's bounds, relative to their distance


class GymCodec:
    """Codec of an observation space and an action space.

    Several dictionary or tuple observations are either one such object, whose arrays have leading
    axes, or a list of such objects. Parts for probes need not be given.
    """

    def __init__(self, user_spaces: GymSpaces):
        self._spaces = user_spaces
        self._decode = ActionDecoder(user_spaces.action)
        self.action_space = self._decode.action_space
        self.obs_shapes = self._encoder().shapes

    def encode_observations(self, raw: Any) -> tuple[dict[str, np.ndarray], Leading]:
        """See `SpaceCodec`."""
        space = self._spaces.observation
        leaves = _leaves(raw, space)
        found = {
            _name(path): array.shape[: array.ndim - len(shape)]
            for path, (array, shape) in leaves.items()
        }
        if len(set(found.values())) > 1:
            raise ValueError(f"Observations must have the same leading axes, got {found}")
        leading = next(iter(found.values()))
        encode = self._encoder(hidden=False)
        try:
            rows = [encode(_one(space, leaves, index)) for index in np.ndindex(*leading)]
        except EnvironmentFault as fault:
            raise ValueError(str(fault)) from fault
        obs = {
            key: np.array([row[key] for row in rows]).reshape(*leading, *shape)
            for key, shape in encode.shapes.items()
        }
        for key, array in obs.items():
            if not np.isfinite(array).all():
                raise ValueError(f"`{key}` must be finite, got {describe(array)}")
        return obs, leading

    def encode_actions(self, raw: Any) -> np.ndarray:
        """See `SpaceCodec`."""
        space, array = self._spaces.action, np.asarray(raw)
        assert space.shape is not None
        leading = array.shape[: max(array.ndim - len(space.shape), 0)]
        if array.shape != (*leading, *space.shape) or array.dtype.kind not in "biuf":
            raise ValueError(f"Actions must be of {space}, got {describe(array)}")
        if isinstance(space, spaces.Box):
            return _scale_to_unit(array, space).reshape(*leading, -1)
        chosen = array - getattr(space, "start", 0) if array.dtype.kind in "iu" else array
        choices = self.action_space.choices or (self.action_space.size,)
        return one_hots(chosen.reshape(*leading, -1), choices)

    def decode_actions(self, actions: np.ndarray) -> Any:
        """See `SpaceCodec`."""
        space = self._spaces.action
        assert space.shape is not None
        leading = actions.shape[:-1]
        rows = [self._decode(actions[index]) for index in np.ndindex(*leading)]
        if leading:
            return np.array(rows, space.dtype).reshape(*leading, *space.shape)
        return int(rows[0]) if isinstance(space, spaces.Discrete) else rows[0]

    def to_dict(self) -> dict[str, Any]:
        """See `SpaceCodec`."""
        observation, action, grayscale, flat_keys, class_keys = self._spaces
        return describe_kind(self.obs_shapes, self.action_space) | {
            "gymnasium": {
                "observation": _plain(observation),
                "action": _plain(action),
                "grayscale": grayscale,
                "flat_keys": flat_keys,
                "class_keys": class_keys,
            }
        }

    def _encoder(self, *, hidden: bool = True) -> ObservationEncoder:
        """Make a new encoder, which requires all data to have the type of the first."""
        observation, _, grayscale, flat_keys, class_keys = self._spaces
        return ObservationEncoder(
            observation,
            grayscale=grayscale,
            flat_keys=flat_keys,
            class_keys=class_keys,
            hidden=hidden,
        )


def spaces_from_dict(plain: Mapping[str, Any]) -> GymSpaces:
    """Make the spaces that `GymCodec.to_dict` described."""
    return GymSpaces(
        _space(plain["observation"]),
        _space(plain["action"]),
        plain["grayscale"],
        plain["flat_keys"],
        plain.get("class_keys", "$^"),  # older runs have none
    )


def _children(space: spaces.Space) -> dict[Any, spaces.Space] | None:
    """Return the parts of a Dict or Tuple space; None for any other space."""
    match space:
        case spaces.Dict():
            return dict(space.spaces)
        case spaces.Tuple():
            return dict(enumerate(space.spaces))
    return None


def _leaves(
    raw: Any, space: spaces.Space, path: Path = ()
) -> dict[Path, tuple[np.ndarray, tuple[int, ...]]]:
    """Return the arrays of one or several observations by path, each with the shape of one."""
    children = _children(space)
    if children is None:
        if space.shape is None:  # Text or Graph: not observed
            return {}
        array = np.asarray(raw)
        tail = array.shape[max(array.ndim - len(space.shape), 0) :]
        if tail != space.shape or array.dtype.kind not in "biuf":
            raise ValueError(f"`{_name(path)}` must be of {space}, got {describe(array)}")
        return {path: (array, space.shape)}
    if isinstance(raw, list) and raw:
        many = [_leaves(one, space, path) for one in raw]
        return {
            p: (np.stack([leaves[p][0] for leaves in many]), shape)
            for p, (_, shape) in many[0].items()
        }
    parts = {}
    for key, child in children.items():
        if _is_hidden((*path, key), child):
            continue
        try:
            part = raw[key]
        except (KeyError, IndexError, TypeError) as error:
            name = _name((*path, key))
            raise ValueError(f"The observation must have `{name}`, got {raw}") from error
        parts |= _leaves(part, child, (*path, key))
    return parts


def _name(path: Path) -> str:
    """Return the name of a part, for errors."""
    return "/".join(map(str, path)) or "observation"


def _is_hidden(path: Path, space: spaces.Space) -> bool:
    """Whether a part, or all parts of a Dict or Tuple, are for probes only."""
    end = "" if _children(space) is None else "/"
    return f"{_name(path)}{end}".startswith(HIDDEN)


def _one(
    space: spaces.Space,
    leaves: Mapping[Path, tuple[np.ndarray, tuple[int, ...]]],
    index: tuple[int, ...],
    path: Path = (),
) -> Any:
    """Select one of several observations, in the structure of its space."""
    children = _children(space)
    if children is not None:
        return {key: _one(child, leaves, index, (*path, key)) for key, child in children.items()}
    return leaves[path][0][index] if path in leaves else None


def _scale_to_unit(array: np.ndarray, space: spaces.Box) -> np.ndarray:
    """Scale numbers between a Box's bounds to [-1, 1]."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    width = high - low
    slack = ROUNDING * np.maximum(width, 1)
    if not ((array >= low - slack) & (array <= high + slack)).all():
        raise ValueError(f"Actions must be of {space}, got {describe(array)}")
    share = np.divide(array - low, width, out=np.full(array.shape, 0.5), where=width > 0)
    return (2 * share - 1).clip(-1, 1).astype(np.float32)


def _plain(space: spaces.Space) -> dict[str, Any]:
    """Describe a space in JSON types."""
    match space:
        case spaces.Box():
            shape, dtype = list(space.shape), str(space.dtype)
            bounds = {"low": _numbers(space.low), "high": _numbers(space.high)}
            return {"type": "Box", **bounds, "shape": shape, "dtype": dtype}
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            nvec, start = space.nvec.tolist(), space.start.tolist()
            return {"type": "MultiDiscrete", "nvec": nvec, "start": start}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "shape": list(space.shape)}
        case spaces.Dict():
            parts = [[key, _plain(child)] for key, child in space.spaces.items()]
            return {"type": "Dict", "spaces": parts}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [_plain(child) for child in space.spaces]}
    return {"type": type(space).__name__}  # not observed


def _space(plain: Mapping[str, Any]) -> spaces.Space:
    """Make the space that `_plain` described."""
    match plain["type"]:
        case "Box":
            dtype = np.dtype(plain["dtype"])
            low, high = (
                np.broadcast_to(np.array(plain[name], np.float64), plain["shape"]).astype(dtype)
                for name in ("low", "high")
            )
            return spaces.Box(low, high, dtype=dtype.type)
        case "Discrete":
            return spaces.Discrete(plain["n"], start=plain["start"])
        case "MultiDiscrete":
            return spaces.MultiDiscrete(np.array(plain["nvec"]), start=np.array(plain["start"]))
        case "MultiBinary":
            return spaces.MultiBinary(plain["shape"])
        case "Dict":
            return spaces.Dict([(key, _space(child)) for key, child in plain["spaces"]])
        case "Tuple":
            return spaces.Tuple([_space(child) for child in plain["spaces"]])
    return spaces.Text(1)  # pathholder for a space that is not observed


def _numbers(array: np.ndarray) -> Any:
    """Return the numbers as nested lists, or as one number if all are equal."""
    same = array.size > 0 and bool((array == array.flat[0]).all())
    return _infinity_to_str(array.flat[0].item() if same else array.tolist())


def _infinity_to_str(numbers: Any) -> Any:
    """Repath infinity, which JSON lacks, by a string that NumPy can parse."""
    if isinstance(numbers, list):
        return [_infinity_to_str(one) for one in numbers]
    return numbers if np.isfinite(numbers) else str(numbers)
