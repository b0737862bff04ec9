"""What the process of an environment does: build it, and answer what the run asks.

`ProcessEnv` starts it and asks. It runs beside nothing of the run; this file knows no group of
environments and no suite.
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
from dreamer.envs.rendering import RenderingFault, take_picture
from dreamer.types import ActionSpace

ALIGNMENT = 64  # bytes: no two observations share a cache line

# One thread each: as many environments as cores, each with as many threads, only wait.
SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",  # of Mesa's software renderer, beside the one that asks
}


class Introduction(NamedTuple):
    """The first thing an environment says; the shared memory comes right after."""

    obs_shapes: dict[str, tuple[int, ...]]
    action_space: ActionSpace
    user_spaces: Any
    notes: tuple[str, ...]
    name: str


class Fault(NamedTuple):
    """The last thing an environment says that failed."""

    traceback: str


def serve(pipe: Connection, recipe: bytes, environ: dict[str, str]) -> None:
    """Build the environment and answer questions until told to close."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which closes us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(environ | SINGLE_THREADED)
    number = 0
    try:
        env: SingleEnv = cloudpickle.loads(recipe)()
        shapes = dict(env.obs_shapes)
        introduction = Introduction(shapes, env.action_space, env.user_spaces, env.notes, env.name)
        pipe.send((number, introduction))
        memory = _new_memory()
        reduction.send_handle(pipe, memory, os.getppid())
        views = observations_in(memory, shapes)
        while True:
            number, word, argument = pipe.recv()
            if word == "close":
                break
            pipe.send((number, _do(env, word, argument, views)))
        env.close()
    except Exception:
        with suppress(OSError):
            pipe.send((number, Fault(traceback.format_exc())))


def _do(env: SingleEnv, word: str, argument: Any, views: dict[str, np.ndarray]) -> Any:
    if word == "render":
        try:
            return take_picture(env.render, env.name)
        except RenderingFault as fault:  # no reason to end the process
            return fault
    transition = Transition(env.reset(argument)) if word == "reset" else env.step(argument)
    if transition.obs.keys() != views.keys() or any(
        value.shape != views[key].shape or value.dtype != views[key].dtype
        for key, value in transition.obs.items()
    ):
        return transition  # the group says what is wrong with it
    for key, value in transition.obs.items():
        views[key][...] = value
    return transition._replace(obs={})


def _new_memory() -> int:
    """Return the descriptor of a file without a name, which vanishes with its last user."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("observation")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _end_with_parent() -> None:
    """Even a killed run leaves nothing behind, and no environment that hangs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def observations_in(memory: int, obs_shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Map a file of shared memory, made as large as needed, and close it.

    Args:
        memory: File descriptor.
        obs_shapes: Of one environment.

    Returns:
        Writable views of it, one after the other.
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
    return np.empty(shape, np.uint8 if len(shape) == 3 else np.float32)
