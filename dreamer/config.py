"""What a configuration may say, checked before anything is built.

The runner asks for it first. It knows the keys of conf/, but nothing that is built from them.
"""

import difflib
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreamer.paths import CONF

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
    "compile": ("auto", True, False),
    "cuda_graphs": (True, False),
    "image_gradients": (True, False),
    "reward_gradients": (True, False),
    "layer_norm": (True, False),
    "actor_gradient": ("auto", "reinforce", "dynamics", "both"),
    "collect_policy": ("actor", "random"),
    "collect.overlap": (True, False),
}
# Top-level keys that come with a group of conf/, not with conf/train.yaml.
GROUP_KEYS = {
    *("latents", "model", "env", "replay", "trainer", "callbacks", "logger"),
    *("env_name", "stochastic", "sizes"),
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
    OmegaConf.resolve(cfg)
    OmegaConf.set_readonly(cfg, True)
    return cfg


def most_updates(cfg: DictConfig, action_repeat: int) -> int:
    """Batches that a whole run learns from at most, those before a resume included."""
    policy_steps = cfg.total_frames // action_repeat - cfg.prefill_policy_steps
    return cfg.pretrain_updates + max(policy_steps, 0) // cfg.train_every_policy_steps + 2


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
