"""The terms of Gymnasium's environments: whatever their spaces hold, as `step` gives and takes it.

`terms.py` says what terms are for. It knows spaces and arrays, no environment and no network.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from dreamer.envs.group import EnvironmentFault
from dreamer.envs.native_codec import Leading, describe, describe_kind, one_hots
from dreamer.envs.spaces import ActionWriter, GymSpaces, ObservationReader

Place = tuple[str | int, ...]  # keys and indices that lead to a part of a space
ROUNDING = 1e-5  # of an action's bounds


class GymCodec:
    """Observations and actions of a pair of spaces.

    Many dictionaries or tuples at once are one of them with arrays that have leading axes, or a
    list of them.
    """

    def __init__(self, user_spaces: GymSpaces):
        self._spaces = user_spaces
        self._write = ActionWriter(user_spaces.action)
        self.action_space = self._write.action_space
        self.obs_shapes = self._reader().shapes

    def encode_observations(self, raw: Any) -> tuple[dict[str, np.ndarray], Leading]:
        """See `SpaceCodec`."""
        space = self._spaces.observation
        leaves = _leaves(raw, space)
        found = {
            "/".join(map(str, place)) or "observation": array.shape[: array.ndim - len(shape)]
            for place, (array, shape) in leaves.items()
        }
        if len(set(found.values())) > 1:
            raise ValueError(f"Expect observations of the same leading axes, actually: {found}")
        leading = next(iter(found.values()))
        read = self._reader()
        try:
            rows = [read(_one(space, leaves, index)) for index in np.ndindex(*leading)]
        except EnvironmentFault as fault:
            raise ValueError(str(fault)) from fault
        obs = {
            key: np.array([row[key] for row in rows]).reshape(*leading, *shape)
            for key, shape in self.obs_shapes.items()
        }
        for key, array in obs.items():
            if not np.isfinite(array).all():
                raise ValueError(f"Expect `{key}` to be finite, actually: {describe(array)}")
        return obs, leading

    def encode_actions(self, raw: Any) -> np.ndarray:
        """See `SpaceCodec`."""
        space, array = self._spaces.action, np.asarray(raw)
        assert space.shape is not None
        leading = array.shape[: max(array.ndim - len(space.shape), 0)]
        if array.shape != (*leading, *space.shape) or array.dtype.kind not in "biuf":
            raise ValueError(f"Expect actions of {space}, actually: {describe(array)}")
        if isinstance(space, spaces.Box):
            return _shares(array, space).reshape(*leading, -1)
        chosen = array - getattr(space, "start", 0) if array.dtype.kind in "iu" else array
        choices = self.action_space.choices or (self.action_space.size,)
        return one_hots(chosen.reshape(*leading, -1), choices)

    def decode_actions(self, actions: np.ndarray) -> Any:
        """See `SpaceCodec`."""
        space = self._spaces.action
        assert space.shape is not None
        leading = actions.shape[:-1]
        rows = [self._write(actions[index]) for index in np.ndindex(*leading)]
        if leading:
            return np.array(rows, space.dtype).reshape(*leading, *space.shape)
        return int(rows[0]) if isinstance(space, spaces.Discrete) else rows[0]

    def as_plain(self) -> dict[str, Any]:
        """See `SpaceCodec`."""
        observation, action, grayscale, flat_keys = self._spaces
        return describe_kind(self.obs_shapes, self.action_space) | {
            "gymnasium": {
                "observation": _plain(observation),
                "action": _plain(action),
                "grayscale": grayscale,
                "flat_keys": flat_keys,
            }
        }

    def _reader(self) -> ObservationReader:
        """One that has seen no data yet: it holds what follows to the type of what came first."""
        observation, _, grayscale, flat_keys = self._spaces
        return ObservationReader(observation, grayscale=grayscale, flat_keys=flat_keys)


def read_spaces(plain: Mapping[str, Any]) -> GymSpaces:
    """Make the spaces that `GymCodec.as_plain` described."""
    return GymSpaces(
        _space(plain["observation"]),
        _space(plain["action"]),
        plain["grayscale"],
        plain["flat_keys"],
    )


def _children(space: spaces.Space) -> dict[Any, spaces.Space] | None:
    """The parts of a dictionary or tuple; None of what is neither."""
    match space:
        case spaces.Dict():
            return dict(space.spaces)
        case spaces.Tuple():
            return dict(enumerate(space.spaces))
    return None


def _leaves(
    raw: Any, space: spaces.Space, place: Place = ()
) -> dict[Place, tuple[np.ndarray, tuple[int, ...]]]:
    """The arrays of an observation, or of many, by place; each with the shape of one."""
    children = _children(space)
    if children is None:
        if space.shape is None:  # a text or graph: not observed
            return {}
        array = np.asarray(raw)
        tail = array.shape[max(array.ndim - len(space.shape), 0) :]
        if tail != space.shape or array.dtype.kind not in "biuf":
            name = "/".join(map(str, place)) or "observation"
            raise ValueError(f"Expect `{name}` to be of {space}, actually: {describe(array)}")
        return {place: (array, space.shape)}
    if isinstance(raw, list) and raw:
        many = [_leaves(one, space, place) for one in raw]
        return {
            p: (np.stack([leaves[p][0] for leaves in many]), shape)
            for p, (_, shape) in many[0].items()
        }
    parts = {}
    for key, child in children.items():
        try:
            part = raw[key]
        except (KeyError, IndexError, TypeError) as error:
            name = "/".join(map(str, (*place, key)))
            raise ValueError(f"Expect `{name}` in the observation, actually: {raw}") from error
        parts |= _leaves(part, child, (*place, key))
    return parts


def _one(
    space: spaces.Space,
    leaves: Mapping[Place, tuple[np.ndarray, tuple[int, ...]]],
    index: tuple[int, ...],
    place: Place = (),
) -> Any:
    """One observation out of many, as the environment gave it."""
    children = _children(space)
    if children is not None:
        return {key: _one(child, leaves, index, (*place, key)) for key, child in children.items()}
    return leaves[place][0][index] if place in leaves else None


def _shares(array: np.ndarray, space: spaces.Box) -> np.ndarray:
    """Numbers between a box's bounds -> [-1, 1]."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    width = high - low
    slack = ROUNDING * np.maximum(width, 1)
    if not ((array >= low - slack) & (array <= high + slack)).all():
        raise ValueError(f"Expect actions of {space}, actually: {describe(array)}")
    share = np.divide(array - low, width, out=np.full(array.shape, 0.5), where=width > 0)
    return (2 * share - 1).clip(-1, 1).astype(np.float32)


def _plain(space: spaces.Space) -> dict[str, Any]:
    """A space in plain types."""
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
    return {"type": type(space).__name__}  # it is not observed


def _space(plain: Mapping[str, Any]) -> spaces.Space:
    """The space that `_plain` described."""
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
    return spaces.Text(1)  # stands for what is not observed


def _numbers(array: np.ndarray) -> Any:
    """Numbers as nested lists, or as one where all are the same."""
    same = array.size > 0 and bool((array == array.flat[0]).all())
    return _words_for_infinity(array.flat[0].item() if same else array.tolist())


def _words_for_infinity(numbers: Any) -> Any:
    """JSON has no infinity; NumPy reads the words back."""
    if isinstance(numbers, list):
        return [_words_for_infinity(one) for one in numbers]
    return numbers if np.isfinite(numbers) else str(numbers)
