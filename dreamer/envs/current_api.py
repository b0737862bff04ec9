"""Converts what `reset` and `step` return to Gymnasium's current interface.

Some environments still have that of the old Gym: `reset` returns the observation alone, and `step`
four values. It knows Gymnasium, no suite.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer.envs.faults import EnvironmentFault, one_line

OLD_RESET = "`reset` returns only the observation, as in the old Gym"
OLD_STEP = "`step` returns four values, as in the old Gym"
NO_INFO = "The information is None instead of a dictionary"
ARRAY_REWARD = "The reward is an array of one number"
ARRAY_FLAG = "`terminated` or `truncated` is an array of one value"
OWN = {"env", "accepted", "_parameters", "_action_space", "_observation_space", "_metadata"}


class CurrentApi(gymnasium.Wrapper):
    """Shows an environment of either interface in the current one; attributes are passed on."""

    def __init__(self, env: gymnasium.Env, accepted: set[str]):
        """`accepted` collects sentences about what was converted."""
        super().__init__(env)
        self.accepted = accepted
        self._parameters = _parameters_of(env.reset)

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # not set yet, as in a copy
            raise AttributeError(name)
        return getattr(self.env, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN or name == "_cached_spec":
            super().__setattr__(name, value)
        else:
            setattr(self.env, name, value)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start an episode.

        Raises:
            EnvironmentFault: A wrapper expects the other interface.
        """
        given = {"seed": seed, "options": options}
        if "seed" not in self._parameters and seed is not None:
            seed_it = getattr(self.env.unwrapped, "seed", None)
            if callable(seed_it):
                seed_it(seed)
        try:
            result: Any = self.env.reset(**{k: given[k] for k in given if k in self._parameters})
        except ValueError as error:
            raise _translated(error) from error
        if self._is_pair(result):
            return result[0], self._info(result[1])
        self.accepted.add(OLD_RESET)
        return result, {}

    def step(self, action: Any) -> Any:
        """Make a step.

        Raises:
            EnvironmentFault: `step` returned something else, or a wrapper expects the other
                interface.
        """
        try:
            result: Any = self.env.step(action)
        except ValueError as error:
            raise _translated(error) from error
        if not isinstance(result, tuple | list) or len(result) not in (4, 5):
            got = f"{len(result)} values" if isinstance(result, tuple | list) else repr(result)
            raise EnvironmentFault(
                "`step` must return observation, reward, terminated, truncated and info, got "
                f"{one_line(got)}"
            )
        if len(result) == 5:
            self._info(result[4])
            return result
        self.accepted.add(OLD_STEP)
        obs, reward, done, info = result
        cut = bool(isinstance(info, Mapping) and info.get("TimeLimit.truncated", False))
        return obs, reward, read_flag("done", done, self.accepted) and not cut, cut, info

    def _info(self, info: Any) -> Any:
        if info is None:
            self.accepted.add(NO_INFO)
        return info or {}

    def _is_pair(self, result: Any) -> bool:
        """Whether `reset` returned an observation and its information."""
        if not (isinstance(result, tuple | list) and len(result) == 2):
            return False
        space = self.env.observation_space
        if isinstance(space, spaces.Tuple) and space.contains(result):
            return False
        return result[1] is None or isinstance(result[1], Mapping)


def with_current_api(env: gymnasium.Env, accepted: set[str]) -> CurrentApi:
    """Convert what environments and wrappers of users return, wherever Gymnasium's code reads it.

    Args:
        env: Maybe with wrappers, of Gymnasium or of users.
        accepted: Collects sentences about what was converted.
    """
    part = env
    while isinstance(part, gymnasium.Wrapper):
        if _needs_current_api(part):
            part.env = CurrentApi(part.env, accepted)
            part = part.env
        part = part.env
    return CurrentApi(env, accepted)


def read_reward(value: Any, accepted: set[str]) -> float:
    """Return a reward as a number; an array of one number is accepted.

    Raises:
        EnvironmentFault: It is anything else.
    """
    if isinstance(value, int | float):
        return float(value)
    array = _as_array(value)
    if array is None or array.size != 1 or array.dtype.kind not in "biuf":
        raise EnvironmentFault(f"The reward must be a number, got {_kind_of(value)}")
    if array.ndim:
        accepted.add(ARRAY_REWARD)
    return float(array.item())


def read_flag(name: str, value: Any, accepted: set[str]) -> bool:
    """Return `terminated` or `truncated`; arrays of one value, numbers and None are accepted.

    Raises:
        EnvironmentFault: It is anything else.
    """
    if isinstance(value, bool) or value is None:
        return bool(value)
    array = _as_array(value)
    if array is None or array.size != 1 or array.dtype.kind not in "biuf" or array != array:
        raise EnvironmentFault(f"`{name}` must be true or false, got {_kind_of(value)}")
    if array.ndim:
        accepted.add(ARRAY_FLAG)
    return bool(array.item())


def _parameters_of(reset: Any) -> set[str]:
    """Return which of `seed` and `options` an environment's `reset` takes."""
    try:
        parameters = inspect.signature(reset).parameters.values()
    except ValueError:  # of a compiled module
        return {"seed", "options"}
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return {"seed", "options"} if is_open else {parameter.name for parameter in parameters}


def _as_array(value: Any) -> np.ndarray | None:
    """Return a value, such as a tensor, as an array; None if it cannot be one."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # ragged lists, tensors with gradients
        return None


def _kind_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return one_line(repr(value))


def _needs_current_api(wrapper: gymnasium.Wrapper) -> bool:
    """Whether code of Gymnasium calls an environment or a wrapper of a user."""
    if _is_gymnasiums(type(wrapper.env)):
        return False
    passes_seed = _is_gymnasiums(type(wrapper).reset)
    takes_seed = "seed" in _parameters_of(wrapper.env.reset)
    return _is_gymnasiums(type(wrapper).step) or (passes_seed and not takes_seed)


def _is_gymnasiums(thing: Any) -> bool:
    return (thing.__module__ or "").partition(".")[0] == "gymnasium"


def _translated(error: ValueError) -> Exception:
    """Explain why a wrapper cannot unpack what it has received."""
    if "values to unpack" not in str(error):
        return error
    return EnvironmentFault(
        f"A wrapper cannot read what the environment returns ({error}): one of them has the "
        "interface of the old Gym. `reset` must return observation and info; `step` observation, "
        "reward, terminated, truncated and info."
    )
