"""Play with a trained agent: `python -m dreamer.evaluate run_dir=runs/... episodes=10 video=true`.

Prints raw returns, and writes them with the video to the run's folder. The run may still go on.
"""

import json
import sys
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamer.cli.command import fail, start
from dreamer.run.config import checked_settings
from dreamer.run.overrides import explain, prepared
from dreamer.run.paths import CONF, expanded
from dreamer.run.settings import EvaluateSettings
from dreamer.schema.help import Usage, head, keys, print_lines
from dreamer.schema.keys import keys_of

USAGE = Usage(
    "Play with a trained agent, and print raw returns. The run may still go on.",
    "python -m dreamer.evaluate run_dir=... [key=value ...], or dreamer-evaluate",
    (
        (
            "python -m dreamer.evaluate run_dir=runs/atari/pong/dreamerv2/seed0",
            "Plays ten episodes; returns are printed and written to evaluation.json in the folder.",
        ),
        (
            "python -m dreamer.evaluate run_dir=... episodes=100 sample_actions=true",
            "Plays a hundred, with sampled actions.",
        ),
        ("python -m dreamer.evaluate run_dir=... video=true", "Films the first episode."),
    ),
)


@hydra.main(config_path=str(CONF), config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Play the episodes that the configuration asks for."""
    try:
        if OmegaConf.is_missing(cfg, "run_dir"):
            raise ValueError("Expect a `run_dir`, for example run_dir=runs/atari/pong/...")
        cfg = checked_settings(cfg, EvaluateSettings)

        from dreamer.run.evaluate import evaluate

        result = evaluate(
            expanded(cfg.run_dir),
            episodes=cfg.episodes,
            checkpoint=cfg.checkpoint,
            seed=cfg.seed,
            sample_actions=cfg.sample_actions,
            video_policy_steps=cfg.video_policy_steps if cfg.video else 0,
            video_fps=cfg.video_fps,
        )
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    print(json.dumps(result, indent=2))


def run() -> None:
    """Do what the words of this process's command line say; the process ends with it."""
    start()
    try:
        if {"-h", "--help"} & set(sys.argv):
            defaults: Any = OmegaConf.to_container(OmegaConf.load(CONF / "evaluate.yaml"))
            print_lines([*head(USAGE), *keys(defaults, EvaluateSettings)])
            return
        sys.argv[1:] = prepared(sys.argv[1:])
        main()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        fail(explain(error, lambda: keys_of(EvaluateSettings).named))


if __name__ == "__main__":
    run()
