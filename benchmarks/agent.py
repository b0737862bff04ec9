"""Our agent at one of the sizes, as `train.py` builds it, and random batches.

The benchmarks of the update and of acting and the profile use it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from benchmarks.peers.sizes import Size
from dreamer.agent import DreamerAgent
from dreamer.run import build
from dreamer.run.config import checked
from dreamer.types import ActionSpace, Batch

CONF = Path(__file__).parent.parent / "conf"
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}  # Lightning's names of the devices


def configuration(size: Size, settings: Sequence[str] = (), *, device: str = "cpu") -> DictConfig:
    """Compose the configuration of `train.py env=atari` at a size, with more Hydra overrides."""
    overrides = [
        "env=atari",
        "task=pong",
        f"trainer.accelerator={ACCELERATORS[device]}",
        f"batch.size={size.batch_size}",
        f"batch.length={size.batch_length}",
        f"model.horizon={size.horizon}",
        f"stochastic.variables={size.variables}",
        f"stochastic.classes={size.classes}",
        *(f"sizes.{k}={getattr(size, k)}" for k in ("deter", "hidden", "units", "layers", "depth")),
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return checked(compose("train", [*overrides, *settings]))


@dataclass
class _Spaces:
    """What an environment would tell the agent."""

    obs_shapes: dict[str, tuple[int, ...]]
    action_space: ActionSpace


def make_agent(
    size: Size, cfg: DictConfig, more_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> DreamerAgent:
    """Build the agent for grey or coloured images, more observations and discrete actions."""
    shapes = {"image": (size.channels, 64, 64), **(more_shapes or {})}
    space = ActionSpace(size.actions, discrete=True)
    return build.make_agent(cfg, _Spaces(shapes, space))


def make_trainer(device: str, precision: str, callback: pl.Callback) -> pl.Trainer:
    """Build Lightning's Trainer for one epoch, without loggers and checkpoints."""
    return pl.Trainer(
        accelerator=ACCELERATORS[device],
        devices=1,
        precision=precision,  # pyright: ignore[reportArgumentType]
        max_epochs=1,
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def random_batch(size: Size) -> Batch:
    """Make a batch (T, B, ...) of noise, with a start and an end of an episode every 50 steps."""
    length, count = size.batch_length, size.batch_size
    image = torch.randint(256, (length, count, size.channels, 64, 64), dtype=torch.uint8)
    action = F.one_hot(torch.randint(size.actions, (length, count)), size.actions).float()
    is_first, is_terminal = torch.rand(2, length, count) < 0.02
    is_first[0] = True
    return Batch({"image": image}, action, torch.randn(length, count), is_first, is_terminal)
