"""Our latents, states and models from the configuration of PyDreamer's golden files."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from golden import Case, channels_first
from torch import Tensor

from dreamer.models.actor import ActorConfig
from dreamer.models.actor_critic import ActorCriticConfig, RewardNormConfig
from dreamer.models.auxiliary_critic import AuxiliaryCriticConfig
from dreamer.models.decoders import DecoderConfig
from dreamer.models.heads import HeadConfig
from dreamer.models.inputs import EncoderConfig
from dreamer.models.latents import CategoricalLatent, GaussianLatent, Latent
from dreamer.models.observations import ObsShapes, VectorConfig
from dreamer.models.pydreamer import (
    GateNormGRUConfig,
    PlainGRUConfig,
    PyDreamerRSSMConfig,
    PyDreamerWorldModelConfig,
    UnbiasedGRUConfig,
    VectorEncoderConfig,
)
from dreamer.models.returns import GAEReturns
from dreamer.models.reward_heads import CategoricalRewardConfig, TerminalHeadConfig
from dreamer.models.vision import ConvConfig
from dreamer.models.world_model import KLConfig, ModelHeadConfig
from dreamer.optim import AdamWConfig
from dreamer.types import Batch, RSSMState

HIDDEN_LAYERS = 4  # of actor, critics and vector decoders
ENCODER_LAYERS = 2  # of the vector encoder, before its linear one

CELLS = {
    "gru": PlainGRUConfig,
    "gru_layernorm": GateNormGRUConfig,
    "gru_layernorm_dv2": UnbiasedGRUConfig,
}


def make_latent(variables: int, classes: int) -> Latent:
    """Categorical latents, or Gaussian ones if there are no classes."""
    if classes:
        return CategoricalLatent(variables, classes)
    return GaussianLatent(variables, "double_sigmoid", 0.1)


def our_samples(latent: Latent, values: Tensor) -> Tensor:
    """Samples (..., S * K), or noise of any shape with that content -> (..., S, K)."""
    event = latent.variables, latent.classes
    leading = values.shape[:-2] if values.shape[-2:] == event else values.shape[:-1]
    return values.reshape(*leading, *event)


def our_state(latent: Latent, case: Case, folder: str) -> RSSMState:
    """A state (..., D) and (..., S * K). Nothing reads its statistics, so the files lack them."""
    stoch = our_samples(latent, case[f"{folder}/stoch"])
    stats = torch.zeros(*stoch.shape[:-1], latent.statistics)
    return RSSMState(case[f"{folder}/deter"], stoch, stats)


def per_sample(x: Tensor, samples: int) -> Tensor:
    """(T, B * I, ...) of ours -> (T, B, I, ...) of PyDreamer."""
    return x.unflatten(1, (-1, samples))


def their_stats(latent: Latent, stats: Tensor) -> Tensor:
    """(..., S, P) -> (..., S * P) in PyDreamer's order: Gaussians have all means first."""
    return (stats if isinstance(latent, CategoricalLatent) else stats.transpose(-1, -2)).flatten(-2)


def their_state(state: RSSMState) -> dict[str, Tensor]:
    return {"deter": state.deter, "stoch": state.stoch.flatten(-2)}


def their_features(state: RSSMState) -> Tensor:
    """(..., F) in PyDreamer's order: the deterministic part first."""
    return torch.cat([state.deter, state.stoch.flatten(-2)], -1)


def rssm_config(config: Mapping[str, Any]) -> PyDreamerRSSMConfig:
    return PyDreamerRSSMConfig(
        deter=config["deter_dim"],
        hidden=config["hidden_dim"],
        activation="elu",
        norm=norm_of(config),
        cell=CELLS[config["gru_type"]](config["gru_layers"]),
        ensemble=1,
    )


def norm_of(config: Mapping[str, Any]) -> str:
    return "layer" if config["layer_norm"] else "none"


def mlp_options(config: Mapping[str, Any], layers: int, distribution: str) -> dict[str, Any]:
    """The keys of a `HeadConfig`."""
    return {
        "layers": layers,
        "units": config["mlp_hidden"],
        "activation": "elu",
        "norm": norm_of(config),
        "distribution": distribution,
    }


def head_configs(config: Mapping[str, Any]) -> dict[str, ModelHeadConfig]:
    def options(name: str, distribution: str) -> dict[str, Any]:
        layers, scale = config[f"{name}_decoder_layers"], config.get(f"{name}_weight", 1.0)
        mlp = mlp_options(config, layers, distribution)
        return mlp | {"gradients": True, "scale": scale}

    support = config.get("reward_decoder_categorical")
    reward = ModelHeadConfig(**options("reward", "squared_error"))
    if support:
        reward = CategoricalRewardConfig(**options("reward", "categorical"), support=support)
    return {"reward": reward, "terminal": TerminalHeadConfig(**options("terminal", "binary"))}


