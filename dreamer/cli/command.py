"""The first and last steps of every command: prepare the process, and report an error."""

import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from dreamer.runtime import prepare

PACKAGE = str(Path(__file__).parents[1])


def start() -> None:
    """Prepare this process; call it before importing torch.

    Modules in the current folder become importable, for example for task=my_module:MyEnv-v0. Hydra
    raises its errors instead of printing them. Warnings of this program are one line each.
    """
    prepare()
    sys.path.append(os.getcwd())
    os.environ["HYDRA_FULL_ERROR"] = "1"
    others = warnings.formatwarning

    def format_warning(message, category, filename, *rest, **options) -> str:  # noqa: ANN001, ANN002, ANN003
        if filename.startswith(PACKAGE) and category is UserWarning:
            return f"warning: {message}\n"
        return others(message, category, filename, *rest, **options)

    warnings.formatwarning = format_warning


def fail(error: object) -> NoReturn:
    """Print an error, and end the process with status 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
