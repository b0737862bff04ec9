"""Evaluate a trained agent: `python -m dreamer.evaluate run_dir=runs/... episodes=10 video=true`.

It prints raw returns, and writes them and the video to the run folder. The run may still be active.
`pretrained=` instead of `run_dir=` plays with a trained agent, and writes to runs/pretrained.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamer.cli.command import HELP, fail, loaded, start, stopped
from dreamer.schema.usage import Usage

if TYPE_CHECKING:
    from omegaconf import DictConfig

USAGE = Usage(
    "Play episodes with a trained agent, and print raw returns. The run may still be active.",
    "python -m dreamer.evaluate run_dir=... [key=value ...], or dreamer-evaluate",
    (
        (
            "python -m dreamer.evaluate run_dir=runs/atari/pong/dreamerv2/seed0",
            "Plays ten episodes; prints the returns and writes them to evaluation.json.",
        ),
        (
            "python -m dreamer.evaluate pretrained=memory video=true",
            "Plays with a trained agent; writes to runs/pretrained/memory.",
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


def main(cfg: "DictConfig") -> None:
    """Play episodes as configured."""
    from omegaconf import OmegaConf

    from dreamer.run.config import checked_settings
    from dreamer.run.pretrained import find_agent, is_address
    from dreamer.run.remote import local_folder
    from dreamer.run.settings import EvaluateSettings

    try:
        given = None if OmegaConf.is_missing(cfg, "run_dir") else cfg.run_dir
        if given is None and cfg.pretrained is None:
            raise ValueError(
                "`run_dir` is missing. For example: run_dir=runs/atari/pong/..., or instead "
                "pretrained=memory"
            )
        if given is not None and cfg.pretrained is not None:
            raise ValueError(
                f"`pretrained` must be left out with `run_dir`, got {cfg.pretrained} and {given}"
            )
        cfg.run_dir = given
        cfg = checked_settings(cfg, EvaluateSettings)

        out = None
        if given is not None:
            run_dir = local_folder(given)
        else:
            run_dir = find_agent(cfg.pretrained)
            name = cfg.pretrained if is_address(cfg.pretrained) else run_dir
            out = Path("runs", "pretrained", Path(name).name)
        places = (run_dir, run_dir / "checkpoints")  # the latter has a copy
        if not any((place / "config.yaml").exists() for place in places):  # before slow imports
            raise FileNotFoundError(f"No run in {run_dir}: it contains no config.yaml.")
        from dreamer.run.evaluate import evaluate

        loaded()
        result = evaluate(
            run_dir,
            out=out,
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
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    except KeyboardInterrupt:
        stopped("Stopped by SIGINT; nothing is written.")
    except Exception as error:
        from dreamer.envs.faults import EnvironmentFault  # slow, but loaded by now

        if not isinstance(error, EnvironmentFault):
            raise
        fail(error)
    print(json.dumps(result, indent=2))


def run() -> None:
    """Run the command with the arguments of this process, and end the process."""
    start("an evaluation:", sys.argv[1:])
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from dreamer.run.overrides import explain, prepared
    from dreamer.run.paths import CONF
    from dreamer.run.settings import EvaluateSettings
    from dreamer.schema.help import head, keys, print_lines
    from dreamer.schema.keys import keys_of

    try:
        if HELP & set(sys.argv):
            defaults: Any = OmegaConf.to_container(OmegaConf.load(CONF / "evaluate.yaml"))
            print_lines([*head(USAGE), *keys(defaults, EvaluateSettings)])
            return
        sys.argv[1:] = prepared(sys.argv[1:])
        hydra.main(config_path=str(CONF), config_name="evaluate", version_base="1.3")(main)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        fail(explain(error, lambda: keys_of(EvaluateSettings).named))


if __name__ == "__main__":
    run()