def auxiliary_configs(config: Mapping[str, Any]) -> dict[str, AuxiliaryCriticConfig]:
    if not config.get("aux_critic"):
        return {}
    critic = AuxiliaryCriticConfig(
        weight=config["aux_critic_weight"],
        discount=config["gamma_aux"],
        lambda_=config["lambda_gae_aux"],
        slow_critic_updates=config.get("target_interval_aux", 1),
        critic=HeadConfig(**mlp_options(config, HIDDEN_LAYERS, "squared_error")),
    )
    return {"critic": critic}


def world_model_config(
    config: Mapping[str, Any], obs_shapes: ObsShapes, **options: Any
) -> PyDreamerWorldModelConfig:
    """The world model of a configuration; `options` are those of a case, which come first."""
    config = {**config, **options}
    norm, depth, hidden = norm_of(config), config.get("cnn_depth", 1), config["mlp_hidden"]
    scales = {key: config.get(f"{key}_weight", 1.0) for key in obs_shapes}
    return PyDreamerWorldModelConfig(
        latent=make_latent(config["stoch_dim"], config["stoch_discrete"]),
        rssm=rssm_config(config),
        encoder=EncoderConfig(
            image_keys=".*",
            vector_keys=".*",
            image=ConvConfig(depth, [4, 4, 4, 4], "elu", "none"),
            vector=VectorEncoderConfig(
                [*[hidden] * ENCODER_LAYERS, config["embed_vecobs"] or 1], "elu", norm
            ),
            reward_input=bool(config.get("reward_input")),
        ),
        decoder=DecoderConfig(
            image_keys=".*",
            vector_keys=".*",
            image=ConvConfig(depth, [5, 5, 6, 6], "elu", "none"),
            vector=VectorConfig([hidden] * HIDDEN_LAYERS, "elu", norm),
            likelihood="squared_error",
        ),
        heads=head_configs(config),
        kl=KLConfig(config["kl_balance"], free_nats=0.0, forward=False, free_avg=True),
        loss_scales={"kl": config["kl_weight"], "observations": scales},
        image_gradients=True,
        reward_transform="identity",
        discount=config.get("gamma", 0.99),
        iwae_samples=config["iwae_samples"],
        auxiliary=auxiliary_configs(config),
    )


def our_batch(case: Case) -> Batch:
    """A batch (T, B, ...); the file's rewards are transformed, its sequences time first."""
    obs = {}
    if "in/image" in case:
        obs["image"] = channels_first(case["in/image"])
    if "in/vecobs" in case:
        obs["vecobs"] = case["in/vecobs"]
    terminal = case["in/terminal"]
    assert ((terminal == 0) | (terminal == 1)).all()
    return Batch(obs, case["in/action"], case["in/reward"], case["in/reset"], terminal > 0)


def obs_shapes_of(batch: Batch) -> ObsShapes:
    return {key: tuple(x.shape[2:]) for key, x in batch.obs.items()}


def strides(text: str) -> tuple[slice, ...]:
    """The slices that a description names: "[..., ::7, ::9]"."""
    return tuple(slice(None, None, int(step)) for step in re.findall(r"::(\d+)", text))


def actor_critic_config(config: Mapping[str, Any]) -> ActorCriticConfig:
    mlp = mlp_options(config, HIDDEN_LAYERS, "auto")
    return ActorCriticConfig(
        actor=ActorConfig(
            **mlp,
            min_std=0.01,
            init_std=0.0,
            sample_gradient="exact",
            gradient="reinforce",
            gradient_mix=0.0,
            entropy_scale=config["entropy"],
        ),
        critic=HeadConfig(**mlp | {"distribution": "squared_error"}),
        reward_norm=RewardNormConfig(momentum=1.0, scale=1.0, epsilon=0.0),
        entropy_in_target=False,
        lambda_=config["lambda_gae"],
        slow_critic=True,
        slow_critic_updates=config["target_interval"],
        slow_critic_fraction=1.0,
        returns=GAEReturns(config["gamma"]),
    )


def optimizer_config(config: Mapping[str, Any], group: str) -> AdamWConfig:
    """That of the model, the actor or the critic."""
    assert list(config["betas"]) == [0.9, 0.999]
    rate, clip = (
        ("adam_lr", "grad_clip") if group == "model" else (f"adam_lr_{group}", "grad_clip_ac")
    )
    return AdamWConfig(
        learning_rate=config[rate],
        epsilon=config["adam_eps"],
        clip=config[clip],
        weight_decay=config["weight_decay"],
    )
