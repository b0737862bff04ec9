"""Builds a run from its configuration, and runs it.

The doors (`train.py`, `dreamer/evaluate.py`) call it. It is the one place below them that knows
Hydra and OmegaConf: everything it builds gets plain values.
"""

import difflib
import json
import logging
import random
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreamer.agent import AgentConfig, DreamerAgent
from dreamer.callbacks.checkpoint import Checkpoint
from dreamer.callbacks.collect import Collect
from dreamer.callbacks.interrupt import Interrupt
from dreamer.callbacks.metrics import Metrics
from dreamer.callbacks.progress import Progress
from dreamer.collector import Collector
from dreamer.cost import describe_cost
from dreamer.envs.factory import Envs
from dreamer.evaluation import play
from dreamer.loggers import JsonLinesLogger, finish
from dreamer.policy import DreamerPolicy, RandomPolicy
from dreamer.replay.buffer import Replay, ReplayConfig
from dreamer.replay.dataset import ReplayDataModule
from dreamer.run_folder import CONF, RunFolder
from dreamer.video import write_mp4

EVALUATION_SEED = 1_000_003  # added to the run's seed, so that it plays other episodes


def _kl_share(value: bool | float) -> float:
    """What the switch `kl_balance` means: true is the paper's share, false the plain KL."""
    if isinstance(value, bool):
        return 0.8 if value else 0.5
    return value


OmegaConf.register_new_resolver("kl_share", _kl_share, replace=True)


class Summary(NamedTuple):
    """How a run ended."""

    run_dir: str
    frames: int
    policy_steps: int
    updates: int
    metrics: dict[str, float]  # the newest value of every key


def train(cfg: DictConfig) -> Summary:
    """Run what the configuration says, or what is left of it.

    The same configuration again resumes an unfinished run, and leaves a finished one alone.

    Raises:
        ValueError: the configuration asks for something that cannot be.
        OSError: the disk is too small, or the run folder cannot be written.
        Interrupted: Ctrl-C or SIGTERM; the run is saved and can go on.
        NonFiniteError: a loss is no longer a number; the run is saved as it was before.
    """
    cfg = _checked(cfg)
    folder = RunFolder.of(cfg)
    folder.check_same_run(cfg)
    finished = folder.summary()
    if finished and finished["frames"] >= cfg.total_frames:
        print(f"{folder.path} is finished: {finished['frames']} frames. Nothing to do.")
        return Summary(**finished)
    _seed_everything(cfg.seed)
    _quiet_lightning()

    checkpoint = folder.last_checkpoint()
    # A resumed run begins new episodes, and not those of its start again.
    stream = np.random.SeedSequence([cfg.seed, folder.frames_of(checkpoint)])
    seed = int(stream.generate_state(1)[0]) % 2**31
    envs = make_envs(cfg, seed=seed)
    try:
        with folder.lock():
            return _fit(cfg, folder, envs, RandomPolicy(envs.action_space, seed), checkpoint)
    finally:
        envs.close()


