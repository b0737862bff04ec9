"""Environments of users' programs and of other packages: a function that makes such objects.

`dreamer.train` hands them over. A function with a name can be found again by other programs, from
conf/env/own.yaml; anything else exists only in the program that made it. A function that a package
declares as an entry point is a suite: it is given the task.
"""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Unpack

import gymnasium
from gymnasium.wrappers import TimeLimit

from dreamer.envs.base import ActionRepeat, GroupOptions, Task, VectorEnvs
from dreamer.envs.gym import FlatKeys, Grayscale, GymEnv, GymOptions, GymTimeLimit, Kwargs
from dreamer.envs.processes import make_group
from dreamer.schema.types import doc
from dreamer.schema.validation import checked_call

Factory = Callable[..., Any]  # makes a gymnasium.Env, or of `seed` and `count` a `VectorEnvs`
PROTOCOL = ("count", "obs_shapes", "action_space", "action_repeat", "reset", "step", "close")


def make_user(
    task: Task,
    *,
    factory: Annotated[
        str | None, doc("my_module:make, where the environment's maker has such a name.")
    ],
    **options: Unpack[GymOptions],
) -> VectorEnvs:
    """Build a group of environments by the name of the function that makes one.

    Args:
        task: What the environment is called.
        factory: As "my_module:make"; None: it has no name.
        options: See `group_of`.

    Raises:
        ImportError: There is no such module.
        ValueError: There is no such function; or see `group_of`.
    """
    if factory is None:
        raise ValueError(
            f"The environment {task} can be made only by the program that gave it to "
            "dreamer.train. To play in it: agent.policy, with agent = dreamer.load(run_dir)."
        )
    return group_of(_find(factory), **options)


def make_suite(
    task: Task,
    *,
    factory: Annotated[str, doc("my_package:make, the suite's function.")],
    **options: Unpack[GymOptions],
) -> VectorEnvs:
    """Build a group of environments of a suite that another package brings.

    Args:
        task: Given to the suite's function, which says what tasks there are.
        factory: That function, as "my_package:make". It makes one `gymnasium.Env` of a task; or,
            if it takes `seed` and `count`, too, a `VectorEnvs`.
        options: See `group_of`; `kwargs` are given to the function.

    Raises:
        ImportError: There is no such module.
        ValueError: There is no such function; or see `group_of`.
    """
    return group_of(partial(_find(factory), task), **options)


def _find(factory: str) -> Factory:
    """The function at an address, as "my_module:make"."""
    module, _, name = factory.partition(":")
    made: Any = importlib.import_module(module)
    for part in name.split("."):
        made = getattr(made, part, None)
    if not callable(made):
        raise ValueError(f"Expect `env.factory` to name a function, actually: {factory}")
    return made


@checked_call
def group_of(
    factory: Factory,
    *,
    action_repeat: ActionRepeat,
    time_limit_frames: GymTimeLimit,
    grayscale: Grayscale,
    flat_keys: FlatKeys,
    kwargs: Kwargs,
    **group: Unpack[GroupOptions],
) -> VectorEnvs:
    """Build E environments with a function.

    Args:
        factory: Makes one `gymnasium.Env`; or, if it takes `seed` and `count`, a `VectorEnvs`.
        action_repeat: See `GymEnv`.
        time_limit_frames: Steps of the environment in an episode; None: no limit of ours.
        grayscale: See `ObservationReader`.
        flat_keys: See `ObservationReader`.
        kwargs: Given to the function.
        group: See `make_group`.

    Raises:
        ValueError: It makes something else, or a number is out of its range.
    """
    if makes_groups(factory):
        envs = factory(seed=group["seed"], count=group["count"], **kwargs)
        if not is_group(envs):
            raise ValueError(
                f"Expect a function of `seed` and `count` to make a `VectorEnvs`, with "
                f"{', '.join(PROTOCOL)}, actually: {envs!r}"
            )
        return envs

    def make() -> GymEnv:
        env = factory(**kwargs)
        if not isinstance(env, gymnasium.Env):
            raise ValueError(
                f"Expect a function that makes a gymnasium.Env, actually it makes: {env!r}"
            )
        if time_limit_frames is not None:
            env = TimeLimit(env, time_limit_frames)
        return GymEnv(env, action_repeat=action_repeat, grayscale=grayscale, flat_keys=flat_keys)

    return make_group(
        make,
        action_repeat=action_repeat,
        **group,
    )


def is_group(env: Any) -> bool:
    """Whether an object follows the protocol `VectorEnvs`."""
    return all(hasattr(env, name) for name in PROTOCOL)


def makes_groups(factory: Factory) -> bool:
    """Whether a function makes a `VectorEnvs` by itself: it takes `seed` and `count`."""
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:  # of a built-in
        return False
    return {"seed", "count"} <= parameters.keys()


def address_of(factory: Factory) -> str | None:
    """Where another program finds a function, as "my_module:make"; None if it cannot."""
    module, name = getattr(factory, "__module__", None), getattr(factory, "__qualname__", None)
    if not module or module == "__main__" or not name or "<" in name:  # <lambda>, <locals>
        return None
    return f"{module}:{name}"


def task_of(env: Any, kwargs: dict[str, Any]) -> str:
    """What an environment, or the function that makes it, may be called.

    A function without a name, such as a lambda, is called once to see what it makes.
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
    return task_of(made, {})


class BorrowedEnv(gymnasium.Wrapper):
    """An environment that belongs to the user's program, and is not closed with ours."""

    def close(self) -> None:
        """Nothing: its owner closes it."""


class BorrowedEnvs:
    """The same for a `VectorEnvs`."""

    def __init__(self, envs: VectorEnvs):
        self._envs = envs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._envs, name)

    def close(self) -> None:
        """Nothing: its owner closes them."""
