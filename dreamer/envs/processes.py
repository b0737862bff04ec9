"""Environments in processes of their own, so that E of them step at once and none harms the run.

Suites whose environments cost Python or drawing use it. An environment answers over a pipe and
shows its observations in memory that both processes see. This file knows no suite.
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
from dreamer.envs.group import EnvGroup, EnvironmentFault, Observation, SingleEnv, Transition
from dreamer.envs.rendering import RenderingFault
from dreamer.envs.worker import SINGLE_THREADED, Fault, Introduction, observations_in, serve
from dreamer.schema.validation import checked_call
from dreamer.types import ActionSpace

GOODBYE = 5  # seconds that an environment has to close


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
    reference_returns: dict[str, float] | None = None,
) -> EnvGroup:
    """Build E environments of one kind that step together.

    Args:
        make: Builds one of them, here or in another process.
        count: E.
        seed: See `EnvGroup`.
        action_repeat: See `EnvGroup`.
        processes: Whether each gets a process of its own; "auto" where there are several, and
            several cores.
        hang_seconds: An environment in another process that does not answer for so long is killed
            and restarted. In this process it would be waited for.
        max_restarts: See `EnvGroup`.
        reference_returns: See `VectorEnvs`.

    Raises:
        ValueError: A setting out of its range.
    """
    apart = count > 1 and _cores() > 1 if processes == "auto" else processes
    maker = partial(ProcessEnv, make, hang_seconds=hang_seconds) if apart else make
    return EnvGroup(
        [maker] * count,
        seed=seed,
        action_repeat=action_repeat,
        max_restarts=max_restarts,
        reference_returns=reference_returns,
    )


class ProcessEnv(SingleEnv):
    """One environment in a process of its own.

    The process ends with `close`, with a fault, and with this one, however this one ends.
    """

    def __init__(self, make: Callable[[], SingleEnv], *, hang_seconds: float):
        """Start the process, which builds the environment meanwhile; `make` is cloudpickled."""
        self._hang_seconds = hang_seconds
        self._views: dict[str, np.ndarray] | None = None  # None: it has not introduced itself yet
        self._questions = 0
        # Forked off a process that has imported everything and runs no thread: forking this one,
        # with the threads of torch and CUDA, would not be safe, and starting afresh takes seconds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([serve.__module__])
        self._pipe, theirs = context.Pipe()
        recipe = cloudpickle.dumps(make)
        self._process = context.Process(
            target=serve, args=(theirs, recipe, dict(os.environ)), daemon=True
        )
        with _bare_surroundings():
            self._process.start()
        theirs.close()

    @property
    def obs_shapes(self) -> dict[str, tuple[int, ...]]:  # type: ignore[override]
        """See `SingleEnv`; waits until the environment is built, and raises what hindered that."""
        return self._introduction().obs_shapes

    @property
    def action_space(self) -> ActionSpace:  # type: ignore[override]
        """See `SingleEnv`."""
        return self._introduction().action_space

    @property
    def user_spaces(self) -> Any:  # type: ignore[override]
        """See `SingleEnv`."""
        return self._introduction().user_spaces

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `SingleEnv`."""
        return self._introduction().notes

    @property
    def name(self) -> str:  # type: ignore[override]
        """See `SingleEnv`."""
        return self._introduction().name

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
        self._ask("reset", seed)

    def start_step(self, action: np.ndarray) -> None:
        """See `SingleEnv`."""
        self._ask("step", action)

    def finish(self) -> Transition:
        """See `SingleEnv`."""
        self._introduction()
        transition: Transition = self._answer()
        if transition.obs:  # it did not fit into the shared memory
            return transition
        assert self._views is not None
        return transition._replace(obs={key: view.copy() for key, view in self._views.items()})

    def render(self) -> np.ndarray:
        """See `SingleEnv`.

        Raises:
            RenderingFault: It gave no picture, and can go on.
            EnvironmentFault: It died or hung; its process has ended.
        """
        self._introduction()
        self._ask("render", None)
        answer = self._answer()
        if isinstance(answer, RenderingFault):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, by force where it does not answer."""
        if self._pipe.closed:
            return
        self._ask("close", None)
        self._process.join(GOODBYE)
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _introduction(self) -> Introduction:
        if self._views is None:
            self._hello: Introduction = self._answer()
            memory = reduction.recv_handle(self._pipe)
            self._views = observations_in(memory, self._hello.obs_shapes)
        return self._hello

    def _ask(self, word: str, argument: Any) -> None:
        self._questions += 1
        with suppress(OSError):  # of a process that has died; the answer will tell
            self._pipe.send((self._questions, word, argument))

    def _answer(self) -> Any:
        """Wait for the answer to the latest question.

        Raises:
            EnvironmentFault: It raised, died or hung; its process has ended.
        """
        expected = self._questions if self._views is not None else 0
        number = -1
        try:
            while number != expected:  # else it is to a question whose answer nobody waited for
                if not self._pipe.poll(self._hang_seconds):
                    raise EnvironmentFault(
                        f"It did not answer for `hang_seconds` {self._hang_seconds}; its process "
                        "was killed"
                    )
                number, answer = self._pipe.recv()
                if isinstance(answer, Fault):
                    raise EnvironmentFault(f"It failed in its process:\n{answer.traceback}")
        except EnvironmentFault:
            self._end()
            raise
        except (EOFError, OSError) as error:
            self._process.join(GOODBYE)
            code = self._process.exitcode
            self._end()
            raise EnvironmentFault(f"Its process died, with exit code {code}") from error
        return answer


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _bare_surroundings() -> Iterator[None]:
    """Let a process start without our program and with one thread.

    multiprocessing would import the user's script again in every process, which costs seconds and
    runs it where the script has no `if __name__ == "__main__"`. It would also pass on how processes
    start by default, which only this one may know: inside a worker of joblib, "loky".
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
