"""Evaluate a trained agent: `python -m dreamer.evaluate run_dir=runs/... episodes=10 video=true`.

It prints raw returns, and writes them and the video to the run folder. The run may still be active.
"""

import json
import sys
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamer.cli.command import fail, start
from dreamer.envs.faults import EnvironmentFault
from dreamer.run.config import checked_settings
from dreamer.run.overrides import explain, prepared
from dreamer.run.paths import CONF
from dreamer.run.remote import local_folder
from dreamer.run.settings import EvaluateSettings
from dreamer.schema.help import Usage, head, keys, print_lines
from dreamer.schema.keys import keys_of

USAGE = Usage(
    "Play episodes with a trained agent, and print raw returns. The run may still be active.",
    "python -m dreamer.evaluate run_dir=... [key=value ...], or dreamer-evaluate",
    (
        (
            "python -m dreamer.evaluate run_dir=runs/atari/pong/dreamerv2/seed0",
            "Plays ten episodes; prints the returns and writes them to evaluation.json.",
        ),
        (
            "python -m dreamer.evaluate run_dir=... episodes=100 sample_actions=true",
            "Plays a hundred episodes with sampled actions.",
        ),
        (
            "python -m dreamer.evaluate run_dir=... video=true",
            "Records a video of the first episode.",
        ),
        (
            "python -m dreamer.evaluate run_dir=... allow=my_package",
            "Lets the run use the code of a package of yours.",
        ),
    ),
)


@hydra.main(config_path=str(CONF), config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Play episodes as configured."""
    try:
        if OmegaConf.is_missing(cfg, "run_dir"):
            raise ValueError("`run_dir` is missing. For example: run_dir=runs/atari/pong/...")
        cfg = checked_settings(cfg, EvaluateSettings)

        from dreamer.run.evaluate import evaluate

        result = evaluate(
            local_folder(cfg.run_dir),
            episodes=cfg.episodes,
            checkpoint=cfg.checkpoint,
            policy=cfg.policy,
            seed=cfg.seed,
            sample_actions=cfg.sample_actions,
            video_policy_steps=cfg.video_policy_steps if cfg.video else 0,
            video_fps=cfg.video_fps,
            max_episode_policy_steps=cfg.max_episode_policy_steps,
            allow=[cfg.allow] if isinstance(cfg.allow, str) else list(cfg.allow),
        )
    except (ValueError, OSError, ImportError, EnvironmentFault) as error:
        fail(error)
    print(json.dumps(result, indent=2))


def run() -> None:
    """Run the command with the arguments of this process, and end the process."""
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
