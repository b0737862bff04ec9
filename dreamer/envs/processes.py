"""Environments in separate processes: E of them step in parallel, and a crash does not end the run.

Suites with slow Python code or rendering use it. An environment answers over a pipe and writes its
observations to shared memory. This file knows no suite.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import reduction
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np

from dreamer.envs.base import ActionRepeat, EnvCount, HangSeconds, MaxRestarts, Processes
from dreamer.envs.faults import EnvironmentFault
from dreamer.envs.group import EnvGroup, Observation, SingleEnv, Transition
from dreamer.envs.rendering import RenderingFault
from dreamer.envs.worker import SINGLE_THREADED, EnvDescription, Failure, map_observations, serve
from dreamer.schema.validation import checked_call
from dreamer.types import ActionSpace

CLOSE_SECONDS = 5  # time an environment has to close


@checked_call
def make_group(
    make: Callable[[], SingleEnv],
    *,
    count: EnvCount,
    seed: int,
    action_repeat: ActionRepeat,
    processes: Processes,
    hang_seconds: HangSeconds,
    max_restarts: MaxRestarts,
    name: str = "environment",
    reference_returns: dict[str, float] | None = None,
) -> EnvGroup:
    """Build E environments of one kind that step together.

    Args:
        make: Builds one of them, in this or another process.
        count: E.
        seed: See `EnvGroup`.
        action_repeat: See `EnvGroup`.
        processes: Whether each runs in its own process; "auto" if there are several environments
            and several cores.
        hang_seconds: An environment that has not answered for this long is restarted; its process,
            if it has one, is killed.
        max_restarts: See `EnvGroup`.
        name: Of the environment, for messages.
        reference_returns: See `VectorEnvs`.

    Raises:
        ValueError: An option is out of range.
    """
    separate = count > 1 and _cores() > 1 if processes == "auto" else processes
    maker = partial(ProcessEnv, make, hang_seconds=hang_seconds, name=name) if separate else make
    return EnvGroup(
        [maker] * count,
        seed=seed,
        action_repeat=action_repeat,
        max_restarts=max_restarts,
        hang_seconds=None if separate else hang_seconds,
        name=name,
        reference_returns=reference_returns,
    )


class ProcessEnv(SingleEnv):
    """One environment in its own process.

    The process ends on `close`, after a failure, and whenever this process ends.
    """

    def __init__(
        self, make: Callable[[], SingleEnv], *, hang_seconds: float, name: str = "environment"
    ):
        """Start the process without waiting for it; cloudpickle serialises `make`."""
        self._hang_seconds = hang_seconds
        self._views: dict[str, np.ndarray] | None = None  # None until the first message arrives
        self._requests = 0
        # The fork server has imported everything and runs no threads. Forking this process, with
        # the threads of torch and CUDA, would be unsafe; spawning a new one takes seconds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([serve.__module__])
        self._pipe, child_pipe = context.Pipe()
        pickled_make = cloudpickle.dumps(make)
        self._process = context.Process(
            target=serve, args=(child_pipe, pickled_make, dict(os.environ), name), daemon=True
        )
        with _clean_start():
            self._process.start()
        child_pipe.close()

    @property
    def obs_shapes(self) -> dict[str, tuple[int, ...]]:  # type: ignore[override]
        """See `SingleEnv`; waits until the environment is built, and raises if that failed."""
        return self._description().obs_shapes

    @property
    def action_space(self) -> ActionSpace:  # type: ignore[override]
        """See `SingleEnv`."""
        return self._description().action_space

    @property
    def user_spaces(self) -> Any:  # type: ignore[override]
        """See `SingleEnv`."""
        return self._description().user_spaces

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `SingleEnv`."""
        return self._description().notes

    @property
    def name(self) -> str:  # type: ignore[override]
        """See `SingleEnv`."""
        return self._description().name

    def reset(self, seed: int | None) -> Observation:
        """See `SingleEnv`."""
        self.start_reset(seed)
        return self.finish().obs

    def step(self, action: np.ndarray) -> Transition:
        """See `SingleEnv`."""
        self.start_step(action)
        return self.finish()

    def start_reset(self, seed: int | None) -> None:
        """See `SingleEnv`."""
        self._send("reset", seed)

    def start_step(self, action: np.ndarray) -> None:
        """See `SingleEnv`."""
        self._send("step", action)

    def finish(self) -> Transition:
        """See `SingleEnv`."""
        self._description()
        transition: Transition = self._receive()
        if transition.obs:  # of other shapes or types than the shared memory
            return transition
        assert self._views is not None
        return transition._replace(obs={key: view.copy() for key, view in self._views.items()})

    def render(self) -> np.ndarray:
        """See `SingleEnv`.

        Raises:
            RenderingFault: It returned no image, but can continue.
            EnvironmentFault: It crashed or hung; its process has ended.
        """
        self._description()
        self._send("render", None)
        answer = self._receive()
        if isinstance(answer, RenderingFault):
            raise answer
        return answer

    def close(self) -> None:
        """End the process; kill it if it does not answer."""
        if self._pipe.closed:
            return
        self._send("close", None)
        self._process.join(CLOSE_SECONDS)
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _description(self) -> EnvDescription:
        if self._views is None:
            self._received: EnvDescription = self._receive()
            memory = reduction.recv_handle(self._pipe)
            self._views = map_observations(memory, self._received.obs_shapes)
        return self._received

    def _send(self, method: str, argument: Any) -> None:
        self._requests += 1
        with suppress(OSError):  # the process has died; `_receive` reports it
            self._pipe.send((self._requests, method, argument))

    def _receive(self) -> Any:
        """Wait for the answer to the latest request.

        Raises:
            EnvironmentFault: It raised, crashed or hung; its process has ended.
        """
        expected = self._requests if self._views is not None else 0
        number = -1
        try:
            while number != expected:  # skip answers to requests that were abandoned
                if not self._pipe.poll(self._hang_seconds):
                    raise EnvironmentFault(
                        f"It did not answer within `hang_seconds` {self._hang_seconds}; its "
                        "process was killed"
                    )
                number, answer = self._pipe.recv()
                if isinstance(answer, Failure):
                    fault = EnvironmentFault(answer.line)
                    fault.add_note(answer.traceback)
                    raise fault
        except EnvironmentFault:
            self._end()
            raise
        except (EOFError, OSError) as error:
            self._process.join(CLOSE_SECONDS)
            code = self._process.exitcode
            self._end()
            raise EnvironmentFault(
                f"Its process died with exit code {code}"
                + (", that of a lack of memory, for example" if code == -9 else "")
            ) from error
        return answer


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _clean_start() -> Iterator[None]:
    """Start a process with one thread and without importing the main script.

    multiprocessing would import the user's script in every process. That takes seconds, and runs
    the script if it has no `if __name__ == "__main__"`. It would also pass on the default start
    method, which may exist in this process only, such as "loky" inside a joblib worker.
    """
    changes = SINGLE_THREADED | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    before = {name: os.environ.get(name) for name in changes}
    main = sys.modules["__main__"]
    start_method = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ.update(changes)
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        multiprocessing.set_start_method(start_method, force=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
