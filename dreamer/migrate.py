"""Configurations of earlier versions, as this version would have written them.

Whoever reads a run's config.yaml asks it first, before anything is compared or built. It knows the
keys of all versions, and nothing that is built from them.
"""

from collections.abc import Callable, Mapping
from typing import Any

FORMAT = 2  # of the config.yaml that this version writes


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a configuration up to date.

    Args:
        config: what a run's config.yaml says, in plain types. Without `format` it is of version 1.

    Returns:
        The same in today's keys, without `format`. What a migration does not know stays.

    Raises:
        ValueError: it was written by a later version of this program.
    """
    config = {**config}
    version = config.pop("format", 1)
    if version not in range(1, FORMAT + 1):
        raise ValueError(
            f"`format` of config.yaml must be at most {FORMAT}, got {version}: a later version of "
            "this program wrote it. Update this one."
        )
    for step in MIGRATIONS[version - 1 :]:
        config = step(config)
    return config


def _heads_by_name(config: dict[str, Any]) -> dict[str, Any]:
    """1 to 2: `reward_head` and `discount_head` became `heads`, with gradients and scale.

    The key `compile` became `kernels`, which changes no result.
    """
    config = {key: value for key, value in config.items() if key != "compile"}
    world_model = _mapping(_mapping(config, "model"), "world_model")
    if "reward_head" not in world_model:
        return config
    world_model = {**world_model}
    scales = {**(world_model.get("loss_scales") or {})}
    heads = {}
    for name in ("reward", "discount"):
        head = world_model.pop(f"{name}_head", None)
        gradients = world_model.pop(f"{name}_gradients", True)
        scale = scales.pop(name, 1.0)
        heads[name] = head and {
            **head,
            "_target_": "dreamer.models.world_model.ModelHeadConfig",
            "gradients": gradients,
            "scale": scale,
        }
    # Before there was `observations`, its scales stood beside the others.
    scales.setdefault("observations", {})
    world_model |= {"heads": heads, "loss_scales": scales}
    return config | {"model": config["model"] | {"world_model": world_model}}


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, Mapping) else {}


MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_heads_by_name,)
