"""Our configurations, latents and states from those of the golden files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from golden import Case, channels_first
from torch import Tensor

from dreamer.models.actor_critic import ActorConfig, ActorCriticConfig, RewardNormConfig
from dreamer.models.heads import HeadConfig
from dreamer.models.latents import CategoricalLatent, GaussianLatent, Latent
from dreamer.models.observations import ObservationConfig, ObsShapes, VectorConfig
from dreamer.models.rssm import GRUConfig, RSSMConfig
from dreamer.models.vision import ConvConfig
from dreamer.models.world_model import KLConfig, ModelHeadConfig, WorldModelConfig
from dreamer.optim import OptimizerConfig
from dreamer.types import Batch, RSSMState

NO_OBSERVATIONS = ("action", "reward", "is_first", "is_last", "is_terminal")


def section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The part of a configuration with dotted keys that starts with a name."""
    return {k.removeprefix(f"{name}."): v for k, v in config.items() if k.startswith(f"{name}.")}


def make_latent(rssm: Mapping[str, Any]) -> Latent:
    if rssm["discrete"]:
        return CategoricalLatent(rssm["stoch"], rssm["discrete"])
    return GaussianLatent(rssm["stoch"], rssm["std_act"], rssm["min_std"])


def rssm_config(rssm: Mapping[str, Any]) -> RSSMConfig:
    return RSSMConfig(
        deter=rssm["deter"],
        hidden=rssm["hidden"],
        activation=rssm["act"],
        norm=rssm["norm"],
        cell=GRUConfig(layer_norm=True),
        ensemble=rssm["ensemble"],
    )


def observation_config(part: Mapping[str, Any]) -> ObservationConfig:
    activation = part.get("act", "elu")
    return ObservationConfig(
        image_keys=part.get("cnn_keys", ".*"),
        vector_keys=part.get("mlp_keys", ".*"),
        image=ConvConfig(part["cnn_depth"], part["cnn_kernels"], activation, part["norm"]),
        vector=VectorConfig(part["mlp_layers"], activation, part["norm"]),
    )


def head_config(head: Mapping[str, Any]) -> HeadConfig:
    return HeadConfig(head["layers"], head["units"], head["act"], head["norm"], head["dist"])


def world_model_config(
    config: Mapping[str, Any], obs_shapes: ObsShapes, grad_heads: Sequence[str]
) -> WorldModelConfig:
    known = {"kl", *obs_shapes}
    scales = section(config, "loss_scales")
    heads = {"reward": "reward_head"}
    heads |= {"discount": "discount_head"} if config["pred_discount"] else {}
    return WorldModelConfig(
        latent=make_latent(section(config, "rssm")),
        rssm=rssm_config(section(config, "rssm")),
        encoder=observation_config(section(config, "encoder")),
        decoder=observation_config(section(config, "decoder")),
        heads={
            name: ModelHeadConfig(
                **vars(head_config(section(config, key))),
                gradients=name in grad_heads,
                scale=scales.get(name, 1.0),
            )
            for name, key in heads.items()
        },
        kl=KLConfig(
            balance=config["kl.balance"],
            free_nats=config["kl.free"],
            forward=config["kl.forward"],
            free_avg=config["kl.free_avg"],
        ),
        loss_scales={k: v for k, v in scales.items() if k in known},
        image_gradients="decoder" in grad_heads,
        reward_transform=config["clip_rewards"],
        discount=config["discount"],
        iwae_samples=1,
    )


def actor_critic_config(
    config: Mapping[str, Any], *, sample_gradient: str = "exact"
) -> ActorCriticConfig:
    actor = section(config, "actor")
    return ActorCriticConfig(
        actor=ActorConfig(
            layers=actor["layers"],
            units=actor["units"],
            activation=actor["act"],
            norm=actor["norm"],
            distribution=actor["dist"],
            min_std=actor.get("min_std", 0.1),
            init_std=actor.get("init_std", 0.0),
            sample_gradient=sample_gradient,
            gradient=config["actor_grad"],
            gradient_mix=config["actor_grad_mix"],
            entropy_scale=config["actor_ent"],
        ),
        critic=head_config(section(config, "critic")),
        reward_norm=RewardNormConfig(
            momentum=config["reward_norm.momentum"],
            scale=config["reward_norm.scale"],
            epsilon=config["reward_norm.eps"],
        ),
        lambda_=config["discount_lambda"],
        slow_critic=config["slow_target"],
        slow_critic_updates=config["slow_target_update"],
        slow_critic_fraction=config["slow_target_fraction"],
        entropy_in_target=False,
    )


def optimizer_config(optimizer: Mapping[str, Any]) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=optimizer["lr"],
        epsilon=optimizer["eps"],
        clip=optimizer["clip"] or None,
        weight_decay=optimizer["wd"] or 0.0,
    )


def our_obs(inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The observations (T, B, ...) among a case's inputs; images channels first."""
    names = [k for k in inputs if "/" not in k and k not in NO_OBSERVATIONS]
    tensors = {k: torch.tensor(inputs[k]) for k in names}
    return {k: channels_first(x) if x.ndim == 5 else x for k, x in tensors.items()}


def our_batch(inputs: Mapping[str, np.ndarray]) -> Batch:
    """A batch (T, B, ...) from inputs (B, T, ...)."""
    swapped = {k: x.swapaxes(0, 1) for k, x in inputs.items() if "/" not in k}
    tensors = {k: torch.tensor(x) for k, x in swapped.items()}
    return Batch(
        obs=our_obs(swapped),
        prev_action=tensors["action"],
        reward=tensors["reward"],
        is_first=tensors["is_first"],
        is_terminal=tensors["is_terminal"],
    )


def obs_shapes_of(batch: Batch) -> ObsShapes:
    return {k: tuple(x.shape[2:]) for k, x in batch.obs.items()}


def our_samples(latent: Latent, values: Tensor) -> Tensor:
    """Samples or noise of a latent: (..., S, C) stays, Gaussian (..., S) -> (..., S, 1)."""
    return values.unsqueeze(-1) if isinstance(latent, GaussianLatent) else values


def our_stats(latent: Latent, statistics: Mapping[str, Tensor]) -> Tensor:
    """Logits, or mean and std (..., S) -> (..., S, P); differentiable."""
    if not isinstance(latent, GaussianLatent):
        return statistics["logit"]
    # Before the activation. A state of zeros has no such number; nothing reads it either.
    positive = (statistics["std"] - latent.min_std).clamp_min(1e-6)
    match latent.std_activation:
        case "softplus":
            raw = positive.expm1().log()
        case "sigmoid":
            raw = positive.logit()
        case "sigmoid2":
            raw = 2 * (positive / 2).logit()
    return torch.stack([statistics["mean"], raw], -1)


def our_state(latent: Latent, case: Case, folder: str) -> RSSMState:
    """A state of the file, any leading axes."""
    parts = {k: torch.tensor(x) for k, x in case.under(folder).items()}
    return RSSMState(parts["deter"], our_samples(latent, parts["stoch"]), our_stats(latent, parts))


def reference_stats(latent: Latent, stats: Tensor) -> dict[str, Tensor]:
    if not isinstance(latent, GaussianLatent):
        return {"logit": stats}
    mean, std = latent.mean_std(stats)
    return {"mean": mean, "std": std}


def reference_state(latent: Latent, state: RSSMState) -> dict[str, Tensor]:
    """A state by the authors' names and in their layout, any leading axes."""
    stoch = state.stoch.squeeze(-1) if isinstance(latent, GaussianLatent) else state.stoch
    return {"deter": state.deter, "stoch": stoch} | reference_stats(latent, state.stats)
