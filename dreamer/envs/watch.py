"""A time limit for calls of environments in this process.

A group whose environments have no processes of their own uses it. Python can be interrupted at any
line; code outside Python only where it waits for the system in the main thread. If a call does not
react, this process ends, because nothing else can stop it.
"""

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from dreamer.envs.faults import EnvironmentFault, where

Result = TypeVar("Result")

GRACE_SECONDS = 10.0  # time a call has to react to the exception
DEBUGGERS = {"pdb", "bdb", "pydevd"}  # someone is looking at the environment

_watching: "weakref.WeakSet[Watchdog]" = weakref.WeakSet()
_previous: Any = signal.SIG_DFL  # handler of SIGALRM that the first watchdog has replaced


class Hang(BaseException):
    """Raised inside a call that takes too long; no `except Exception` of a user catches it."""


class Watchdog:
    """Interrupts calls that take longer than a number of seconds; one call at a time."""

    def __init__(self, seconds: float, name: str):
        """`name` is that of the environment, for messages."""
        self.seconds, self._name = seconds, name
        self._deadline: float | None = None  # None: no call
        self._caller = 0  # thread of the call
        self._interrupted = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def run(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call.

        Raises:
            EnvironmentFault: It took too long.
        """
        if self._thread is None:
            self._start()
        try:
            return self._run(call)
        except Hang as hang:
            self._deadline = None
            place = where(hang)
            raise EnvironmentFault(
                f"It did not answer within `hang_seconds` {self.seconds:g}"
                f"{f' ({place})' if place else ''}"
            ) from hang

    def close(self) -> None:
        """End the thread, and restore the signal's handler after the last watchdog."""
        self._closed.set()
        _watching.discard(self)
        if not _watching and _in_main_thread() and signal.getsignal(signal.SIGALRM) is _on_alarm:
            signal.signal(signal.SIGALRM, _previous)

    def is_overdue(self) -> bool:
        """Whether a call of the main thread has taken too long."""
        return self._caller == threading.main_thread().ident and self._is_late(0)

    def _run(self, call: Callable[[], Result]) -> Result:
        self._caller, self._interrupted = threading.get_ident(), False
        self._deadline = time.monotonic() + self.seconds
        try:
            return call()
        finally:
            self._deadline = None
            if self._caller != threading.main_thread().ident:
                with self._lock:  # an exception that is on its way must not arrive later
                    if self._interrupted:
                        _raise_in(self._caller, None)

    def _start(self) -> None:
        global _previous
        if _in_main_thread() and signal.getsignal(signal.SIGALRM) is not _on_alarm:
            _previous = signal.signal(signal.SIGALRM, _on_alarm)
        _watching.add(self)
        self._thread = threading.Thread(
            target=_watch,
            args=(weakref.ref(self), self._closed, min(self.seconds / 4, 0.5)),
            daemon=True,
        )
        self._thread.start()

    def _is_late(self, by: float) -> bool:
        deadline = self._deadline
        return deadline is not None and time.monotonic() >= deadline + by

    def interrupt(self) -> None:
        """Raise `Hang` in a late call; end this process if that has not helped."""
        with self._lock:
            if not self._is_late(0):
                return
            if self._is_late(GRACE_SECONDS) and not _is_debugged(self._caller):
                self._give_up()
            self._interrupted = True
            can_signal = signal.getsignal(signal.SIGALRM) is _on_alarm
            if self._caller == threading.main_thread().ident and can_signal:
                signal.pthread_kill(self._caller, signal.SIGALRM)
            elif not _is_debugged(self._caller):
                _raise_in(self._caller, Hang)

    def _give_up(self) -> None:
        print(
            f"error: {self._name} did not answer within `hang_seconds` {self.seconds:g} and cannot "
            f"be interrupted ({_place_of(self._caller)}). This process ends. Set "
            "env.processes=true, so that the environment can be killed and restarted, or a larger "
            "env.hang_seconds; then repeat the command to resume.",
            file=sys.stderr,
            flush=True,
        )
        if not hasattr(sys, "ps1"):  # in a notebook, the user decides
            os._exit(2)
        self._deadline = None


def _watch(watchdog: "weakref.ref[Watchdog]", closed: threading.Event, interval: float) -> None:
    while not closed.wait(interval):
        watched = watchdog()
        if watched is None:
            return
        watched.interrupt()
        del watched


def _on_alarm(number: int, frame: FrameType | None) -> None:
    """Interrupt the main thread if a call is late; any other alarm is the user's."""
    if any(watchdog.is_overdue() for watchdog in list(_watching)):
        if not _is_debugged(threading.get_ident()):
            raise Hang
    elif callable(_previous):
        _previous(number, frame)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception at the next line of a thread; None: no longer."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(error) if error else None
    )


def _is_debugged(thread: int) -> bool:
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_globals.get("__name__") in DEBUGGERS:
            return True
        frame = frame.f_back
    return False


def _place_of(thread: int) -> str:
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "unknown place"
    last = traceback.extract_stack(frame)[-1]
    return f"{last.filename}:{last.lineno} in {last.name}"


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
