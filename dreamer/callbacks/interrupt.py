"""Ctrl-C and SIGTERM end a run between two steps, never in the middle of an update.

The collection and the evaluation ask at every environment step whether to stop; the Trainer's
loop is asked after every update.
"""

import signal
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

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen; the Trainer puts the old handlers of its own signals back."""
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop listening."""
        for number, handler in self._old.items():
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
