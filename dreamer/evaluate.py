"""Play with a trained agent: `python -m dreamer.evaluate run_dir=runs/... episodes=10 video=true`.

Prints raw returns, and writes them with the video to the run's folder. The run may still go on.
"""

import json
import os
import sys
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from dreamer.command_line import explain
from dreamer.paths import CONF
from dreamer.process import prepare


@hydra.main(config_path=str(CONF), config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Play the episodes that the configuration asks for."""
    from dreamer.player import evaluate

    if OmegaConf.is_missing(cfg, "run_dir"):
        print("error: Expect a `run_dir`, for example run_dir=runs/atari/pong/...", file=sys.stderr)
        sys.exit(2)
    try:
        result = evaluate(
            Path(cfg.run_dir),
            episodes=cfg.episodes,
            checkpoint=cfg.checkpoint,
            seed=cfg.seed,
            sample_actions=cfg.sample_actions,
            video_policy_steps=cfg.video_policy_steps if cfg.video else 0,
            video_fps=cfg.video_fps,
        )
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(result, indent=2))


def run() -> None:
    """Do what the words of this process's command line say; the process ends with it."""
    prepare()
    sys.path.append(os.getcwd())  # task=my_module:MyEnv-v0 may lie where the command is typed
    os.environ["HYDRA_FULL_ERROR"] = "1"  # what is wrong with a command line comes to us
    try:
        main()
    except HydraException as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
