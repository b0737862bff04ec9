"""The entry point of `sweep.py` and `dreamer-sweep`: it answers before slow imports."""

import sys

from dreamer.cli.command import interruptible, start


def run() -> None:
    """Run the command line of this process, and end the process."""
    words = sys.argv[1:]
    start("a sweep:", words or ["--help"])
    from experiments.sweep.command import main

    interruptible(main, words)
