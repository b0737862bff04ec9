"""Load the agent of a run folder.

`dreamer.load` and `python -m dreamer.evaluate` call it. It changes nothing in the folder.
"""

from pathlib import Path

from omegaconf import DictConfig

from dreamer.envs.codecs import SpaceCodec, codec_of, read_codec
from dreamer.inference import TrainedAgent
from dreamer.run.build import make_agent, make_envs
from dreamer.run.config import reasons
from dreamer.run.folder import RunFolder
from dreamer.run.paths import expanded
from dreamer.schema.words import shown


@reasons()
def load(
    run_dir: Path | str,
    checkpoint: str = "best",
    *,
    sample_actions: bool = False,
    device: str = "cpu",
) -> TrainedAgent:
    """Load the agent of a run folder; its environment need not be installed.

    A run folder is code: its configuration says what is built. Load none that you do not trust.
    Weights are read as tensors and plain types.

    Args:
        run_dir: of a finished or running run.
        checkpoint: `best`, or `last` where there is none; or `last`.
        sample_actions: act as in training, not with the actor's mode.
        device: where the networks work, as torch names it.

    Raises:
        FileNotFoundError: there is no such run or checkpoint.
        ValueError: the checkpoint is damaged or not of this agent.
    """
    if checkpoint not in ("best", "last"):
        raise ValueError(f"`checkpoint` must be best or last, got {shown(checkpoint)}")
    folder = RunFolder(expanded(run_dir))
    cfg = folder.config()
    path = folder.checkpoints / f"{checkpoint}.ckpt"
    path = path if path.exists() else folder.checkpoints / "last.ckpt"
    state = folder.read_checkpoint(path)
    spaces = folder.spaces()
    codec = read_codec(spaces) if spaces else _ask_environment(cfg)
    networks = make_agent(cfg, codec)
    try:
        networks.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{path} is not a checkpoint of the agent in config.yaml") from error
    networks.on_load_checkpoint(state)
    return TrainedAgent(networks.to(device), codec, sample_actions=sample_actions)


def _ask_environment(cfg: DictConfig) -> SpaceCodec:
    """The codec of a run whose folder does not hold them: an older program wrote it."""
    envs = make_envs(cfg, seed=cfg.seed, count=1)
    envs.close()
    return codec_of(envs)
