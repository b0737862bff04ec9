"""Checks a configuration before anything is built.

`settings.py` and the classes that a configuration names declare the keys. This file has the checks
that relate several keys, or a key and the machine.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamer.run.choices import choice_of, with_named
from dreamer.run.offline import (
    check_data,
    count_updates,
    data_name,
    is_offline,
    with_absolute_addresses,
    without_environment,
)
from dreamer.run.overrides import replacement
from dreamer.run.paths import absolute
from dreamer.run.settings import TrainSettings
from dreamer.schema.validation import Reader, imported, in_source, validate
from dreamer.schema.words import UnknownKey


def _kl_share(value: bool | float) -> float:
    """Convert the switch `kl_balance`: true is the paper's value, false the plain KL."""
    if isinstance(value, bool):
        return 0.8 if value else 0.5
    return value


def _given(key: str, *, _root_: DictConfig) -> bool:
    """Whether a key has a value; it may be missing."""
    return OmegaConf.select(_root_, key) is not None


OmegaConf.register_new_resolver("kl_share", _kl_share, replace=True)
OmegaConf.register_new_resolver("given", _given, replace=True)
OmegaConf.register_new_resolver("data_name", data_name, replace=True)


def check_values(cfg: DictConfig) -> None:
    """Check the keys and values of a configuration without importing torch, which takes seconds.

    `checked` checks more: classes of users, and what depends on imported classes.

    Raises:
        ValueError: A key is unknown or missing, or a value is not allowed.
    """
    _validated(cfg, in_source)


def checked(cfg: DictConfig) -> DictConfig:
    """Return the validated configuration, resolved and read-only.

    Raises:
        ValueError: A key is unknown or missing, or a value is not allowed.
    """
    cfg = _validated(cfg, imported)
    _check_sequences(cfg)
    OmegaConf.set_readonly(cfg, True)
    return cfg


def _validated(cfg: DictConfig, read: Reader) -> DictConfig:
    """Return the resolved configuration, with values of the declared types."""
    if OmegaConf.is_missing(cfg, "task"):
        raise ValueError(
            "`task` is missing. For example: env=atari task=pong, or env=dummy task=memory"
        )
    plain = to_plain(with_named(cfg))
    plain["logger"] = plain.get("logger") or {}  # null: no logger
    without_environment(plain)
    if isinstance(plain.get("trainer"), dict):
        # `build.check_device` checks again with the number of devices.
        check_one_device(OmegaConf.create(plain), available=1)
    try:
        cfg = OmegaConf.create(validate(plain, TrainSettings, read=read))
    except UnknownKey as error:
        remedy = replacement(error.key)
        if remedy is None:
            raise
        raise ValueError(f"Unknown key `{error.key}`. {remedy}") from None
    _check_exploration(cfg)
    if cfg.data.pessimism and not cfg.model.get("pessimism"):
        raise ValueError(
            "`model.pessimism` must be ${data.pessimism} in a model of your own, got "
            f"{cfg.model.get('pessimism')} with data.pessimism={cfg.data.pessimism:g}"
        )
    if cfg.probe_gradients and not cfg.probe:
        raise ValueError("`probe_gradients` must be false with probe=none, got true")
    _check_start(cfg)
    check_data(cfg)
    if is_offline(cfg):
        count_updates(cfg)
    return cfg


def _check_sequences(cfg: DictConfig) -> None:
    """Check that states are carried only where sequences continue, and that streams can be cut.

    Raises:
        ValueError: The combination cannot work.
    """
    from dreamer.replay.buffer import check_carry_state  # slow: torch
    from dreamer.replay.streams import (
        SequentialSampler,
        check_across_episodes,
        check_reset_interval,
    )

    target = cfg.replay.sampling.get("_target_")
    check_carry_state(cfg.replay.get("carry_state", False), target and get_object(target))
    if target and get_object(target) is SequentialSampler:
        check_reset_interval(cfg.replay.sampling.reset_interval, cfg.batch.length)
        check_across_episodes(cfg.replay.across_episodes)
    if cfg.replay.get("carry_state") and not cfg.model.get("carry_state"):
        raise ValueError(
            "`model.carry_state` must be ${replay.carry_state} in a model of your own, got "
            f"{cfg.model.get('carry_state')} with replay.carry_state=true"
        )


