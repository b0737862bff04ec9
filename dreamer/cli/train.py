"""What `python train.py ...` and the installed command `dreamer-train ...` do.

It composes the configuration from the command line, lets the runner train, and turns what went
wrong into one line and an exit code. Nothing slow is imported before a run begins.
"""

import os
import shlex
import signal
import sys
import traceback
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dreamer.cli.command import fail, start
from dreamer.run.compose import help_lines, known_keys, register_suites
from dreamer.run.overrides import explain, prepared
from dreamer.run.paths import CONF
from dreamer.schema.help import Usage, print_lines

USAGE = Usage(
    "Train DreamerV2. The same command again goes on with a run that was stopped.",
    "python train.py [key=value ...], or dreamer-train where it is installed",
    (
        ("python train.py env=atari task=pong", "The authors' configuration, 200 million frames."),
        ("python train.py env=dummy task=memory", "Learns a tiny world, in minutes on a CPU."),
        (
            "python train.py -m task=pong,breakout seed=0,1",
            "Four runs; -m takes all combinations of values with commas between.",
        ),
        ("python train.py env=gym --help", "The keys with the files that the words choose."),
    ),
)


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run one job; of a multirun, a failed job does not stop the others."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from dreamer.agent import NonFiniteError
    from dreamer.callbacks.interrupt import Interrupted
    from dreamer.envs.group import EnvironmentFault
    from dreamer.run.folder import FolderInUse
    from dreamer.run.train import train

    alone = HydraConfig.get().mode == RunMode.RUN
    try:
        train(cfg)
    except Interrupted as stop:
        print(f"\nStopped by {stop}; everything is saved. To go on: {_command()}", file=sys.stderr)
        sys.exit(128 + stop.signal_number)
    except Exception as error:
        if not alone:  # Hydra would tell only after the last job
            traceback.print_exc()
            raise
        known = ValueError | OSError | ImportError | NonFiniteError | EnvironmentFault
        if not isinstance(error, known):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, FolderInUse) else 2)


def run() -> None:
    """Do what the words of this process's command line say; the process ends with it."""
    start()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        register_suites()
        if {"-h", "--help"} & set(sys.argv):
            print_lines(help_lines(USAGE, sys.argv[1:]))
            return
        sys.argv[1:] = prepared(sys.argv[1:])
        main()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        fail(explain(error, lambda: known_keys(sys.argv[1:])))


def _command() -> str:
    """The command that started this process, as a person types it."""
    program, *words = sys.argv
    head = ["python", program] if program.endswith(".py") else [Path(program).name]
    return shlex.join([*head, *words])
