"""Environments of users' programs and other packages, made by a function.

`dreamer.train` passes them on. Other programs can find a function by its import path, from
conf/env/own.yaml; a lambda or a local function exists only in its own program. A function that a
package declares as an entry point is a suite and receives the task.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Unpack

import gymnasium
from gymnasium.wrappers import TimeLimit

from dreamer.envs.base import ActionRepeat, GroupOptions, Task, VectorEnvs
from dreamer.envs.faults import build_error, import_module_of, is_fault
from dreamer.envs.gym import (
    ClassKeys,
    FlatKeys,
    Grayscale,
    GymEnv,
    GymOptions,
    GymTimeLimit,
    Kwargs,
)
from dreamer.envs.processes import make_group
from dreamer.schema.types import doc
from dreamer.schema.validation import checked_call

Factory = Callable[..., Any]  # makes a gymnasium.Env; from `seed` and `count`, a `VectorEnvs`
PROTOCOL = ("count", "obs_shapes", "action_space", "action_repeat", "reset", "step", "close")


def make_user(
    task: Task,
    *,
    factory: Annotated[str | None, doc("Function that makes the environment, as my_module:make.")],
    **options: Unpack[GymOptions],
) -> VectorEnvs:
    """Build a group of environments by the import path of the function that makes one.

    Args:
        task: Name of the environment.
        factory: Import path, as "my_module:make"; None: the function has none.
        options: See `make_group_with`.

    Raises:
        ImportError: There is no such module.
        EnvironmentFault: The module raised an exception.
        ValueError: There is no such function; or see `make_group_with`.
    """
    if factory is None:
        raise ValueError(
            f"`env.factory` must name a function, got null: only the program that passed {task} "
            "to dreamer.train can make it. There, play with dreamer.load(run_dir).policy."
        )
    return make_group_with(_find(factory), **options)


def make_suite(
    task: Task,
    *,
    factory: Annotated[str, doc("Function of the suite, as my_package:make.")],
    **options: Unpack[GymOptions],
) -> VectorEnvs:
    """Build a group of environments of a suite in another package.

    Args:
        task: Passed to the suite's function, which checks it.
        factory: Import path of that function, as "my_package:make". It makes one `gymnasium.Env`
            of a task; if it also takes `seed` and `count`, a `VectorEnvs`.
        options: See `make_group_with`; `kwargs` are passed to the function.

    Raises:
        ImportError: There is no such module.
        EnvironmentFault: The module raised an exception.
        ValueError: There is no such function; or see `make_group_with`.
    """
    return make_group_with(partial(_find(factory), task), **options)


def _find(factory: str) -> Factory:
    """Import a function by its path, as "my_module:make"."""
    module, _, name = factory.partition(":")
    found: Any = import_module_of(factory, module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ValueError(f"`env.factory` must name a function, got {factory}")
    return found


@checked_call
def make_group_with(
    factory: Factory,
    *,
    action_repeat: ActionRepeat,
    time_limit_frames: GymTimeLimit,
    grayscale: Grayscale,
    flat_keys: FlatKeys,
    kwargs: Kwargs,
    class_keys: ClassKeys = "$^",
    **group: Unpack[GroupOptions],
) -> VectorEnvs:
    """Build E environments with a function.

    Args:
        factory: Makes one `gymnasium.Env`; if it takes `seed` and `count`, a `VectorEnvs`.
        action_repeat: See `GymEnv`.
        time_limit_frames: Maximum steps of an episode; None: the environment's own limit.
        grayscale: See `ObservationEncoder`.
        flat_keys: See `ObservationEncoder`.
        kwargs: Passed to the function.
        class_keys: See `ObservationEncoder`.
        group: See `make_group`.

    Raises:
        ValueError: The function makes something else, or a number is out of range.
        EnvironmentFault: The function raised an exception.
    """
    if makes_groups(factory):
        try:
            envs = factory(seed=group["seed"], count=group["count"], **kwargs)
        except BaseException as error:
            if not is_fault(error):
                raise
            raise build_error(_name_of(factory), error) from error
        if not is_group(envs):
            raise ValueError(
                f"A function of `seed` and `count` must make a `VectorEnvs`, with "
                f"{', '.join(PROTOCOL)}, got {envs!r}"
            )
        return envs

    def make() -> GymEnv:
        env = factory(**kwargs)
        if not isinstance(env, gymnasium.Env):
            raise ValueError(f"The environment's function must make a gymnasium.Env, got {env!r}")
        if time_limit_frames is not None:
            env = TimeLimit(env, time_limit_frames)
        return GymEnv(
            env,
            action_repeat=action_repeat,
            grayscale=grayscale,
            flat_keys=flat_keys,
            class_keys=class_keys,
        )

    return make_group(
        make,
        action_repeat=action_repeat,
        name=_name_of(factory),
        **group,
    )


def _name_of(factory: Factory) -> str:
    function = factory.func if isinstance(factory, partial) else factory
    return getattr(function, "__qualname__", repr(function))


def is_group(env: Any) -> bool:
    """Whether an object follows the protocol `VectorEnvs`."""
    return all(hasattr(env, name) for name in PROTOCOL)


def makes_groups(factory: Factory) -> bool:
    """Whether a function makes a `VectorEnvs`: it takes `seed` and `count`."""
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:  # a built-in without a signature
        return False
    return {"seed", "count"} <= parameters.keys()


def import_path(factory: Factory) -> str | None:
    """Return the import path of a function, as "my_module:make"; None if it has none."""
    module, name = getattr(factory, "__module__", None), getattr(factory, "__qualname__", None)
    if not module or module == "__main__" or not name or "<" in name:  # <lambda>, <locals>
        return None
    return f"{module}:{name}"


def task_name(env: Any, kwargs: dict[str, Any]) -> str:
    """Return a name for an environment or for the function that makes it.

    A function without a name, such as a lambda, is called once to name what it makes.
    """
    spec = getattr(env, "spec", None)
    if spec is not None:
        return spec.id
    name = getattr(env, "__name__", None)
    if name and "<" not in name:
        return name
    if not callable(env):
        return type(getattr(env, "unwrapped", env)).__name__
    if makes_groups(env):
        return "envs"
    made: Any = env(**kwargs)
    made.close()
    return task_name(made, {})


class BorrowedEnv(gymnasium.Wrapper):
    """An environment of the user's program, which `train` must not close."""

    def close(self) -> None:
        """Do nothing; its owner closes it."""


class BorrowedEnvs:
    """A `VectorEnvs` of the user's program, which `train` must not close."""

    def __init__(self, envs: VectorEnvs):
        self._envs = envs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._envs, name)

    def close(self) -> None:
        """Do nothing; their owner closes them."""
