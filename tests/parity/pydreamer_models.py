"""Our latents, states and models from the configuration of PyDreamer's golden files."""

import torch
from golden import Case
from torch import Tensor

from dreamer.models.latents import CategoricalLatent, GaussianLatent, Latent
from dreamer.models.pydreamer import GateNormGRUConfig, PlainGRUConfig, UnbiasedGRUConfig
from dreamer.types import RSSMState

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
