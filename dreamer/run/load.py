"""Loads the agent of a run folder.

`dreamer.load` and `python -m dreamer.evaluate` call it. It does not change the folder.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
from omegaconf import DictConfig, OmegaConf

from dreamer.agent import DreamerAgent
from dreamer.envs.base import VectorEnvs
from dreamer.envs.codecs import SpaceCodec, codec_from_dict, codec_of
from dreamer.envs.single import single_env
from dreamer.exploration import ACTOR, EXPLORER, actors_of
from dreamer.files import DamagedFile
from dreamer.inference import TrainedAgent
from dreamer.models.actor_critic import ActorCritic
from dreamer.run.build import make_agent, make_envs, with_rendering
from dreamer.run.config import reasons
from dreamer.run.folder import RunFolder
from dreamer.run.paths import WEIGHTS
from dreamer.run.permission import AGENT, check_permitted
from dreamer.run.pretrained import is_agent
from dreamer.run.remote import local_folder
from dreamer.schema.words import format_value
from dreamer.tensor_file import load_notes, load_tensors

OTHER = {  # what to try instead, by the checkpoint that does not fit
    name: f", or choose checkpoint={other}"
    for name, other in (("best", "last"), ("last", "best"), ("previous", "best"))
}
COUNTERS = ("frames", "policy_steps", "updates")  # among the notes of exported weights


class Loaded(NamedTuple):
    """An agent, and the checkpoint that it was read from."""

    agent: TrainedAgent
    path: Path


@reasons()
def load(
    run_dir: Path | str,
    checkpoint: str = "best",
    *,
    policy: str = ACTOR,
    sample_actions: bool = False,
    device: str = "cpu",
    allow: Sequence[str] = (),
) -> TrainedAgent:
    """Load the agent of a run folder; its environment need not be installed.

    Somebody else may have made the folder: it can name classes of this program only, and those of
    `allow`. Checkpoints are read as tensors and plain types only.

    Args:
        run_dir: Of a finished or active run; or `pretrained/<name>`, a trained agent of this
            package; or `wandb:<entity>/<project>/<run id>`, whose agent is downloaded from W&B; or
            a folder that `dreamer.export` wrote, or its address, such as s3://bucket/folder.
        checkpoint: `best`, which falls back to `last`; or `last`. If the file is damaged, the
            newest one that is not, with a warning. An exported agent has only one.
        policy: `actor`, which learns from the task's reward; or `explore`, the explorer of a run
            with exploration.
        sample_actions: Sample actions as in training, instead of the policy's mode.
        device: torch device of the networks.
        allow: Packages or modules, such as `["my_package"]`, whose classes the run may name as
            well; their code is run.

    Raises:
        FileNotFoundError: There is no such run or checkpoint.
        ValueError: The checkpoint is damaged or belongs to another agent, the run has no such
            policy, or its configuration names code that is not allowed.
    """
    return load_from(
        RunFolder(local_folder(run_dir)),
        checkpoint,
        policy=policy,
        sample_actions=sample_actions,
        device=device,
        allow=allow,
    ).agent


def load_from(
    folder: RunFolder,
    checkpoint: str,
    *,
    policy: str,
    sample_actions: bool,
    device: str = "cpu",
    allow: Sequence[str],
    maker: Callable[..., VectorEnvs] | None = None,
) -> Loaded:
    """Load the agent of a run folder, and tell from which file; see `load`.

    `maker` makes the environments of this program, as `make_envs` makes those of config.yaml.
    """
    if checkpoint not in ("best", "last"):
        raise ValueError(f"`checkpoint` must be best or last, got {format_value(checkpoint)}")
    cfg = folder.config()
    check_permitted(cfg, folder.path, allow, AGENT)
    path, state = _read(folder, checkpoint)
    spaces = folder.spaces()
    codec = codec_from_dict(spaces) if spaces else _codec_from_environment(cfg, folder, allow)
    networks = _make_networks(cfg, codec, folder)
    try:
        networks.load_state_dict(state["state_dict"])
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must be a checkpoint of the agent in config.yaml and spaces.json, got other "
            f"weights. Restore these files{OTHER.get(path.stem, '')}."
        ) from error
    networks.on_load_checkpoint(state)
    actor = _choose_actor(networks, policy)
    agent = TrainedAgent(
        networks.to(device),
        codec,
        actor,
        sample_actions=sample_actions,
        make_env=partial(_make_env, cfg, folder, allow, maker),
    )
    return Loaded(agent, path)


@reasons()
def _make_env(
    cfg: DictConfig,
    folder: RunFolder,
    allow: Sequence[str],
    maker: Callable[..., VectorEnvs] | None,
) -> gymnasium.Env:
    """Make one environment of the run, in this process, rendered at its best."""
    if maker is None:
        check_permitted(cfg, folder.path, allow, ("env",))
        maker = make_envs
    here = {"processes": "auto"} if "processes" in cfg.env else {}
    chosen: Any = OmegaConf.merge(with_rendering(cfg), {"env": here})
    return single_env(lambda seed: maker(chosen, seed=seed, count=1))


def _read(folder: RunFolder, checkpoint: str) -> tuple[Path, dict[str, Any]]:
    """Read a checkpoint; of an exported agent, its only weights."""
    if is_agent(folder.path) and not folder.is_saved:
        return folder.path / WEIGHTS, _read_weights(folder.path / WEIGHTS)
    wanted = folder.checkpoints / f"{checkpoint}.ckpt"
    return folder.read_intact(wanted if wanted.exists() else folder.last)


def _read_weights(path: Path) -> dict[str, Any]:
    """Read weights and counters, in the form of a checkpoint.

    Raises:
        DamagedFile: The file is damaged, or another program wrote it.
    """
    notes = load_notes(path)
    try:
        counters = {key: int(notes[key]) for key in COUNTERS}
    except (KeyError, ValueError) as error:
        raise DamagedFile(f"{path} must be a file of dreamer.export, got other notes.") from error
    return {"state_dict": load_tensors(path), "counters": counters}


def _make_networks(cfg: DictConfig, codec: SpaceCodec, folder: RunFolder) -> DreamerAgent:
    """Build the agent, whose configuration may be damaged in any way."""
    try:
        with reasons():
            return make_agent(cfg, codec)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # of any content: a TypeError, an AttributeError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{folder.path / 'config.yaml'} does not describe an agent for the spaces of the run: "
            f"{reason}"
        ) from error


def _choose_actor(networks: DreamerAgent, policy: str) -> ActorCritic:
    """Return the actor and critic with that name."""
    actors = actors_of(networks)
    if policy not in actors:
        reason = "" if EXPLORER in actors else ": the run has no explorer that learns"
        raise ValueError(
            f"`policy` must be {' or '.join(actors)}{reason}, got {format_value(policy)}"
        )
    return actors[policy]


def _codec_from_environment(cfg: DictConfig, folder: RunFolder, allow: Sequence[str]) -> SpaceCodec:
    """Make the codec of an older run, whose folder does not contain it."""
    check_permitted(cfg, folder.path, allow, ("env",))
    envs = make_envs(cfg, seed=cfg.seed, count=1)
    envs.close()
    return codec_of(envs)
