"""Builds the parts of a run from its configuration.

The runner and the player put them together. Hydra instantiates; everything built gets plain values.
"""

from typing import Any, Protocol

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamer.agent import AgentConfig, DreamerAgent
from dreamer.config import check_one_device
from dreamer.envs.factory import Envs
from dreamer.kernels import optimize
from dreamer.kernels.cuda_graph import CudaCapture
from dreamer.kernels.recorded_policy import RecordedPolicy, RecordedSnapshotPolicy
from dreamer.kernels.recorded_update import RecordedUpdate
from dreamer.policy import DreamerPolicy, SnapshotPolicy
from dreamer.run_folder import ResumePoint, RunFolder
from dreamer.types import ActionSpace


class Spaces(Protocol):
    """What a group of environments says of itself, and a run folder of those it was trained in."""

    obs_shapes: dict[str, tuple[int, ...]]
    action_space: ActionSpace


def make_envs(cfg: DictConfig, *, seed: int, count: int | None = None) -> Envs:
    """Build a group of environments; `count` replaces that of the configuration."""
    options = {"seed": seed} | ({} if count is None else {"count": count})
    return instantiate(cfg.env, **options)


def make_agent(cfg: DictConfig, spaces: Spaces) -> DreamerAgent:
    """Build the agent that fits what its environments show and accept."""
    config: AgentConfig = instantiate(cfg.model, _convert_="all")
    agent = config.build(spaces.obs_shapes, spaces.action_space)
    record_updates(cfg, agent)
    return agent


def record_updates(cfg: DictConfig, agent: DreamerAgent) -> None:
    """Let the agent learn by CUDA graphs where `cuda_graphs` asks for it."""
    if has_cuda_graphs(cfg):
        agent.learn = RecordedUpdate(agent, CudaCapture)


def make_explorer(cfg: DictConfig, agent: DreamerAgent) -> DreamerPolicy:
    """Build the policy that collects."""
    networks, noise = (agent.world_model, agent.actor_critic), cfg.exploration_noise
    recorded: dict[str, Any] = {"make_capture": CudaCapture} if has_cuda_graphs(cfg) else {}
    if cfg.collect.overlap:
        kind = RecordedSnapshotPolicy if recorded else SnapshotPolicy
        return kind(*networks, exploration_noise=noise, seed=cfg.seed, **recorded)
    kind = RecordedPolicy if recorded else DreamerPolicy
    return kind(*networks, exploration_noise=noise, sample_actions=True, **recorded)


def make_evaluation_policy(cfg: DictConfig, agent: DreamerAgent) -> DreamerPolicy:
    """Build the policy that is evaluated during a run: the mode of the actor."""
    networks = agent.world_model, agent.actor_critic
    if has_cuda_graphs(cfg):
        return RecordedPolicy(*networks, sample_actions=False, make_capture=CudaCapture)
    return DreamerPolicy(*networks, sample_actions=False)


def has_cuda_graphs(cfg: DictConfig) -> bool:
    """Tell whether updates and policy calls are captured as CUDA graphs."""
    return bool(cfg.get("cuda_graphs"))  # runs from before there was the key do not have it


def make_loggers(
    cfg: DictConfig, folder: RunFolder, envs: Envs, resume: ResumePoint | None
) -> list[Any]:
    """Build the loggers; a resumed run goes on in them. Nothing there is changed.

    W&B draws one curve per group, the mean of its runs. So a group holds the seeds of one variant
    on one task, like a run folder's parent; the job type is the variant, over all tasks.
    """
    resumed_at = resume.frames if resume else None
    loggers = []
    # W&B comes last: a run that it has begun should not be refused for another logger.
    chosen = [(name, config) for name, config in cfg.logger.items() if config]  # null: left out
    for name, config in sorted(chosen, key=lambda item: item[0] == "wandb"):
        options: dict[str, Any] = {}
        if name == "wandb":
            plain: Any = OmegaConf.to_container(cfg, resolve=True)
            options = {
                "group": f"{cfg.env_name}/{cfg.task}/{folder.variant}",
                "job_type": folder.variant,
                "name": f"{folder.variant}-{cfg.task}-seed{cfg.seed}",
                "tags": [cfg.env_name, cfg.task, folder.variant, *cfg.logger.wandb.tags],
                "config": {**plain, "variant": folder.variant},
                "reference_returns": envs.reference_returns,
            }
        if name == "tensorboard":
            options = {"resumed_at": resumed_at}
        loggers.append(instantiate(config)(folder.path, **options))
    return loggers


def choose_precision(cfg: DictConfig) -> str:
    """The Trainer's precision; `auto` is bf16-mixed on CUDA and float32 elsewhere."""
    if cfg.precision != "auto":
        return cfg.precision
    return "bf16-mixed" if on_cuda(cfg) else "32-true"


def check_device(cfg: DictConfig) -> None:
    """Raise a ValueError where something is asked for that the device cannot do."""
    check_one_device(cfg, available=torch.cuda.device_count() if on_cuda(cfg) else 1)
    if cfg.cuda_graphs and not on_cuda(cfg):
        raise ValueError(
            "Expect `cuda_graphs` to be false without a CUDA device, actually: true, with "
            f"trainer.accelerator={cfg.trainer.accelerator} and "
            f"{torch.cuda.device_count()} CUDA devices"
        )


def apply_kernels(cfg: DictConfig, agent: DreamerAgent) -> list[str]:
    """Let the agent's networks compute in faster forms where `kernels` is auto; names them."""
    if cfg.kernels == "plain":
        return []
    return optimize(agent, torch.device("cuda" if on_cuda(cfg) else "cpu"))


def on_cuda(cfg: DictConfig) -> bool:
    """Tell whether the Trainer will choose a CUDA device."""
    return torch.cuda.is_available() and cfg.trainer.accelerator in ("auto", "gpu", "cuda")
