"""Converts configurations of earlier versions to the current format.

`folder.py` applies it to every config.yaml that it reads. It knows the keys of all versions, but
not the objects that are built from them.
"""

from collections.abc import Callable, Mapping
from typing import Any

FORMAT = 5  # of the config.yaml that this version writes
MOVED = {  # modules in `_target_`: name before format 3 -> current name
    "dreamer.envs.own": "dreamer.envs.user",
    "dreamer.models.encoder": "dreamer.models.observations",
    "dreamer.models.mlp": "dreamer.models.heads",
    "dreamer.optimizer": "dreamer.optim",
}
ENV_KEYS = {  # of format 5, by the function that builds the environment
    "dreamer.envs.atari.make_atari": {"resize_through": None},
    "dreamer.envs.dummy.make_dummy": {"maze_goal": 40, "doors": 1},
    "dreamer.envs.gym.make_gym": {"class_keys": "$^"},
    "dreamer.envs.minigrid.make_minigrid": {"map": False, "goals": False, "layouts": None},
    "dreamer.envs.user.make_user": {"class_keys": "$^"},
}
DATA_KEYS = {  # of format 5
    **{"prefill": None, "mix": None, "train": None, "rename": None},
    **{"holdout": None, "pessimism": 0.0},
}
SAMPLERS = {"episodes": "EpisodeSampler", "steps": "StepSampler"}  # earlier name -> class


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a configuration to the current format.

    Args:
        config: Content of config.yaml in plain types. Without `format`, its format is 1.

    Returns:
        The configuration with current keys, without `format`. Unknown keys are kept.

    Raises:
        ValueError: A later version of this program wrote it.
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
    """Heads became named; `collect_policy`, `collect` and the sampler became nodes.

    The key `compile` became `kernels`; neither changes results, so it is dropped.
    """
    config = {key: value for key, value in config.items() if key != "compile"}
    return _with_nodes(_with_heads(config))


def _with_nodes(config: dict[str, Any]) -> dict[str, Any]:
    """Replace names by the nodes that they stood for."""
    replay, collect = (_mapping(config, key) for key in ("replay", "collect"))
    if (policy := config.get("collect_policy")) in ("actor", "random"):
        node = {"_target_": f"dreamer.policy.choose_{policy}", "_partial_": True}
        config = config | {"collect_policy": node}
    if (sampling := replay.get("sampling")) in SAMPLERS:
        node = {"_target_": f"dreamer.replay.sampling.{SAMPLERS[sampling]}", "_partial_": True}
        config = config | {"replay": {**replay, "sampling": node}}
    if collect:
        config = config | {"collect": {"where": "local", **collect}}
    return config


def _with_heads(config: dict[str, Any]) -> dict[str, Any]:
    """Convert `reward_head` and `discount_head` to `heads`, with gradients and scale."""
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
    # The scales of observations were beside the others; `observations` did not exist.
    scales.setdefault("observations", {})
    world_model |= {"heads": heads, "loss_scales": scales}
    return config | {"model": config["model"] | {"world_model": world_model}}


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, Mapping) else {}


def _from_2_to_3(config: dict[str, Any]) -> dict[str, Any]:
    """Modules moved; update every `_target_` in them."""
    return {key: _with_targets(value) for key, value in config.items()}


