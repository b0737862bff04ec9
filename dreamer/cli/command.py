"""What all commands do first and last: prepare the process, and end it with one line of error.

The commands use it. It knows none of them.
"""

import os
import sys
from typing import NoReturn

from dreamer.runtime import prepare


def start() -> None:
    """Prepare this process; to be called before torch is imported.

    Modules in the current folder can be imported, for task=my_module:MyEnv-v0 and the like. Hydra
    raises its errors instead of printing them.
    """
    prepare()
    sys.path.append(os.getcwd())
    os.environ["HYDRA_FULL_ERROR"] = "1"


def fail(error: object) -> NoReturn:
    """Print an error on one line, and end the process with status 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
