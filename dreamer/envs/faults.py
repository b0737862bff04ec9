"""Faults of environments: which exceptions are theirs, and how one line describes them.

The groups of environments and their processes use it. It knows no environment.
"""

import importlib
import re
import signal
import sysconfig
import textwrap
import threading
import traceback
from pathlib import Path
from types import ModuleType

MAX_LETTERS = 400  # of a message; an array may print thousands
PACKAGE = str(Path(__file__).parents[1])
THIS = __name__.partition(".")[0] + "."  # how the names of this program's modules begin
LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
SCREEN = re.compile(r"display|opengl|\begl\b|glx|x11|screen|framebuffer|\"None\"", re.IGNORECASE)


class EnvironmentFault(RuntimeError):  # noqa: N818 -- the environment's, not this program's
    """An environment raised, hung, crashed or returned something invalid."""


def is_fault(error: BaseException) -> bool:
    """Whether an environment may be restarted after an exception; all others stop the run.

    All exceptions of environments are faults, `SystemExit`, `KeyboardInterrupt` and those of Rust
    and asyncio, too. The handlers of signals raise the others: this program's own, Python's
    `KeyboardInterrupt`, and the `SystemExit` of the commands.
    """
    if isinstance(error, KeyboardInterrupt):
        is_main = threading.current_thread() is threading.main_thread()
        return not (is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    if isinstance(error, SystemExit):
        return error.code != 128 + signal.SIGTERM  # the commands' handler raises it
    if isinstance(error, Exception):
        return True
    return not type(error).__module__.startswith(THIS)


def describe(error: BaseException) -> str:
    """Describe an exception in one line: type, message and place in the user's code."""
    if isinstance(error, EnvironmentFault):
        return one_line(str(error))
    message, kind = one_line(message_of(error)), type(error).__name__
    place = where(error)
    return f"{kind}{': ' if message else ''}{message}{f' ({place})' if place else ''}"


def message_of(error: BaseException) -> str:
    """Return the message of an exception; a user's may fail to print."""
    try:
        return str(error)
    except Exception as failure:
        return f"no message: `__str__` raised {type(failure).__name__}"


def one_line(text: str) -> str:
    """Join the lines of a text, and shorten it."""
    return textwrap.shorten(text, MAX_LETTERS)


def where(error: BaseException) -> str:
    """Return file, line and function of an exception: the last that is no library's, if any."""
    stack = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in stack if not frame.filename.startswith(PACKAGE)]
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)] or frames
    return f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}" if own else ""


def import_module_of(name: str, module: str) -> ModuleType:
    """Import a user's module.

    Args:
        name: Of the environment, for messages.
        module: Path, as "my_package.my_module".

    Raises:
        ImportError: There is none, or a package is missing.
        EnvironmentFault: It raised something else.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise
    except BaseException as error:
        if not is_fault(error):
            raise
        raise EnvironmentFault(
            f"{name}: the import of {module} raised {describe(error)}"
        ) from error


def build_error(name: str, error: BaseException) -> Exception:
    """Return the error of an environment that cannot be built; it names the environment.

    An `ImportError`, or a `ValueError` of this program, stays one; anything else becomes an
    `EnvironmentFault`.
    """
    if not (isinstance(error, ImportError) or (isinstance(error, ValueError) and _is_ours(error))):
        return build_fault(name, error)
    text = message_of(error)
    named = one_line(text if name in text else f"{name}: {text}")
    return (ImportError if isinstance(error, ImportError) else ValueError)(named)


def _is_ours(error: BaseException) -> bool:
    """Whether this program raised an exception."""
    stack = traceback.extract_tb(error.__traceback__)
    return bool(stack) and stack[-1].filename.startswith(PACKAGE)


def build_fault(name: str, error: BaseException) -> EnvironmentFault:
    """Return the fault of an environment that cannot be built; it names the environment."""
    text = message_of(error)
    if isinstance(error, EnvironmentFault) and name in text:  # from its process
        return error
    hint = " Without a screen, start the command with `xvfb-run -a`." if SCREEN.search(text) else ""
    return EnvironmentFault(f"{name} cannot be built: {describe(error)}.{hint}")
