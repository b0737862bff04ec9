"""Builds the parts of a run from its configuration.

`train.py`, `load.py` and `evaluate.py` combine them. Hydra instantiates; the parts receive plain
values.
"""

import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamer.agent import AgentConfig, DreamerAgent
from dreamer.collector import Policy
from dreamer.envs.base import VectorEnvs
from dreamer.envs.user import is_group
from dreamer.exploration import EXPLORER, actors_of, explorer_of
from dreamer.kernels import optimize
from dreamer.kernels.captured_policy import CapturedPolicy, CapturedSnapshotPolicy
from dreamer.kernels.captured_update import CapturedUpdate
from dreamer.kernels.cuda_graph import CudaCapture
from dreamer.loggers import GuardedLogger, RunDescription
from dreamer.models.actor_critic import ActorCritic
from dreamer.policy import DreamerPolicy, PolicyContext, RandomPolicy, SnapshotPolicy
from dreamer.precision import trainer_options
from dreamer.probes import PROBE
from dreamer.replay.buffer import ReplayConfig
from dreamer.run.choices import choice_of
from dreamer.run.config import check_one_device
from dreamer.run.folder import ResumePoint, RunFolder
from dreamer.run.offline import counter_of
from dreamer.run.paths import SWEEP, expanded
from dreamer.types import ActionSpace


class Spaces(Protocol):
    """The spaces of a group of environments, or of the codec in a run folder."""

    obs_shapes: dict[str, tuple[int, ...]]
    action_space: ActionSpace


def make_envs(cfg: DictConfig, *, seed: int, count: int | None = None) -> VectorEnvs:
    """Build a group of environments; `count` overrides that of the configuration.

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


def with_rendering(cfg: DictConfig) -> DictConfig:
    """Return the configuration of environments that play for a video, rendered at its best."""
    if "native_render" not in cfg.env:
        return cfg
    return OmegaConf.merge(cfg, {"env": {"native_render": True}})  # pyright: ignore[reportReturnType]


def make_agent(cfg: DictConfig, spaces: Spaces) -> DreamerAgent:
    """Build the agent for the spaces of its environments."""
    config = _with_probe(_with_explorer(instantiate(cfg.model, _convert_="all"), cfg), cfg)
    agent = config.build(spaces.obs_shapes, spaces.action_space)
    record_updates(cfg, agent)
    return agent


def _with_explorer(config: AgentConfig, cfg: DictConfig) -> AgentConfig:
    """Add the explorer or the ensemble of `explore` to the components, if it learns.

    Raises:
        ValueError: The model takes no components, or one of them has the explorer's name.
    """
    exploration = instantiate(cfg.get("explore") or {}, _convert_="all")  # older runs lack the key
    if not hasattr(exploration, "build"):
        return config
    if EXPLORER in config.components:
        raise ValueError(
            f"`model.components` must not have the name `{EXPLORER}`, that of the explorer of "
            f"explore={choice_of(cfg, 'explore')}"
        )
    return replace(config, components={**config.components, EXPLORER: exploration})


def _with_probe(config: AgentConfig, cfg: DictConfig) -> AgentConfig:
    """Add the probe of `probe` to the components, or with `probe_gradients` to the world model.

    Raises:
        ValueError: A component has the probe's name, or the probe cannot train the world model.
    """
    probe = instantiate(cfg.get("probe") or {}, _convert_="all")  # older runs lack the key
    if not hasattr(probe, "build"):
        return config
    if cfg.probe_gradients:
        if not hasattr(probe, "auxiliary"):
            raise ValueError(
                "`probe_gradients` must be false with a probe without the method `auxiliary`, got "
                f"true with probe={choice_of(cfg, 'probe')}"
            )
        auxiliary = {**config.world_model.auxiliary, PROBE: probe.auxiliary()}
        return replace(config, world_model=replace(config.world_model, auxiliary=auxiliary))
    if PROBE in config.components:
        raise ValueError(
            f"`model.components` must not have the name `{PROBE}`, that of the probe of "
            f"probe={choice_of(cfg, 'probe')}"
        )
    return replace(config, components={**config.components, PROBE: probe})


def record_updates(cfg: DictConfig, agent: DreamerAgent) -> None:
    """Capture the agent's updates as CUDA graphs if `cuda_graphs` is true."""
    if has_cuda_graphs(cfg):
        agent.learn = CapturedUpdate(agent, CudaCapture)


