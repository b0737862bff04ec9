"""Our agent at one of the sizes, with random experience, as the command line would build it.

The benchmarks of the update and of acting use it, and the profile.
"""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmarks.peers.sizes import Size
from dreamer.agent import DreamerAgent
from dreamer.run.build import record_updates
from dreamer.run.config import checked
from dreamer.types import ActionSpace, Batch

CONF = Path(__file__).parent.parent / "conf"
ACCELERATORS = {"cpu": "cpu", "cuda": "gpu"}  # Lightning's names of our devices


def configuration(size: Size, settings: Sequence[str] = (), *, device: str = "cpu") -> DictConfig:
    """The configuration of `train.py env=atari` at a size, and further Hydra overrides."""
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


def make_agent(size: Size, cfg: DictConfig) -> DreamerAgent:
    """The agent for grey or coloured images and discrete actions."""
    shapes = {"image": (size.channels, 64, 64)}
    config = instantiate(cfg.model, _convert_="all")
    space = ActionSpace(size.actions, discrete=True)
    agent = DreamerAgent(config, shapes, space)
    record_updates(cfg, agent)
    return agent


def make_trainer(device: str, precision: str, callback: pl.Callback) -> pl.Trainer:
    """Lightning's Trainer for one epoch, without loggers and checkpoints."""
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
    """A batch (T, B, ...) of noise, in which about one episode in fifty steps begins and ends."""
    length, count = size.batch_length, size.batch_size
    image = torch.randint(256, (length, count, size.channels, 64, 64), dtype=torch.uint8)
    action = F.one_hot(torch.randint(size.actions, (length, count)), size.actions).float()
    is_first, is_terminal = torch.rand(2, length, count) < 0.02
    is_first[0] = True
    return Batch({"image": image}, action, torch.randn(length, count), is_first, is_terminal)
