"""Train an agent: `python train.py env=atari task=pong`, or `dreamer-train` of an installation.

It composes the configuration from the command line, trains, and turns errors into one line and an
exit code. Even Hydra is imported after the first line is printed, and torch after a first check of
the configuration.
"""

import os
import shlex
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from dreamer.cli.command import HELP, fail, loaded, start, stopped
from dreamer.schema.usage import Usage

if TYPE_CHECKING:
    from omegaconf import DictConfig

USAGE = Usage(
    "Train DreamerV2. Repeat a command to resume its run.",
    "python train.py [key=value ...], or dreamer-train if it is installed",
    (
        ("python train.py env=atari task=pong", "The authors' configuration, 200 million frames."),
        ("python train.py env=dummy task=memory", "Learns a tiny world in minutes on a CPU."),
        (
            "python train.py -m task=pong,breakout seed=0,1",
            "Four runs; -m runs all combinations of comma-separated values.",
        ),
        ("python train.py env=gym --help", "Lists the keys for these choices."),
    ),
)


def main(cfg: "DictConfig") -> float | None:
    """Run one job; a failed job of a multirun does not stop the others.

    Returns:
        The mean return of the latest evaluation, which Hydra's sweepers can optimise; None if there
        was no evaluation.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from dreamer.run.config import check_values

    single = HydraConfig.get().mode == RunMode.RUN
    try:
        check_values(cfg)
        return _train(cfg, single)
    except KeyboardInterrupt:
        stopped("Stopped by SIGINT.")
    except Exception as error:
        if not single:  # Hydra would report it only after the last job
            traceback.print_exc()
        elif isinstance(error, ValueError | OSError | ImportError):
            fail(error)
        raise


def _train(cfg: "DictConfig", single: bool) -> float | None:
    """Import what trains, train, and return the mean return of the latest evaluation."""
    from dreamer.agent import NonFiniteError
    from dreamer.callbacks.interrupt import Interrupted
    from dreamer.envs.group import EnvironmentFault
    from dreamer.run.folder import FolderInUse
    from dreamer.run.train import train

    loaded()
    try:
        return train(cfg).metrics.get("eval/return_mean")
    except Interrupted as stop:
        print(f"\nStopped by {stop}; everything is saved. To resume: {_command()}", file=sys.stderr)
        sys.exit(128 + stop.signal_number)
    except (FolderInUse, NonFiniteError, EnvironmentFault) as error:
        if not single:
            raise
        fail(error, os.EX_TEMPFAIL if isinstance(error, FolderInUse) else 2)


def run() -> None:
    """Run the command with the arguments of this process, and end the process."""
    start("a run:", sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from dreamer.run.compose import help_lines, known_keys, register_suites
    from dreamer.run.overrides import explain, prepared
    from dreamer.run.paths import CONF, SWEEP
    from dreamer.schema.help import print_lines

    try:
        register_suites()
        if HELP & set(sys.argv):
            print_lines(help_lines(USAGE, sys.argv[1:]))
            return
        sys.argv[1:] = prepared(sys.argv[1:])
        if {"-m", "--multirun"} & set(sys.argv):  # for loggers that nest the runs of a sweep
            os.environ.setdefault(
                SWEEP, shlex.join(w for w in sys.argv[1:] if not w.startswith("-"))
            )
        hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")(main)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        fail(explain(error, lambda: known_keys(sys.argv[1:])))


def _command() -> str:
    """Return the command that started this process, quoted for a shell."""
    program, *words = sys.argv
    if program == __file__:  # python -m dreamer.cli.train, as a sweep starts its jobs
        head = ["python", "-m", "dreamer.cli.train"]
    else:
        head = ["python", program] if program.endswith(".py") else [Path(program).name]
    return shlex.join([*head, *words])


if __name__ == "__main__":
    run()
