"""The lines that are printed before a run: its parts, folders, device and estimated cost."""

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from dreamer.agent import DreamerAgent
from dreamer.envs.base import VectorEnvs
from dreamer.replay.mixture import AnyReplay
from dreamer.run.choices import choice_of
from dreamer.run.cost import Cost, describe_cost, describe_samples
from dreamer.run.experience import stored_in
from dreamer.run.folder import ResumePoint, RunFolder
from dreamer.run.offline import has_no_environment, is_offline
from dreamer.types import ActionSpace, visible


def print_header(
    cfg: DictConfig,
    folder: RunFolder,
    envs: VectorEnvs,
    agent: DreamerAgent,
    replay: AnyReplay,
    trainer: pl.Trainer,
    resume: ResumePoint | None,
    *,
    cost: Cost | None,
    kernels: Sequence[str],
    sources: Mapping[str, str],
) -> None:
    """Print environment, spaces, keys, parameters, device, disk, schedule and estimated cost.

    `sources` has lines, by name, about the earlier runs from which this one starts.
    """
    model, heads = agent.world_model, agent.actor_critic
    shapes = ", ".join(f"{k} {tuple(s)}" for k, s in visible(envs.obs_shapes).items())
    hidden = [key for key in envs.obs_shapes if key not in visible(envs.obs_shapes)]
    images, vectors = model.encoder.image_keys, model.encoder.vector_keys
    device = trainer.strategy.root_device
    resumed = ""
    if resume:
        at = f"update {resume.updates:,}" if is_offline(cfg) else f"frame {resume.frames:,}"
        resumed = f" (resumed at {at})"
    lines = {
        "run": f"{folder.path}{resumed}",
        "environment": f"{cfg.env_name} / {cfg.task}, {_describe_collection(cfg, envs)}",
        "observations": f"{shapes}; as images: {', '.join(images) or 'none'}; "
        f"as vectors: {', '.join(vectors) or 'none'}"
        + (f"; for probes only: {', '.join(hidden)}" if hidden else ""),
        "actions": describe_actions(envs.action_space),
        "parameters": f"world model {_millions(model)}, actor {_millions(heads.actor)}, "
        f"critic {_millions(heads.critic)}"
        + "".join(f", {name} {_millions(part)}" for name, part in agent.components.items()),
        **sources,
        "device": f"{device}, precision {trainer.precision}, {torch.get_num_threads()} threads"
        + (f", kernels {', '.join(kernels)}" if kernels else ", plain models"),
        "replay": f"{replay.size_bytes / 2**30:.2f} GiB on disk when full, in "
        + " and ".join(map(str, directories_of(cfg, folder))),
        "schedule": _describe_schedule(cfg),
    }
    if cfg.explore and not is_offline(cfg):
        lines["exploration"] = describe_exploration(cfg, envs.action_repeat)
    if agent.config.world_model.iwae_samples > 1:
        lines["samples"] = describe_samples(agent, cfg.batch.size, cfg.batch.length)
    if cost is not None:
        lines["cost"] = describe_cost(cost)
    for name, line in lines.items():
        print("\n".join(_rows(name, line)))


def directories_of(cfg: DictConfig, folder: RunFolder) -> list[Path]:
    """Return the directories that hold the steps of a run."""
    if is_offline(cfg):
        return [folder.replay if folder.replay in stored_in(cfg, folder) else folder.stored]
    return [folder.replay, folder.stored] if cfg.data.mix else [folder.replay]


def _describe_collection(cfg: DictConfig, envs: VectorEnvs) -> str:
    if has_no_environment(cfg):
        return "which is not there: no evaluation"
    if is_offline(cfg):
        return "for evaluation only"
    return f"{envs.count} at once, {envs.action_repeat} frames per policy step"


def _describe_schedule(cfg: DictConfig) -> str:
    batch = f"{cfg.batch.size} x {cfg.batch.length} steps"
    if is_offline(cfg):
        return f"{cfg.total_updates:,} updates of {batch} from stored data"
    mixed = f", {cfg.data.mix:.0%} of them stored," if cfg.data.mix else ""
    return (
        f"{cfg.total_frames:,} frames; {cfg.prefill_policy_steps:,} random policy steps, then an "
        f"update of {batch}{mixed} every {cfg.train_every_policy_steps}"
    )


def _rows(name: str, line: str) -> list[str]:
    """Return one row, or several in a terminal that is too narrow; only long words are cut."""
    first = f"{name:>13}  "
    if not sys.stdout.isatty():
        return [first + line]
    return textwrap.wrap(
        line,
        max(shutil.get_terminal_size().columns, 2 * len(first)),
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_on_hyphens=False,
    )


def describe_exploration(cfg: DictConfig, action_repeat: int) -> str:
    """Describe in a few words who collects, and until when."""
    name, until = choice_of(cfg, "explore"), cfg.explore.get("until_frames")
    if "until_frames" not in cfg.explore:
        weight = f", which lowers imagined rewards with weight {cfg.data.pessimism:g}"
        return f"{name} learns{weight if cfg.data.pessimism else ''}; it collects nothing"
    if choice_of(cfg, "collect_policy") != "actor":
        return f"{name} learns; collect_policy chooses who collects"
    if until is None:
        return f"{name} collects after the prefill, to the end"
    if until <= cfg.prefill_policy_steps * action_repeat:
        return f"{name} never collects: explore.until_frames={until:,} is within the prefill"
    return f"{name} collects until frame {until:,}, then the actor"


def describe_actions(space: ActionSpace) -> str:
    """Describe an action space in a few words."""
    if space.choices:
        return f"{len(space.choices)} choices at once, among {', '.join(map(str, space.choices))}"
    return f"{space.size} {'discrete' if space.discrete else 'continuous'}"


def _millions(module: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M"
