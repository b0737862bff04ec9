"""Builds the parts of a run from its configuration.

The runner and the player put them together. Hydra instantiates; everything built gets plain values.
"""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamer.agent import AgentConfig, DreamerAgent
from dreamer.collector import Policy
from dreamer.envs.base import VectorEnvs
from dreamer.envs.user import is_group
from dreamer.kernels import optimize
from dreamer.kernels.cuda_graph import CudaCapture
from dreamer.kernels.recorded_policy import RecordedPolicy, RecordedSnapshotPolicy
from dreamer.kernels.recorded_update import RecordedUpdate
from dreamer.policy import DreamerPolicy, PolicyContext, SnapshotPolicy
from dreamer.replay.buffer import ReplayConfig
from dreamer.run.config import check_one_device
from dreamer.run.folder import ResumePoint, RunFolder
from dreamer.types import ActionSpace


class Spaces(Protocol):
    """What a group of environments says of itself, and a run folder of those it was trained in."""

    obs_shapes: dict[str, tuple[int, ...]]
    action_space: ActionSpace


def make_envs(cfg: DictConfig, *, seed: int, count: int | None = None) -> VectorEnvs:
    """Build a group of environments; `count` replaces that of the configuration.

    Raises:
        ValueError: `env._target_` makes something else.
    """
    options = {"seed": seed} | ({} if count is None else {"count": count})
    envs = instantiate(cfg.env, **options)
    if not is_group(envs):
        raise ValueError(
            f"`env._target_` must make a group of environments (dreamer.envs.base.VectorEnvs), got "
            f"{envs!r} from {cfg.env._target_}. For a function that makes a gymnasium.Env: "
            "env=own env.factory=my_module:make"
        )
    return envs


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


def make_actor(cfg: DictConfig, agent: DreamerAgent) -> DreamerPolicy:
    """Build the policy that collects as the actor says, wherever it is to collect."""
    networks, noise = (agent.world_model, agent.actor_critic), cfg.exploration_noise
    recorded: dict[str, Any] = {"make_capture": CudaCapture} if has_cuda_graphs(cfg) else {}
    if cfg.collect.overlap:
        kind = RecordedSnapshotPolicy if recorded else SnapshotPolicy
        return kind(*networks, exploration_noise=noise, seed=cfg.seed, **recorded)
    kind = RecordedPolicy if recorded else DreamerPolicy
    return kind(*networks, exploration_noise=noise, sample_actions=True, **recorded)


def make_collect_policy(cfg: DictConfig, context: PolicyContext) -> Policy:
    """Build the policy that collects after the prefill.

    Raises:
        ValueError: `collect_policy` does not say how to build one.
    """
    policy: Any = make_of(cfg.collect_policy, "collect_policy")(context)
    if callable(policy):
        return policy  # pyright: ignore[reportReturnType]
    raise ValueError(
        "`collect_policy._target_` must make a policy, a function of a step and a state, "
        f"got {policy!r}"
    )


def make_refresh(actor: DreamerPolicy, policy: Policy) -> Callable[[int], None] | None:
    """What is to be done before each collection beside an update; None between updates."""
    if not isinstance(actor, SnapshotPolicy):
        return None
    own = getattr(policy, "refresh", None)

    def refresh(policy_steps: int) -> None:
        actor.refresh(policy_steps)
        if own is not None and policy is not actor:
            own(policy_steps)

    return refresh


def make_replay_config(cfg: DictConfig) -> ReplayConfig:
    """Build what the replay is made with."""
    sampler = make_of(cfg.replay.sampling, "replay.sampling")
    return instantiate(cfg.replay, sampling=sampler)


def make_of(node: DictConfig, key: str) -> Callable[..., Any]:
    """What a node's `_target_` makes of one argument; the node's other keys are given already.

    Raises:
        ValueError: there is none, or it does not take the argument and these keys.
    """
    if "_target_" not in node:
        raise ValueError(f"`{key}` must have a `_target_`, got {node}")
    make = instantiate(node, _partial_=True, _convert_="all")
    try:
        inspect.signature(make.func).bind(None, *make.args, **make.keywords)
    except TypeError as error:
        raise ValueError(f"`{key}` cannot be built of {node._target_}: {error}") from error
    return make


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
    cfg: DictConfig, folder: RunFolder, envs: VectorEnvs, resume: ResumePoint | None
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
