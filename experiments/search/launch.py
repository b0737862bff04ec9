"""Passes jobs to one of Hydra's launchers, in a process of its own: Hydra's state is one for all.

`trials.py` starts it, and writes the arguments of `launch` to its standard input.
"""

import pickle
import sys

from experiments.sweep.launchers import launch


def main() -> None:
    """Launch the jobs of a trial, and wait for them."""
    try:
        due, words, root, devices = pickle.load(sys.stdin.buffer)
        launch(due, words, root, devices)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # of the launcher, such as a lost cluster job
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