def make_actor(
    cfg: DictConfig, agent: DreamerAgent, actor_critic: ActorCritic | None = None
) -> DreamerPolicy:
    """Build a policy that collects with an actor, by default the agent's, as `collect` says."""
    networks, noise = (agent.world_model, actor_critic or agent.actor_critic), cfg.exploration_noise
    recorded: dict[str, Any] = {"make_capture": CudaCapture} if has_cuda_graphs(cfg) else {}
    if cfg.collect.overlap:
        kind = CapturedSnapshotPolicy if recorded else SnapshotPolicy
        return kind(*networks, exploration_noise=noise, seed=cfg.seed, **recorded)
    kind = CapturedPolicy if recorded else DreamerPolicy
    return kind(*networks, exploration_noise=noise, sample_actions=True, **recorded)


def make_explorer(
    cfg: DictConfig, agent: DreamerAgent, random: RandomPolicy
) -> DreamerPolicy | RandomPolicy | None:
    """Build the policy that collects with the explorer; None if there is none."""
    if "until_frames" not in cfg.explore:
        return None
    explorer = explorer_of(agent)
    return make_actor(cfg, agent, explorer.actor_critic) if explorer else random


def make_collect_policy(cfg: DictConfig, context: PolicyContext) -> Policy:
    """Build the policy that collects after the prefill.

    Raises:
        ValueError: `collect_policy` does not build a policy.
    """
    policy: Any = make_factory(cfg.collect_policy, "collect_policy")(context)
    if callable(policy):
        return policy  # pyright: ignore[reportReturnType]
    raise ValueError(
        "`collect_policy._target_` must make a policy, a function of a step and a state, "
        f"got {policy!r}"
    )


def make_refresh(context: PolicyContext, policy: Policy) -> Callable[[int], None] | None:
    """Return what to call before a collection that overlaps an update; None without overlap."""
    built_in = (context.actor, context.explorer)
    snapshots = [x for x in built_in if isinstance(x, SnapshotPolicy)]
    if not snapshots:
        return None
    own = None if policy in built_in else getattr(policy, "refresh", None)

    def refresh(policy_steps: int) -> None:
        for snapshot in snapshots:
            snapshot.refresh(policy_steps)
        if own is not None:
            own(policy_steps)

    return refresh


def make_replay_config(cfg: DictConfig) -> ReplayConfig:
    """Build the configuration of the replay."""
    sampler = make_factory(cfg.replay.sampling, "replay.sampling")
    return instantiate(cfg.replay, sampling=sampler)


def make_factory(node: DictConfig, key: str) -> Callable[..., Any]:
    """Bind the keys of a node to its `_target_`, which then takes one argument.

    Raises:
        ValueError: There is no target, or it does not take one argument and these keys.
    """
    if "_target_" not in node:
        raise ValueError(f"`{key}` must have a `_target_`, got {node}")
    make = instantiate(node, _partial_=True, _convert_="all")
    try:
        inspect.signature(make.func).bind(None, *make.args, **make.keywords)
    except TypeError as error:
        raise ValueError(f"`{key}` cannot be built from {node._target_}: {error}") from error
    return make


def make_evaluation_policies(cfg: DictConfig, agent: DreamerAgent) -> dict[str, DreamerPolicy]:
    """Build the policies for evaluations during a run, those of all actors, by name.

    They act with modes, unless the agent samples actions in evaluations, too.
    """
    actors, samples = actors_of(agent), agent.samples_in_evaluation
    if has_cuda_graphs(cfg):
        return {
            name: CapturedPolicy(
                agent.world_model, actor, sample_actions=samples, make_capture=CudaCapture
            )
            for name, actor in actors.items()
        }
    return {
        name: DreamerPolicy(agent.world_model, actor, sample_actions=samples)
        for name, actor in actors.items()
    }


