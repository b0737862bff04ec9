"""The first and last steps of every command: say what starts, prepare the process, report an error.

It imports nothing that is slow, so that a command answers at once.
"""

import atexit
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dreamer.runtime import prepare

HELP = {"-h", "--help"}
PACKAGE = str(Path(__file__).parents[1])
STOPPED = "Stopped during the start."


def start(what: str, words: Sequence[str] = ()) -> None:
    """Say what starts, and prepare this process; call it before importing anything slow.

    Modules in the current folder become importable, for example for task=my_module:MyEnv-v0. Hydra
    raises its errors instead of printing them. Until `loaded` is called, Ctrl-C ends the process at
    once, and garbage is not collected: the imports leave much that stays. Nor is it at the end of
    the process, which would take seconds. Warnings of this program are one line each.

    Args:
        what: is started, such as "a run".
        words: of the command line. If they ask for help, nothing is said.
    """
    if not HELP & set(words):
        print(" ".join(["Starting", what, *words, "..."]), file=sys.stderr, flush=True)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    gc.disable()
    atexit.register(gc.freeze)
    prepare()
    sys.path.append(os.getcwd())
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _shorten_warnings()


def loaded() -> None:
    """End the start: all imports are done."""
    gc.enable()
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def fail(error: object, status: int = 2) -> NoReturn:
    """Print an error, and end the process."""
    hint = ""
    if isinstance(error, ModuleNotFoundError) and str(error) == f"No module named {error.name!r}":
        hint = ": it is not installed, nor is it in this folder or on PYTHONPATH"
    print(f"error: {error}{hint}", file=sys.stderr)
    sys.exit(status)


def interruptible(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> NoReturn:
    """Call a command with its words, and end the process with its status; Ctrl-C is one line."""
    try:
        sys.exit(main(words))
    except KeyboardInterrupt:
        stopped("Stopped by SIGINT.")


def stopped(message: str = STOPPED, number: int = signal.SIGINT) -> NoReturn:
    """End the process after Ctrl-C or another signal, with one line."""
    print(_line(message), file=sys.stderr)
    sys.exit(128 + number)


def _shorten_warnings() -> None:
    """Print warnings of this program as one line each."""
    others = warnings.formatwarning

    def format_warning(message, category, filename, *rest, **options) -> str:  # noqa: ANN001, ANN002, ANN003
        if filename.startswith(PACKAGE) and category is UserWarning:
            return f"warning: {message}\n"
        return others(message, category, filename, *rest, **options)

    warnings.formatwarning = format_warning


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process at once. An exception might get lost in the code that imports a module."""
    os.write(2, f"{_line(STOPPED)}\n".encode())
    os._exit(128 + number)


def _line(message: str) -> str:
    return f"\n{message}" if sys.stderr.isatty() else message  # a terminal shows ^C before it