def _fit(
    cfg: DictConfig,
    folder: RunFolder,
    envs: Envs,
    random_policy: RandomPolicy,
    checkpoint: Path | None,
) -> Summary:
    agent = make_agent(cfg, envs)
    replay_config: ReplayConfig = instantiate(cfg.replay)
    if checkpoint is None:
        shutil.rmtree(folder.replay, ignore_errors=True)  # of a run that had not begun to learn
    replay = Replay(
        folder.replay,
        obs_shapes=envs.obs_shapes,
        action_size=envs.action_space.size,
        env_count=envs.count,
        config=replay_config,
        seed=cfg.seed,
    )
    data = ReplayDataModule(
        replay,
        batch_size=cfg.batch.size,
        length=cfg.batch.length,
        updates=_most_updates(cfg, envs.action_repeat),
    )

    interrupt = Interrupt()
    metrics: Metrics = instantiate(cfg.callbacks.metrics)(replay)
    explorer = DreamerPolicy(
        agent.world_model,
        agent.actor_critic,
        sample_actions=True,
        exploration_noise=cfg.exploration_noise,
    )
    progress: Progress = instantiate(cfg.callbacks.progress)(metrics, total_frames=cfg.total_frames)
    collect = Collect(
        Collector(envs),
        replay,
        metrics,
        interrupt,
        random_policy=random_policy,
        policy={"actor": explorer, "random": random_policy}[cfg.collect_policy],
        action_repeat=envs.action_repeat,
        batch_length=cfg.batch.length,
        total_frames=cfg.total_frames,
        prefill_policy_steps=cfg.prefill_policy_steps,
        pretrain_updates=cfg.pretrain_updates,
        train_every_policy_steps=cfg.train_every_policy_steps,
        on_frames=progress.advance,
    )
    callbacks: list[pl.Callback] = [collect, metrics]
    if cfg.callbacks.evaluate:
        callbacks.append(
            instantiate(cfg.callbacks.evaluate)(
                lambda: make_envs(
                    cfg, seed=cfg.seed + EVALUATION_SEED, count=cfg.callbacks.evaluate.episodes
                ),
                DreamerPolicy(agent.world_model, agent.actor_critic, sample_actions=False),
                metrics,
                interrupt,
                folder.path,
            )
        )
    if cfg.callbacks.video:
        callbacks.append(instantiate(cfg.callbacks.video)(folder.path))
    saver: Checkpoint = instantiate(cfg.callbacks.checkpoint)(folder.checkpoints, metrics)
    callbacks += [saver, progress, interrupt]

    precision = _precision(cfg)
    folder.begin(cfg)
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        precision=precision,
        logger=_make_loggers(cfg, folder, checkpoint),
        callbacks=callbacks,
        default_root_dir=folder.path,
    )
    _describe(cfg, folder, envs, agent, replay, trainer, checkpoint)
    start, exit_code = time.time(), 1
    try:
        trainer.fit(agent, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        exit_code = 0
    finally:
        progress.close()
        finish(trainer.loggers, exit_code=exit_code)
    summary = Summary(
        str(folder.path), agent.frames, agent.policy_steps, agent.updates, metrics.latest
    )
    folder.finish(summary._asdict())
    print(
        f"Finished after {time.time() - start:.0f} s: {agent.frames} frames, {agent.updates} "
        f"updates, evaluation return {metrics.latest.get('eval/return_mean', float('nan')):.2f}. "
        f"Results: {folder.path}"
    )
    return summary


def make_envs(cfg: DictConfig, *, seed: int, count: int | None = None) -> Envs:
    """Build a group of environments; `count` replaces that of the configuration."""
    options = {"seed": seed} | ({} if count is None else {"count": count})
    return instantiate(cfg.env, **options)


def make_agent(cfg: DictConfig, envs: Envs) -> DreamerAgent:
    """Build the agent that fits what the environments show and accept."""
    config: AgentConfig = instantiate(cfg.model, _convert_="all")
    return DreamerAgent(config, envs.obs_shapes, envs.action_space)


class Player(NamedTuple):
    """A trained agent, ready to act: `action, state = player.policy(step, state)`."""

    policy: DreamerPolicy
    agent: DreamerAgent
    cfg: DictConfig  # of the run


def load(run_dir: Path | str, checkpoint: str = "best", *, sample_actions: bool = False) -> Player:
    """Load the agent of a run folder, on the CPU.

    A run folder is code: its configuration says what is built. Load none that you do not trust.
    Weights are read as tensors and plain types.

    Args:
        run_dir: of a finished or running run.
        checkpoint: `best`, or `last` where there is none; or `last`.
        sample_actions: act as in training, not with the actor's mode.

    Raises:
        FileNotFoundError: there is no such run or checkpoint.
        ValueError: the checkpoint is damaged or not of this agent.
    """
    if checkpoint not in ("best", "last"):
        raise ValueError(f"Expect `checkpoint` to be best or last, actually: {checkpoint}")
    folder = RunFolder(Path(run_dir))
    cfg = folder.config()
    path = folder.checkpoints / f"{checkpoint}.ckpt"
    state = folder.read_checkpoint(path if path.exists() else folder.checkpoints / "last.ckpt")
    envs = make_envs(cfg, seed=cfg.seed, count=1)
    agent = make_agent(cfg, envs)
    envs.close()
    try:
        agent.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{path} is not a checkpoint of the agent in config.yaml") from error
    agent.on_load_checkpoint(state)
    agent.eval()
    policy = DreamerPolicy(agent.world_model, agent.actor_critic, sample_actions=sample_actions)
    return Player(policy, agent, cfg)


def evaluate(
    run_dir: Path,
    *,
    episodes: int,
    checkpoint: str,
    seed: int,
    sample_actions: bool,
    video_policy_steps: int,
    video_fps: int,
) -> dict[str, Any]:
    """Play whole episodes with the agent of a run folder.

    Args:
        run_dir: of a finished or running run.
        episodes: played in all, up to 10 at once.
        checkpoint: see `load`.
        seed: of the environments and the latent samples.
        sample_actions: see `load`.
        video_policy_steps: filmed at most; 0: no video.
        video_fps: pictures a second.

    Returns:
        Scores, every raw return, and where they and the video were written.
    """
    if episodes < 1:
        raise ValueError(f"Expect `episodes` to be at least 1, actually: {episodes}")
    player = load(run_dir, checkpoint, sample_actions=sample_actions)
    _seed_everything(seed)
    envs = make_envs(player.cfg, seed=seed + EVALUATION_SEED, count=min(episodes, 10))
    try:
        result = play(envs, player.policy, episodes, video_steps=video_policy_steps)
    finally:
        envs.close()
    frames = player.agent.frames
    scores: dict[str, Any] = {"frames": frames, "checkpoint": checkpoint} | result.summary()
    scores["returns"] = [e.episode_return for e in result.episodes]
    if result.images is not None:
        path = Path(run_dir) / "videos" / f"evaluation_{frames:010d}.mp4"
        write_mp4(path, result.images, fps=video_fps)
        scores["video"] = str(path)
    (Path(run_dir) / "evaluation.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores


def _checked(cfg: DictConfig) -> DictConfig:
    """The configuration, resolved and read-only, or an error that names what is wrong with it."""
    if OmegaConf.is_missing(cfg, "task"):
        raise ValueError(
            "Expect a `task`, actually there is none. For example: task=pong, or "
            "env=dummy task=memory"
        )
    cfg = cfg.copy()
    known = {str(key) for key in OmegaConf.load(CONF / "train.yaml")} | GROUP_KEYS
    for key in cfg.keys() - known:
        nearest = difflib.get_close_matches(str(key), known) or sorted(known)
        raise ValueError(f"Unknown key `{key}`. The nearest: {', '.join(nearest)}")
    for key in WHOLE_NUMBERS:
        value = OmegaConf.select(cfg, key)
        if not (_is_number(value) and value >= 0 and float(value).is_integer()):
            raise ValueError(f"Expect `{key}` to be a whole number, actually: {value}")
        OmegaConf.update(cfg, key, int(value))
    for key, choices in CHOICES.items():
        if cfg[key] not in choices:
            raise ValueError(f"Expect `{key}` to be one of {choices}, actually: {cfg[key]}")
    balance = cfg.kl_balance
    if not (isinstance(balance, bool) or (_is_number(balance) and 0 < balance < 1)):
        raise ValueError(f"Expect `kl_balance` to be true, false or in (0, 1), actually: {balance}")
    if cfg.train_every_policy_steps < 1:
        raise ValueError(
            "Expect `train_every_policy_steps` to be at least 1, "
            f"actually: {cfg.train_every_policy_steps}"
        )
    if cfg.batch.size < 1 or cfg.batch.length < 2:
        raise ValueError(
            f"Expect `batch.size` >= 1 and `batch.length` >= 2, "
            f"actually: {cfg.batch.size}, {cfg.batch.length}"
        )
    OmegaConf.resolve(cfg)
    OmegaConf.set_readonly(cfg, True)
    return cfg


WHOLE_NUMBERS = (
    "seed",
    "total_frames",
    "prefill_policy_steps",
    "pretrain_updates",
    "train_every_policy_steps",
    "batch.size",
    "batch.length",
)
CHOICES = {
    "precision": ("auto", "32-true", "bf16-mixed"),
    "image_gradients": (True, False),
    "reward_gradients": (True, False),
    "layer_norm": (True, False),
    "actor_gradient": ("auto", "reinforce", "dynamics", "both"),
    "collect_policy": ("actor", "random"),
}
# Top-level keys that come with a group of conf/, not with conf/train.yaml.
GROUP_KEYS = {
    *("latents", "model", "env", "replay", "trainer", "callbacks", "logger"),
    *("env_name", "stochastic", "sizes"),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _most_updates(cfg: DictConfig, action_repeat: int) -> int:
    policy_steps = cfg.total_frames // action_repeat - cfg.prefill_policy_steps
    return cfg.pretrain_updates + max(policy_steps, 0) // cfg.train_every_policy_steps + 2


def _precision(cfg: DictConfig) -> str:
    if cfg.precision != "auto":
        return cfg.precision
    on_cuda = torch.cuda.is_available() and cfg.trainer.accelerator in ("auto", "gpu", "cuda")
    return "bf16-mixed" if on_cuda else "32-true"


def _make_loggers(cfg: DictConfig, folder: RunFolder, checkpoint: Path | None) -> list[Any]:
    loggers = []
    for name, config in cfg.logger.items():
        options: dict[str, Any] = {}
        if name == "wandb":
            options = {
                "group": f"{cfg.env_name}/{cfg.task}",
                "job_type": folder.variant,
                "name": f"{folder.variant}-{cfg.task}-seed{cfg.seed}",
                "tags": [cfg.env_name, cfg.task, folder.variant, *cfg.logger.wandb.tags],
            }
        logger = instantiate(config)(folder.path, **options)
        if isinstance(logger, JsonLinesLogger):
            logger.truncate(folder.frames_of(checkpoint))
        loggers.append(logger)
    return loggers


def _seed_everything(seed: int) -> None:
    """The one place that touches global generators; torch's decides all of the agent's draws."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _quiet_lightning() -> None:
    """Hush what the Trainer says to everybody; our own lines say what is being built."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*is inside the.*",
        ".*is smaller than the logging interval.*",
        ".*Your `IterableDataset` has `__len__` defined.*",
        ".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", message)


def _describe(
    cfg: DictConfig,
    folder: RunFolder,
    envs: Envs,
    agent: DreamerAgent,
    replay: Replay,
    trainer: pl.Trainer,
    checkpoint: Path | None,
) -> None:
    """Tell the person at the terminal what is being built."""
    model = agent.world_model
    kind = "discrete" if envs.action_space.discrete else "continuous"
    count: Callable[[torch.nn.Module], str] = lambda m: f"{_parameters(m) / 1e6:.2f} M"  # noqa: E731
    encoder = model.encoder
    lines: Mapping[str, str] = {
        "run": f"{folder.path}"
        + (f" (resumed at frame {folder.frames_of(checkpoint)})" if checkpoint else ""),
        "environment": f"{cfg.env_name} / {cfg.task}, {envs.count} at once, "
        f"{envs.action_repeat} frames a policy step",
        "observations": ", ".join(f"{k} {tuple(s)}" for k, s in envs.obs_shapes.items())
        + f"; as images: {', '.join(encoder.image_keys) or 'none'}"
        + f"; as vectors: {', '.join(encoder.vector_keys) or 'none'}",
        "actions": f"{envs.action_space.size} {kind}",
        "parameters": f"world model {count(model)}, actor {count(agent.actor_critic.actor)}, "
        f"critic {count(agent.actor_critic.critic)}",
        "device": f"{trainer.strategy.root_device}, precision {trainer.precision}, "
        f"{torch.get_num_threads()} threads",
        "replay": f"{replay.size_bytes / 2**30:.2f} GiB on disk when full, in {folder.replay}",
        "schedule": f"{cfg.total_frames:,} frames; {cfg.prefill_policy_steps:,} random policy "
        f"steps, then an update of {cfg.batch.size} x {cfg.batch.length} steps every "
        f"{cfg.train_every_policy_steps}",
    }
    for name, line in lines.items():
        print(f"{name:>13}  {line}")
    if trainer.strategy.root_device.type == "cpu":
        left = _most_updates(cfg, envs.action_repeat) - agent.updates
        print(f"{'cost':>13}  {describe_cost(agent, cfg.batch.size, cfg.batch.length, left)}")


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