def has_cuda_graphs(cfg: DictConfig) -> bool:
    """Whether updates and policy calls are captured as CUDA graphs."""
    return bool(cfg.get("cuda_graphs"))  # older runs do not have the key


def make_loggers(
    cfg: DictConfig,
    folder: RunFolder,
    envs: VectorEnvs,
    resume: ResumePoint | None,
    on_failure: Callable[[str, BaseException], None],
) -> list[GuardedLogger]:
    """Build the loggers, without changing earlier logs of a resumed run.

    A logger that fails does not end the run; `on_failure` gets its name and what it raised.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    run = RunDescription(
        root=expanded(cfg.root),
        env=cfg.env_name,
        task=cfg.task,
        variant=folder.variant,
        seed=cfg.seed,
        config=plain,
        reference_returns=envs.reference_returns,
        resumed_at=resume.count(counter_of(cfg)) if resume else None,
        sweep=os.environ.get(SWEEP),
        counter=counter_of(cfg),
    )
    loggers = []
    # W&B, which starts its run at once, comes last, so that none starts if another logger fails.
    chosen = [(name, config) for name, config in cfg.logger.items() if config]  # null: no logger
    for name, config in sorted(chosen, key=lambda item: item[0] == "wandb"):
        make = instantiate(config)
        options = {"run": run} if "run" in inspect.signature(make).parameters else {}
        try:
            logger = make(folder.path, **options)
        except (ImportError, TypeError, ValueError):  # of the configuration
            raise
        except Exception as error:
            on_failure(f"the logger {name}", error)
        else:
            loggers.append(GuardedLogger(logger, on_failure))
    return loggers


def choose_precision(cfg: DictConfig) -> str:
    """Return the precision of the networks.

    `auto` is float32 without CUDA, bfloat16 on devices that have it, and else float16: older ones,
    such as T4 and V100, only emulate bfloat16.
    """
    if cfg.precision != "auto":
        return cfg.precision
    if not on_cuda(cfg):
        return "32-true"
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_bf16 else "16-mixed"


def make_trainer(cfg: DictConfig, **options: Any) -> pl.Trainer:
    """Build Lightning's Trainer for the device and the precision of the run.

    Raises:
        ValueError: the configuration has plugins, and the precision needs one.
    """
    accelerator = choose_accelerator(cfg)
    device = accelerator if accelerator in ("cpu", "mps") else "cuda"
    precision = trainer_options(choose_precision(cfg), device)
    if "plugins" in precision and cfg.trainer.get("plugins"):
        raise ValueError(
            f"`trainer.plugins` must be null with precision=16-mixed, got {cfg.trainer.plugins}"
        )
    return instantiate(cfg.trainer, accelerator=accelerator, **precision, **options)


def choose_accelerator(cfg: DictConfig) -> str:
    """Return the Trainer's accelerator; `auto` never is MPS, which Lightning would prefer."""
    if cfg.trainer.accelerator != "auto":
        return cfg.trainer.accelerator
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(cfg: DictConfig) -> None:
    """Raise a ValueError if the device does not support the configuration."""
    check_one_device(cfg, available=torch.cuda.device_count() if on_cuda(cfg) else 1)
    if cfg.cuda_graphs and not on_cuda(cfg):
        raise ValueError(
            "`cuda_graphs` must be false without a CUDA device, got true with "
            f"trainer.accelerator={cfg.trainer.accelerator} and "
            f"{torch.cuda.device_count()} CUDA devices"
        )


def apply_kernels(cfg: DictConfig, agent: DreamerAgent) -> list[str]:
    """Switch the agent to faster kernels if `kernels` is auto; return their names."""
    if cfg.kernels == "plain":
        return []
    return optimize(agent, torch.device("cuda" if on_cuda(cfg) else "cpu"))


def on_cuda(cfg: DictConfig) -> bool:
    """Whether the Trainer will choose a CUDA device."""
    return torch.cuda.is_available() and cfg.trainer.accelerator in ("auto", "gpu", "cuda")
