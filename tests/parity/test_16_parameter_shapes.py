"""Our networks at full size have the reference's parameters, by name, shape and count."""

import json
from typing import Any

import pytest
import torch
from golden import FOLDER
from networks import actor_critic_config, world_model_config

from dreamer.convert import reference_parameters
from dreamer.models.actor_critic import ActorCritic
from dreamer.models.world_model import WorldModel
from dreamer.types import ActionSpace

Shapes = dict[str, list[int]]
PRESETS: dict[str, dict[str, Any]] = json.loads((FOLDER / "16_parameter_shapes.json").read_text())


def dense_sizes(shapes: Shapes, part: str) -> list[int]:
    """Units of the dense layers of a part."""
    sizes = []
    while (kernel := f"{part}/dense{len(sizes)}/kernel") in shapes:
        sizes.append(shapes[kernel][1])
    return sizes


def conv_config(shapes: Shapes, part: str) -> dict[str, Any]:
    kernels = []
    while (kernel := f"{part}/conv{len(kernels)}/kernel") in shapes:
        kernels.append(shapes[kernel][0])
    depth = shapes["encoder/conv0/kernel"][3] if kernels else 1
    norm = any(k.startswith(f"{part}/") and "norm0" in k for k in shapes)
    return {
        f"{part}.cnn_depth": depth,
        f"{part}.cnn_kernels": kernels,
        f"{part}.cnn_keys": ".*" if kernels else "$^",
        f"{part}.mlp_layers": dense_sizes(shapes, part),
        f"{part}.mlp_keys": ".*" if dense_sizes(shapes, part) else "$^",
        f"{part}.norm": "layer" if norm else "none",
        f"{part}.act": "elu",
    }


def mlp_config(shapes: Shapes, head: str, section: str, dist: str) -> dict[str, Any]:
    sizes = dense_sizes(shapes, head) or [1]
    return {
        f"{section}.layers": len(sizes),
        f"{section}.units": sizes[0],
        f"{section}.norm": "layer" if f"{head}/norm0/gamma" in shapes else "none",
        f"{section}.act": "elu",
        f"{section}.dist": dist,
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_shapes(preset: str):
    reference = PRESETS[preset]
    shapes: Shapes = reference["shapes"]
    deter = shapes["rssm/img_out_0/kernel"][0]
    stoch = reference["feature_size"] - deter
    gaussian = shapes["rssm/img_dist_0/kernel"][1] == 2 * stoch
    # How many classes the discrete variables have changes no shape.
    config = {
        "rssm.deter": deter,
        "rssm.hidden": shapes["rssm/img_in/kernel"][1],
        "rssm.stoch": stoch if gaussian else 1,
        "rssm.discrete": 0 if gaussian else stoch,
        "rssm.act": "elu",
        "rssm.norm": "layer" if "rssm/img_in_norm/gamma" in shapes else "none",
        "rssm.ensemble": sum(k.startswith("rssm/img_dist_") for k in shapes) // 2,
        "rssm.std_act": "sigmoid2",
        "rssm.min_std": 0.1,
        **conv_config(shapes, "encoder"),
        **conv_config(shapes, "decoder"),
        **mlp_config(shapes, "reward", "reward_head", "mse"),
        **mlp_config(shapes, "discount", "discount_head", "binary"),
        **mlp_config(shapes, "actor", "actor", "auto"),
        **mlp_config(shapes, "critic", "critic", "mse"),
        "pred_discount": "discount/out/out/kernel" in shapes,
        "kl.balance": 0.8,
        "kl.free": 0.0,
        "kl.forward": False,
        "kl.free_avg": True,
        "clip_rewards": "identity",
        "discount": 0.99,
        "discount_lambda": 0.95,
        "actor_grad": "auto",
        "actor_grad_mix": 0.0,
        "actor_ent": 0.0,
        "slow_target": False,
        "slow_target_update": 1,
        "slow_target_fraction": 1,
        "reward_norm.momentum": 1.0,
        "reward_norm.scale": 1.0,
        "reward_norm.eps": 1e-8,
    }
    observations = {
        k: (s[2], *s[:2]) if len(s) == 3 else tuple(s) for k, s in reference["observations"].items()
    }
    action_space = ActionSpace(reference["action_size"], reference["discrete_actions"])
    with torch.device("meta"):
        model = WorldModel(
            world_model_config(config, observations, ["decoder"]), observations, action_space.size
        )
        actor_critic = ActorCritic(actor_critic_config(config), model.feature_size, action_space)

    ours = reference_parameters(model) | reference_parameters(actor_critic)

    assert model.feature_size == reference["feature_size"]
    assert {k: list(weight.shape) for k, weight in ours.items()} == shapes
    counts = dict.fromkeys(reference["counts"], 0)
    for name, weight in ours.items():
        counts[name.split("/")[0]] += weight.parameter.numel()
    assert counts == reference["counts"]
    assert sum(p.numel() for p in model.parameters()) == reference["world_model_total"]
