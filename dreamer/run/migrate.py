"""Configurations of earlier versions, as this version would have written them.

Whoever reads a run's config.yaml asks it first, before anything is compared or built. It knows the
keys of all versions, and nothing that is built from them.
"""

from collections.abc import Callable, Mapping
from typing import Any

FORMAT = 3  # of the config.yaml that this version writes
MOVED = {  # modules that a configuration names, by their names before format 3
    "dreamer.envs.own": "dreamer.envs.user",
    "dreamer.models.encoder": "dreamer.models.observations",
    "dreamer.models.mlp": "dreamer.models.heads",
    "dreamer.optimizer": "dreamer.optim",
}
SAMPLERS = {"episodes": "EpisodeSampler", "steps": "StepSampler"}  # by their earlier names


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


def _from_1_to_2(config: dict[str, Any]) -> dict[str, Any]:
    """Heads got names; who collects, where, and the sampler became nodes.

    The key `compile` became `kernels`, which changes no result.
    """
    config = {key: value for key, value in config.items() if key != "compile"}
    return _with_nodes(_with_heads(config))


def _with_nodes(config: dict[str, Any]) -> dict[str, Any]:
    """What a name stood for in place of the name."""
    replay, collect = (_mapping(config, key) for key in ("replay", "collect"))
    if (who := config.get("collect_policy")) in ("actor", "random"):
        node = {"_target_": f"dreamer.policy.choose_{who}", "_partial_": True}
        config = config | {"collect_policy": node}
    if (sampling := replay.get("sampling")) in SAMPLERS:
        node = {"_target_": f"dreamer.replay.sampling.{SAMPLERS[sampling]}", "_partial_": True}
        config = config | {"replay": {**replay, "sampling": node}}
    if collect:
        config = config | {"collect": {"where": "local", **collect}}
    return config


def _with_heads(config: dict[str, Any]) -> dict[str, Any]:
    """`reward_head` and `discount_head` became `heads`, with gradients and scale."""
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


def _from_2_to_3(config: dict[str, Any]) -> dict[str, Any]:
    """Modules moved; what a configuration names by `_target_` moved with them."""
    return {key: _with_targets(value) for key, value in config.items()}


def _with_targets(node: Any) -> Any:
    """The node with today's modules in every `_target_` of this program."""
    if isinstance(node, list):
        return [_with_targets(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    node = {key: _with_targets(value) for key, value in node.items()}
    module, _, name = str(node.get("_target_", "")).rpartition(".")
    return node | {"_target_": f"{MOVED[module]}.{name}"} if module in MOVED else node


MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_from_1_to_2, _from_2_to_3)