def _check_start(cfg: DictConfig) -> None:
    """Check the keys of fine-tuning, and make their paths and those of data absolute.

    So a run does not depend on the folder in which its command is repeated.
    """
    if cfg.init_from is not None:
        if not cfg.init_from:  # would be the current folder
            raise ValueError("`init_from` must be a path or null, got ''")
        cfg.init_from = str(absolute(cfg.init_from))
    with_absolute_addresses(cfg)
    if cfg.init_from is None and cfg.init_weights != "all":
        raise ValueError(
            f"`init_weights` must be all without init_from, got {cfg.init_weights}. Set "
            "init_from=<run folder or checkpoint>."
        )
    if not is_offline(cfg) and cfg.data.prefill is None and cfg.prefill_policy_steps < 1:
        raise ValueError(
            "`prefill_policy_steps` must be at least 1 without data.prefill, got "
            f"{cfg.prefill_policy_steps}"
        )


def _check_exploration(cfg: DictConfig) -> None:
    """Check that the explorer collects with the policy that the configuration chooses.

    Raises:
        ValueError: The combination cannot work.
    """
    if not cfg.explore:
        return
    if "_target_" not in cfg.explore:
        raise ValueError(
            "`explore` must be the name of a file in conf/explore, or a node with `_target_`, "
            f"got {cfg.explore}"
        )
    offset = cfg.explore.get("offset", 0)
    if offset >= cfg.batch.length:
        raise ValueError(
            f"`explore.offset` must be less than batch.length, {cfg.batch.length}, got {offset}"
        )
    if "until_frames" not in cfg.explore:  # an ensemble alone, which collects nothing
        return
    policy, explorer = choice_of(cfg, "collect_policy"), choice_of(cfg, "explore")
    if policy == "random":
        raise ValueError(
            f"`collect_policy` must be actor with explore={explorer}, got random: the explorer "
            "would never collect. For random actions that train an agent, use explore=random."
        )
    if policy != "actor" and cfg.explore.get("until_frames") is not None:
        raise ValueError(
            f"`explore.until_frames` must be null with collect_policy={policy}, which decides "
            f"itself who collects, got {cfg.explore.until_frames}"
        )


def checked_settings(cfg: DictConfig, declared: type) -> DictConfig:
    """Validate the configuration of another command, whose keys a dataclass declares."""
    return OmegaConf.create(validate(to_plain(cfg), declared))


@contextmanager
def reasons() -> Iterator[None]:
    """Replace Hydra's InstantiationException by its cause.

    A cause other than ValueError, OSError, ImportError or EnvironmentFault becomes a ValueError
    that names the node.
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
        message = f"{type(reason).__name__}: {reason}" if reason else str(error).split("\n")[0]
        raise ValueError(f"{name} cannot be built: {message}") from reason or error


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain, resolved values.

    Raises:
        ValueError: An interpolation cannot be resolved.
    """
    try:
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        where = f"`{error.full_key}` cannot be resolved: " if error.full_key else ""
        raise ValueError(where + " ".join(str(error).split("\n")[0].split())) from error
    return plain


def check_one_device(cfg: DictConfig, *, available: int) -> None:
    """Require a single device, machine and process.

    Args:
        cfg: Resolved configuration.
        available: Number of devices of the kind that the Trainer will choose.

    Raises:
        ValueError: The configuration requests more; the message names the key and its value.
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
    """Return the number of devices that Lightning would use; 0 if the value is invalid."""
    if devices in ("auto", "-1", -1, None):
        return available
    if isinstance(devices, ListConfig):
        return len(devices)
    if "," in str(devices):
        return len([index for index in str(devices).split(",") if index.strip()])
    return int(devices) if str(devices).isdecimal() else 0


def most_updates(cfg: DictConfig, action_repeat: int) -> int:
    """Return the maximum number of updates of a whole run, including those before a resume."""
    if is_offline(cfg):
        return cfg.total_updates
    policy_steps = cfg.total_frames // action_repeat - cfg.prefill_policy_steps
    return cfg.pretrain_updates + max(policy_steps, 0) // cfg.train_every_policy_steps + 2
