"""The process of one environment: builds it and answers requests.

`ProcessEnv` starts it and sends the requests. This file knows no group of environments and no
suite.
"""

import mmap
import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from dreamer.envs.group import SingleEnv, Transition
from dreamer.envs.rendering import RenderingFault, call_render
from dreamer.types import ActionSpace, obs_dtype

ALIGNMENT = 64  # bytes: no two observations share a cache line

# One thread each: E environments with a thread per core each would slow each other down.
SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",  # additional threads of Mesa's software renderer
}


class EnvDescription(NamedTuple):
    """An environment's first message; the handle of the shared memory follows it."""

    obs_shapes: dict[str, tuple[int, ...]]
    action_space: ActionSpace
    user_spaces: Any
    notes: tuple[str, ...]
    name: str


class Failure(NamedTuple):
    """The last message of an environment that failed."""

    traceback: str


def serve(pipe: Connection, pickled_make: bytes, environ: dict[str, str]) -> None:
    """Build the environment and answer requests until one says to close."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run handles Ctrl-C and closes this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environ | SINGLE_THREADED)
    number = 0
    try:
        env: SingleEnv = cloudpickle.loads(pickled_make)()
        shapes = dict(env.obs_shapes)
        description = EnvDescription(shapes, env.action_space, env.user_spaces, env.notes, env.name)
        pipe.send((number, description))
        memory = _new_memory()
        reduction.send_handle(pipe, memory, os.getppid())
        views = map_observations(memory, shapes)
        while True:
            number, method, argument = pipe.recv()
            if method == "close":
                break
            pipe.send((number, _call(env, method, argument, views)))
        env.close()
    except Exception:
        with suppress(OSError):
            pipe.send((number, Failure(traceback.format_exc())))


def _call(env: SingleEnv, method: str, argument: Any, views: dict[str, np.ndarray]) -> Any:
    if method == "render":
        try:
            return call_render(env.render, env.name)
        except RenderingFault as fault:  # the environment can continue
            return fault
    transition = Transition(env.reset(argument)) if method == "reset" else env.step(argument)
    if transition.obs.keys() != views.keys() or any(
        value.shape != views[key].shape or value.dtype != views[key].dtype
        for key, value in transition.obs.items()
    ):
        return transition  # the group checks it and raises
    for key, value in transition.obs.items():
        views[key][...] = value
    return transition._replace(obs={})


def _new_memory() -> int:
    """Return the descriptor of an anonymous file, which is freed with its last descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("observation")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _end_with_parent() -> None:
    """End this process when its parent ends, even if the parent is killed or this one hangs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def map_observations(memory: int, obs_shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Resize and map a file of shared memory, and close its descriptor.

    Args:
        memory: File descriptor.
        obs_shapes: Of one environment.

    Returns:
        Writable arrays in the mapped memory, by key.
    """
    views, offset = {}, 0
    sizes = [-(-_empty(shape).nbytes // ALIGNMENT) * ALIGNMENT for shape in obs_shapes.values()]
    os.ftruncate(memory, sum(sizes))
    shared = mmap.mmap(memory, sum(sizes))
    os.close(memory)
    for (key, shape), size in zip(obs_shapes.items(), sizes, strict=True):
        views[key] = np.ndarray(shape, _empty(shape).dtype, shared, offset)
        offset += size
    return views


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, obs_dtype(shape))
