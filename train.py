"""Train DreamerV2: `python train.py env=atari task=pong`. See README.md for what can be set."""

import os
import re
import shlex
import signal
import sys
import traceback

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from dreamer.command_line import explain
from dreamer.process import prepare


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run one job; of a multirun, a failed job does not stop the others."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from dreamer.agent import NonFiniteError
    from dreamer.callbacks.interrupt import Interrupted
    from dreamer.envs.group import EnvironmentFault
    from dreamer.run_folder import FolderInUse
    from dreamer.runner import train

    alone = HydraConfig.get().mode == RunMode.RUN
    try:
        train(cfg)
    except Interrupted as stop:
        again = shlex.join(["python", *sys.argv])
        print(f"\nStopped by {stop}; everything is saved. To go on: {again}", file=sys.stderr)
        sys.exit(128 + stop.signal_number)
    except Exception as error:
        if not alone:  # Hydra would tell only after the last job
            traceback.print_exc()
            raise
        known = ValueError | OSError | ImportError | NonFiniteError | EnvironmentFault
        if not isinstance(error, known):
            if not isinstance(error, HydraException):
                raise
            error = error.__cause__ or error  # an object that could not be built
        print(f"error: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if isinstance(error, FolderInUse) else 2)


if __name__ == "__main__":
    prepare()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # what is wrong with a command line comes to us
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # Hydra wants no plus for a group that stands, empty, in the defaults list; take it either way.
    sys.argv[1:] = [re.sub(r"^\+(experiment|debug)=", r"\1=", word) for word in sys.argv[1:]]
    try:
        main()
    except HydraException as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(2)
