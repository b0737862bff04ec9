"""Train DreamerV2: `python train.py env=atari task=pong`. See README.md for what can be set."""

import os
import signal
import sys
import traceback

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Run one job; of a multirun, a failed job does not stop the others."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode

    from dreamer.agent import NonFiniteError
    from dreamer.callbacks.interrupt import Interrupted
    from dreamer.runner import train

    alone = HydraConfig.get().mode == RunMode.RUN
    again = f"python {' '.join(sys.argv)}"
    try:
        train(cfg)
    except Interrupted as stop:
        print(f"\nStopped by {stop}; everything is saved. To go on: {again}", file=sys.stderr)
        sys.exit(128 + stop.signal_number)
    except (ValueError, OSError, ImportError, NonFiniteError, HydraException) as error:
        if not alone:
            traceback.print_exc()
            raise
        cause = error.__cause__ if isinstance(error, HydraException) else error
        print(f"error: {cause or error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    # Threads that spin while they wait make a run ten times slower beside any other busy process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    main()
