"""What a configuration may say, checked before anything is built.

The runner asks for it first. `settings.py` and the classes that a configuration names declare the
keys; here are the checks that relate several keys, or a key and the machine.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamer.run.choices import with_named
from dreamer.run.overrides import replacement
from dreamer.run.settings import TrainSettings
from dreamer.schema.validation import validate
from dreamer.schema.words import UnknownKey


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
    plain = to_plain(with_named(cfg))
    plain["logger"] = plain.get("logger") or {}  # null: none at all
    if isinstance(plain.get("trainer"), dict):
        # `build.check_device` knows how many devices there are.
        check_one_device(OmegaConf.create(plain), available=1)
    try:
        cfg = OmegaConf.create(validate(plain, TrainSettings))
    except UnknownKey as error:
        remedy = replacement(error.key)
        if remedy is None:
            raise
        raise ValueError(f"Unknown key `{error.key}`. {remedy}") from None
    if cfg.collect.where == "none":
        raise ValueError(
            "`collect` must be local or overlap, got none: learning from stored experience alone "
            "is not supported yet"
        )
    if cfg.explore:
        raise ValueError(
            f"`explore` must be none: nothing else is supported yet, got {cfg.explore}"
        )
    OmegaConf.set_readonly(cfg, True)
    return cfg


def checked_settings(cfg: DictConfig, declared: type) -> DictConfig:
    """The same for a command other than training, whose keys a dataclass declares."""
    return OmegaConf.create(validate(to_plain(cfg), declared))


@contextmanager
def reasons() -> Iterator[None]:
    """Raise what hindered Hydra from building an object, not Hydra's exception.

    What is no ValueError, OSError, ImportError or fault of an environment becomes a ValueError that
    names the node.
    """
    try:
        yield
    except InstantiationException as error:
        from dreamer.envs.group import EnvironmentFault  # slow

        reason = error.__cause__
        if isinstance(reason, ValueError | OSError | ImportError | EnvironmentFault):
            raise reason from None
        where = re.search(r"full_key: (\S+)", str(error))
        name = f"`{where[1]}`" if where else "The object"
        told = f"{type(reason).__name__}: {reason}" if reason else str(error).split("\n")[0]
        raise ValueError(f"{name} cannot be built: {told}") from reason or error


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """What a configuration says, as plain values.

    Raises:
        ValueError: a value that is interpolated has none.
    """
    try:
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        where = f"`{error.full_key}` cannot be resolved: " if error.full_key else ""
        raise ValueError(where + " ".join(str(error).split("\n")[0].split())) from error
    return plain


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
