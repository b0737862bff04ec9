"""The rules of learning without an environment: sources, their weights, and what counts.

`config.py` and `experience.py` use it. It reads configurations only, and imports nothing slow.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf

from dreamer.run.paths import absolute, is_remote
from dreamer.schema.words import format_value

NO_ENVIRONMENT = "dreamer.envs.offline.make_offline"  # `env._target_` of env=offline
ENTRY = "a list of mappings with `address` and `weight`"


class Source(NamedTuple):
    """Where stored data are."""

    key: str  # of the configuration
    address: str
    weight: float = 1.0


def is_offline(cfg: DictConfig) -> bool:
    """Whether a run collects nothing."""
    return cfg.collect.where == "none"


def counter_of(cfg: DictConfig) -> Literal["frames", "updates"]:
    """Return what the length and the intervals of a run count, the x axis of its metrics."""
    return "updates" if is_offline(cfg) else "frames"


def has_no_environment(cfg: DictConfig) -> bool:
    """Whether the spaces of a run are those of its data."""
    return cfg.env.get("_target_") == NO_ENVIRONMENT


def rename_of(cfg: DictConfig) -> Mapping[str, str]:
    """Return the run's names of observations by those in the data."""
    return cfg.data.rename or {}


def sources_of(cfg: DictConfig) -> list[Source]:
    """Return the stored data of a run: those to learn from, or those that it begins with.

    Raises:
        ValueError: `data.train` is no address and no list of addresses with weights.
    """
    key = "data.train" if is_offline(cfg) else "data.prefill"
    value = OmegaConf.select(cfg, key)
    if value is None:
        return []
    if isinstance(value, str):
        return [Source(key, value)]
    if not value:
        raise ValueError(f"`{key}` must be an address, or {ENTRY}, got an empty list")
    return [_entry(f"{key}[{number}]", entry) for number, entry in enumerate(value)]


def _entry(key: str, entry: Any) -> Source:
    """Return an element of a list of sources."""
    entry = entry if isinstance(entry, Mapping | DictConfig) else {}
    if set(entry) != {"address", "weight"}:
        raise ValueError(
            f"`{key}` must be one of {ENTRY}, got {', '.join(map(str, entry)) or 'another value'}"
        )
    address, weight = entry["address"], entry["weight"]
    if not isinstance(address, str) or not address:
        raise ValueError(f"`{key}.address` must be an address, got {format_value(address)}")
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not 0 < weight < float("inf"):
        raise ValueError(f"`{key}.weight` must be a number above 0, got {format_value(weight)}")
    return Source(key, address, float(weight))


def resolved(address: str) -> str:
    """Return an address that does not depend on the current folder."""
    return address if is_remote(address) else str(absolute(address))


def with_absolute_addresses(cfg: DictConfig) -> None:
    """Make the addresses of data absolute, in place.

    Raises:
        ValueError: One of them is empty, or no address.
    """
    for key in ("data.train", "data.prefill", "data.holdout"):
        value = OmegaConf.select(cfg, key)
        if isinstance(value, str):
            if not value:  # would be the current folder
                raise ValueError(f"`{key}` must be an address or null, got ''")
            if key == "data.holdout" and re.fullmatch(r"[\d.]+", value):  # a share out of range
                raise ValueError(f"`{key}` must be a share in (0, 1) or an address, got {value}")
            OmegaConf.update(cfg, key, resolved(value))
        elif isinstance(value, ListConfig):
            entries = [_entry(f"{key}[{n}]", entry) for n, entry in enumerate(value)]
            plain = [{"address": resolved(x.address), "weight": x.weight} for x in entries]
            OmegaConf.update(cfg, key, plain, merge=False)


def check_data(cfg: DictConfig) -> None:
    """Check the keys of stored data, and what a run without collection or environment needs.

    Raises:
        ValueError: The combination cannot work.
    """
    sources, offline = sources_of(cfg), is_offline(cfg)
    holdout = cfg.data.holdout
    if holdout is not None and not isinstance(holdout, str) and not sources:
        raise ValueError(
            "`data.holdout` must be an address without data.train and data.prefill, got "
            f"{holdout:g}: there is nothing to hold out"
        )
    if holdout in [source.address for source in sources]:
        raise ValueError(
            f"`data.holdout` must be a share or other episodes than `{sources[0].key}`, got "
            f"{holdout}"
        )
    if offline:
        _check_offline(cfg, sources)
    else:
        _check_online(cfg)
    if cfg.data.rename is not None and not sources:
        raise ValueError(
            f"`data.rename` must be null without data.train or data.prefill, got {cfg.data.rename}"
        )
    ours = list(rename_of(cfg).values())
    if twice := {name for name in ours if ours.count(name) > 1}:
        raise ValueError(
            f"`data.rename` must give different names, got {', '.join(sorted(twice))} twice"
        )


