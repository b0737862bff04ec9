"""Ctrl-C and SIGTERM end a run between two steps, never in the middle of an update.

The collection and the evaluation ask at every environment step whether to stop; the Trainer's
loop is asked after every update.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytorch_lightning as pl


class Interrupted(BaseException):  # noqa: N818 -- nothing went wrong
    """The run was asked to stop; `signal_number` tells by what.

    Not an `Exception`: it may arise inside an environment, whose exceptions are survived.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class Interrupt(pl.Callback):
    """Notes the first SIGINT or SIGTERM; a second SIGINT stops at once."""

    def __init__(self):
        self.signal_number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen, and put the old handlers back at the end, whatever ends it.

        In a thread of somebody's program nothing is heard: signals are the main thread's.
        """
        main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if main else ()
        old = {number: signal.signal(number, self._note) for number in signals}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _note(self, signal_number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and signal_number == signal.SIGINT:
            raise Interrupted(signal_number)  # Lightning would turn a KeyboardInterrupt into code 1
        self.signal_number = signal_number

    def check(self, *_: Any) -> None:
        """Raise `Interrupted` if a signal came; takes any arguments, to hang on other hooks."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Ask after every update."""
        self.check()