def _with_targets(node: Any) -> Any:
    """Return the node with current modules in every `_target_`."""
    if isinstance(node, list):
        return [_with_targets(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    node = {key: _with_targets(value) for key, value in node.items()}
    module, _, name = str(node.get("_target_", "")).rpartition(".")
    return node | {"_target_": f"{MOVED[module]}.{name}"} if module in MOVED else node


def _from_3_to_4(config: dict[str, Any]) -> dict[str, Any]:
    """Runs can start from earlier ones, and the dummy worlds got a maze; older runs had neither."""
    config = {"init_from": None, "init_weights": "all", "data": {"prefill": None}} | config
    env = _mapping(config, "env")
    if env.get("_target_") != "dreamer.envs.dummy.make_dummy":
        return config
    return config | {"env": {"maze_length": 80, **env}}


def _from_4_to_5(config: dict[str, Any]) -> dict[str, Any]:
    """Keys for PyDreamer's features, the rest of the paper, videos and stored data."""
    returns = {"_target_": "dreamer.models.returns.LambdaReturns"}
    added = {"iwae_samples": 1, "returns": returns, "reward_input": False}
    added |= {"probe": {}, "probe_gradients": False}
    added |= {"total_updates": None}
    config = _with_parts(_with_cell(added | config))
    if replay := _mapping(config, "replay"):
        config = config | {"replay": {"carry_state": False, **replay}}
    config = config | {"data": {**DATA_KEYS, **_mapping(config, "data")}}
    if env := _mapping(config, "env"):
        config = config | {"env": {**ENV_KEYS.get(str(env.get("_target_")), {}), **env}}
    if trainer := _mapping(config, "trainer"):
        config = config | {"trainer": {"profiler": None, **trainer}}
    model = _mapping(config, "model")
    if str(model.get("_target_")).startswith("dreamer."):
        config = config | {"model": {"pessimism": 0.0, **model}}
    return _with_callback_keys(config)


def _with_callback_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Add the maximum length of an evaluation episode, and when the first video is made."""
    callbacks = {**_mapping(config, "callbacks")}
    for name, target, added in (
        ("evaluate", "dreamer.callbacks.evaluate.Evaluate", {"max_episode_policy_steps": 30_000}),
        ("video", "dreamer.callbacks.video.OpenLoopVideo", {"first_updates": 0}),
    ):
        node = _mapping(callbacks, name)
        if node.get("_target_") == target:
            callbacks[name] = {**added, **node}
    return config | {"callbacks": callbacks} if callbacks else config


def _with_cell(config: dict[str, Any]) -> dict[str, Any]:
    """Make the recurrent cell a node, and the number of samples a key of the world model."""
    model = _mapping(config, "model")
    world_model = _mapping(model, "world_model")
    rssm = {**_mapping(world_model, "rssm")}
    if "layer_norm" not in rssm:
        return config
    cell = {"_target_": "dreamer.models.rssm.GRUConfig", "layer_norm": rssm.pop("layer_norm")}
    rssm["cell"] = cell
    world_model = {"iwae_samples": 1, **world_model, "rssm": rssm}
    return {"cell": cell} | config | {"model": {**model, "world_model": world_model}}


def _with_parts(config: dict[str, Any]) -> dict[str, Any]:
    """Give encoder, decoder, and actor and critic the classes and keys of the current nodes."""
    plain = "dreamer.models.observations.ObservationConfig"
    inputs = {"reward_input": False, "classes": {}}
    likelihood = {"likelihood": "normal", "min_prob": 0.0, "classes": {}}
    added = {
        "encoder": inputs | {"_target_": "dreamer.models.inputs.EncoderConfig"},
        "decoder": likelihood | {"_target_": "dreamer.models.decoders.DecoderConfig"},
    }
    model, explore = {**_mapping(config, "model")}, {**_mapping(config, "explore")}
    world_model = {**_mapping(model, "world_model")}
    for part, keys in added.items():
        node = _mapping(world_model, part)
        if node.get("_target_") == plain:
            world_model |= {part: {**node, **keys}, "auxiliary": world_model.get("auxiliary", {})}
            model = {"carry_state": False} | model | {"world_model": world_model}
    returns = {"_target_": "dreamer.models.returns.LambdaReturns"}
    changed = {}
    for key, node in {"model": model, "explore": explore}.items():
        actor_critic = _mapping(node, "actor_critic")
        if "lambda_" in actor_critic:
            node["actor_critic"] = {"returns": returns, "entropy_in_target": False, **actor_critic}
        if node and node != config[key]:
            changed[key] = node
    return config | changed


MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (
    _from_1_to_2,
    _from_2_to_3,
    _from_3_to_4,
    _from_4_to_5,
)
