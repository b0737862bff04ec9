"""Ctrl-C and SIGTERM end a run between two steps, never in the middle of an update.

The collection and the evaluation check for a signal at every environment step; the training loop
checks after every update.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytorch_lightning as pl


class Interrupted(BaseException):  # noqa: N818 -- nothing went wrong
    """The run was asked to stop by the signal `signal_number`.

    Not an `Exception`: it may be raised inside an environment, whose exceptions are caught.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class Interrupt(pl.Callback):
    """Records the first SIGINT or SIGTERM; a second SIGINT stops at once."""

    def __init__(self):
        self.signal_number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals, and restore the old handlers at the end.

        In other threads than the main thread it does nothing: Python forbids signal handlers there.
        """
        main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if main else ()
        old = {number: signal.signal(number, self._record) for number in signals}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _record(self, signal_number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and signal_number == signal.SIGINT:
            raise Interrupted(signal_number)  # Lightning ends with exit code 1 on KeyboardInterrupt
        self.signal_number = signal_number

    def check(self, *_: Any) -> None:
        """Raise `Interrupted` after a signal; takes any arguments, to be usable as a hook."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Check after every update."""
        self.check()