def _check_offline(cfg: DictConfig, sources: list[Source]) -> None:
    if not sources:
        raise ValueError(
            "`data.train` must be the address of stored episodes with collect=none, got null"
        )
    for key in ("data.prefill", "data.mix"):
        if (value := OmegaConf.select(cfg, key)) is not None:
            raise ValueError(
                f"`{key}` must be null with collect=none, got {value}. It is for runs that "
                "collect; data.train may be a list"
            )
    if cfg.replay.store is not None:
        raise ValueError(
            f"`replay.store` must be null with collect=none, got {cfg.replay.store}: nothing is "
            "collected. The data stay at data.train; callbacks.checkpoint.mirror copies checkpoints"
        )
    if has_no_environment(cfg) and cfg.callbacks.evaluate:
        raise ValueError(
            "`callbacks.evaluate` must be null with env=offline, which has no environment to play "
            "in. Choose an installed env= to evaluate"
        )


def _check_online(cfg: DictConfig) -> None:
    if has_no_environment(cfg):
        raise ValueError(
            "`collect` must be none with env=offline, which has no environment, got "
            f"{'overlap' if cfg.collect.overlap else 'local'}"
        )
    if cfg.data.train is not None:
        raise ValueError(
            f"`data.train` must be null unless collect=none, got {cfg.data.train}. A run that "
            "collects begins with data.prefill"
        )
    counted = {"total_updates": cfg.total_updates} | {
        f"callbacks.{name}.every_updates": node.get("every_updates")
        for name, node in _callbacks(cfg)
    }
    for key, value in counted.items():
        if value is not None:
            raise ValueError(
                f"`{key}` must be null unless collect=none, got {value}: a run that collects "
                f"counts frames, see {key.replace('updates', 'frames')}"
            )
    if cfg.data.mix is not None:
        if cfg.data.prefill is None:
            raise ValueError(f"`data.mix` must be null without data.prefill, got {cfg.data.mix}")
        if cfg.prefill_policy_steps < 1:
            raise ValueError(
                "`prefill_policy_steps` must be at least 1 with data.mix, got "
                f"{cfg.prefill_policy_steps}: the rest of every batch comes from the run's own "
                "steps"
            )


def count_updates(cfg: DictConfig) -> None:
    """Fill in what a run without collection counts, in place: its length and all intervals.

    What is null is as in an online run with the same configuration: as many updates as it makes in
    `total_frames`, and in the interval of frames of a callback.
    """
    repeat, train_every = cfg.env.get("action_repeat", 1), cfg.train_every_policy_steps
    if cfg.total_updates is None:
        steps = -(-cfg.total_frames // repeat) - cfg.prefill_policy_steps - 1
        cfg.total_updates = max(cfg.pretrain_updates + -(-steps // train_every) + 1, 1)
    for _, node in _callbacks(cfg):
        if node.get("every_updates") is None and node.get("every_frames") is not None:
            node.every_updates = max(node.every_frames // (repeat * train_every), 1)


def without_environment(plain: dict[str, Any]) -> None:
    """Remove, in place, what env=offline switches off and a preset has set in part."""
    callbacks = plain.get("callbacks") or {}
    evaluate = callbacks.get("evaluate")
    env = plain.get("env") or {}
    if env.get("_target_") == NO_ENVIRONMENT and evaluate and "_target_" not in evaluate:
        callbacks["evaluate"] = None


def _callbacks(cfg: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yield the callbacks that may count updates."""
    for name, node in cfg.callbacks.items():
        if isinstance(node, DictConfig) and "every_updates" in node:
            yield str(name), node


def data_name(value: Any) -> str:
    """Name stored data after their address: a folder of a run has the name of its task."""
    if value is None:
        return "stored"
    if isinstance(value, ListConfig | list):
        names = [data_name(x.get("address")) for x in value if isinstance(x, Mapping | DictConfig)]
        return "+".join(dict.fromkeys(names)) or "stored"
    address = str(value).rstrip("/")
    if not is_remote(address):
        config = Path(absolute(address), "config.yaml")
        if config.is_file() and (task := _task(config)):
            return task
    name = address.rsplit("/", 1)[-1]
    return re.sub(r"[^\w.=+-]", "_", name) or "stored"


def _task(config: Path) -> str | None:
    """Return the task in the configuration of a run."""
    for line in config.read_text(errors="replace").splitlines():
        if found := re.fullmatch(r"task: *['\"]?([^'\"]+)['\"]?", line):
            return found[1]
    return None
