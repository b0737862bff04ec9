"""The first and last steps of every command: prepare the process, and report an error."""

import os
import sys
from typing import NoReturn

from dreamer.runtime import prepare


def start() -> None:
    """Prepare this process; call it before importing torch.

    Modules in the current folder become importable, for example for task=my_module:MyEnv-v0. Hydra
    raises its errors instead of printing them.
    """
    prepare()
    sys.path.append(os.getcwd())
    os.environ["HYDRA_FULL_ERROR"] = "1"


def fail(error: object) -> NoReturn:
    """Print an error, and end the process with status 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
