"""What a configuration may say, checked before anything is built.

The runner asks for it first. It knows the keys of conf/, but nothing that is built from them.
"""

import difflib
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from dreamer.choices import with_named
from dreamer.command_line import replacement
from dreamer.paths import CONF

COUNT = 2**53  # the largest that every step on its way, a float among them, holds exactly
WHOLE_NUMBERS = {  # and the largest value of each
    "seed": 2**32 - 1,  # NumPy's global generator takes no more
    "total_frames": COUNT,
    "prefill_policy_steps": COUNT,
    "pretrain_updates": COUNT,
    "train_every_policy_steps": COUNT,
    "batch.size": COUNT,
    "batch.length": COUNT,
}
CHOICES = {
    "precision": ("auto", "32-true", "bf16-mixed"),
    "kernels": ("auto", "plain"),
    "cuda_graphs": (True, False),
    "image_gradients": (True, False),
    "reward_gradients": (True, False),
    "layer_norm": (True, False),
    "actor_gradient": ("auto", "reinforce", "dynamics", "both"),
    "collect.where": ("local", "none"),
    "collect.overlap": (True, False),
}
# Top-level keys that come with a group of conf/, not with conf/train.yaml.
GROUP_KEYS = {
    *("latents", "model", "env", "replay", "trainer", "callbacks", "logger"),
    *("env_name", "stochastic", "sizes", "collect_policy", "collect", "explore"),
}


def _kl_share(value: bool | float) -> float:
    """What the switch `kl_balance` means: true is the paper's share, false the plain KL."""
    if isinstance(value, bool):
        return 0.8 if value else 0.5
    return value


OmegaConf.register_new_resolver("kl_share", _kl_share, replace=True)


def checked(cfg: DictConfig) -> DictConfig:
    """The configuration, resolved and read-only, or an error that names what is wrong with it."""
    if OmegaConf.is_missing(cfg, "task"):
        raise ValueError(
            "Expect a `task`, actually there is none. For example: task=pong, or "
            "env=dummy task=memory"
        )
    cfg = with_named(cfg)
    known = {str(key) for key in OmegaConf.load(CONF / "train.yaml")} | GROUP_KEYS
    for key in cfg.keys() - known:
        if remedy := replacement(str(key)):
            raise ValueError(f"Unknown key `{key}`. {remedy}")
        nearest = difflib.get_close_matches(str(key), known) or sorted(known)
        raise ValueError(f"Unknown key `{key}`. The nearest: {', '.join(nearest)}")
    for key, largest in WHOLE_NUMBERS.items():
        value = OmegaConf.select(cfg, key)
        if not (_is_number(value) and value >= 0 and value % 1 == 0):
            raise ValueError(f"`{key}` must be a whole number, got `{value}`")
        if value > largest:
            raise ValueError(f"`{key}` must be at most {largest}, got `{value}`")
        OmegaConf.update(cfg, key, int(value))
    for key, choices in CHOICES.items():
        value = OmegaConf.select(cfg, key)
        if value not in choices:
            raise ValueError(f"Expect `{key}` to be one of {choices}, actually: {value}")
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
    if cfg.collect.where == "none":
        raise ValueError(
            "`collect` must be local or overlap, got none: learning from stored experience alone "
            "is not supported yet"
        )
    if cfg.explore:
        raise ValueError(
            f"`explore` must be none: nothing else is supported yet, got {cfg.explore}"
        )
    OmegaConf.resolve(cfg)
    check_one_device(cfg, available=1)  # `build.check_device` knows how many there are
    OmegaConf.set_readonly(cfg, True)
    return cfg


def check_one_device(cfg: DictConfig, *, available: int) -> None:
    """Refuse more than one device, and everything else that starts further processes.

    Args:
        cfg: resolved.
        available: devices of the kind that the Trainer will choose.

    Raises:
        ValueError: naming the key and its value.
    """
    devices = cfg.trainer.get("devices", "auto")
    count = _count_devices(devices, available)
    if count != 1:
        reason = ": training on several devices is not supported yet" if count > 1 else ""
        here = f", which is {count} here" if devices in ("auto", "-1", -1, None) else ""
        raise ValueError(f"`trainer.devices` must be 1{reason}, got {devices}{here}")
    nodes = cfg.trainer.get("num_nodes", 1)
    if nodes != 1:
        raise ValueError(
            "`trainer.num_nodes` must be 1: training on several machines is not supported yet, "
            f"got {nodes}"
        )
    strategy = cfg.trainer.get("strategy", "auto")
    if strategy != "auto":
        raise ValueError(
            "`trainer.strategy` must be auto: training in several processes is not supported yet, "
            f"got {strategy}"
        )


def _count_devices(devices: Any, available: int) -> int:
    """Devices that Lightning would take; 0 where it is no number of devices at all."""
    if devices in ("auto", "-1", -1, None):
        return available
    if isinstance(devices, ListConfig):
        return len(devices)
    if "," in str(devices):
        return len([index for index in str(devices).split(",") if index.strip()])
    return int(devices) if str(devices).isdecimal() else 0


def most_updates(cfg: DictConfig, action_repeat: int) -> int:
    """Batches that a whole run learns from at most, those before a resume included."""
    policy_steps = cfg.total_frames // action_repeat - cfg.prefill_policy_steps
    return cfg.pretrain_updates + max(policy_steps, 0) // cfg.train_every_policy_steps + 2


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
