"""The recurrent state-space model: infers latent states and predicts the next ones.

The world model runs it on replayed sequences and in imagination. It knows latent states,
embeddings and actions, but no observations and no rewards.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from torch import Tensor, nn

from dreamer.models.latents import Latent
from dreamer.models.layers import ActivationKey, DenseLayer, LayerNorm, NormKey, init_glorot
from dreamer.schema.types import PositiveCount, doc
from dreamer.schema.validation import check
from dreamer.types import RSSMState

ImaginationPolicy = Callable[[Tensor, Tensor | None], Tensor]

UPDATE_BIAS = -1.0  # untrained, the GRU keeps most of its state


class CellConfig(Protocol):
    """Interface of a recurrent cell's configuration."""

    def build(self, input_size: int, size: int) -> nn.Module:
        """Build the cell, which maps (N, input_size) and the state (N, D) to the new state."""
        ...


@dataclass(frozen=True)
class GRUConfig:
    """DreamerV2's recurrent cell."""

    layer_norm: Annotated[bool, doc("Use layer norm in the GRU.")]

    def build(self, input_size: int, size: int) -> nn.Module:
        """See `CellConfig`."""
        return GRUCell(input_size, size, layer_norm=self.layer_norm)

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class RSSMConfig:
    """Sizes and variants of the recurrent state-space model."""

    deter: Annotated[PositiveCount, doc("D, units of the GRU.", source="the paper")]
    hidden: Annotated[PositiveCount, doc("Units of the dense layers around the GRU.")]
    activation: ActivationKey
    norm: NormKey  # of the dense layers
    cell: Annotated[CellConfig, doc("The recurrent cell.")]
    ensemble: Annotated[
        PositiveCount, doc("Number of priors; each step uses a random one for the whole batch.")
    ]

    def build(self, embed_size: int, action_size: int, latent: Latent) -> "RSSM":
        """Build the model; a subclass may build another."""
        return RSSM(embed_size, action_size, latent, self)

    def __post_init__(self):
        check(self)


class GRUCell(nn.Module):
    """A gated recurrent unit with one layer norm over all its gates.

    The reset gate multiplies the normalised candidate, not the old state. An update gate near 1
    replaces the state.

    Source: `GRUCell` of the authors' code. Differs from the paper: layer norm is on by default.
    """

    def __init__(self, input_size: int, size: int, *, layer_norm: bool):
        super().__init__()
        self.linear = nn.Linear(input_size + size, 3 * size)
        self.norm = LayerNorm(3 * size) if layer_norm else nn.Identity()

    def forward(self, x: Tensor, deter: Tensor) -> Tensor:
        """Input (..., input_size) and state (..., D) -> new state (..., D) float32."""
        gates = self.norm(self.linear(torch.cat([x, deter], -1))).float()
        reset, candidate, update = gates.chunk(3, -1)
        new = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(deter, new, torch.sigmoid(update + UPDATE_BIAS))


class Prior(nn.Module):
    """Predicts the statistics of the stochastic state without the observation."""

    def __init__(self, layer: DenseLayer, hidden: int, outputs: int):
        super().__init__()
        self.layer = layer
        self.out = nn.Linear(hidden, outputs)

    def forward(self, deter: Tensor) -> Tensor:
        """(..., D) -> (..., S * P)."""
        return self.out(self.layer(deter))


class RSSM(nn.Module):
    """Deterministic and stochastic state, inferred from observations or imagined.

    Source: Eq. 1, section 2.1.
    """

    resets_actions = True  # whether `reset` zeroes the action; if not, policies do

    def __init__(self, embed_size: int, action_size: int, latent: Latent, config: RSSMConfig):
        super().__init__()
        self.config = config
        self.latent = latent
        self.deter_size = config.deter
        self.stoch_size = latent.variables * latent.classes
        self.feature_size = self.stoch_size + config.deter
        stats_size = latent.variables * latent.statistics
        dense = functools.partial(DenseLayer, activation=config.activation, norm=config.norm)
        self.img_in = dense(self.stoch_size + action_size, config.hidden)
        self.gru = config.cell.build(config.hidden, config.deter)
        self.priors = nn.ModuleList(
            Prior(dense(config.deter, config.hidden), config.hidden, stats_size)
            for _ in range(config.ensemble)
        )
        self.obs_out = dense(config.deter + embed_size, config.hidden)
        self.obs_dist = nn.Linear(config.hidden, stats_size)
        self.apply(init_glorot)

    def initial(self, batch_size: int) -> RSSMState:
        """The state before the first step: zeros, (B, ...)."""
        zeros = self.obs_dist.weight.new_zeros
        latent = self.latent
        return RSSMState(
            zeros(batch_size, self.deter_size),
            zeros(batch_size, latent.variables, latent.classes),
            zeros(batch_size, latent.variables, latent.statistics),
        )

    def prior_stats(self, deter: Tensor, member: Tensor | None = None) -> Tensor:
        """Compute the statistics of the prior, for one or many steps at once.

        Args:
            deter: (..., D).
            member: index into the ensemble of priors, broadcastable to (...); None draws one for
                each step.

        Returns:
            (..., S, P) float32.
        """
        if len(self.priors) == 1:
            return self.latent.to_stats(self.priors[0](deter))
        if member is None:
            steps = deter.shape[: deter.ndim - 2]
            member = torch.randint(len(self.priors), steps, device=deter.device).unsqueeze(-1)
        stats = torch.stack([self.latent.to_stats(p(deter)) for p in self.priors], -1)
        index = member.expand(deter.shape[:-1])[..., None, None, None]
        return stats.take_along_dim(index, -1).squeeze(-1)

    def img_step(
        self, prev: RSSMState, prev_action: Tensor, noise: Tensor | None = None
    ) -> RSSMState:
        """Take one step without an observation: sample the prior.

        Args:
            prev: (N, ...).
            prev_action: (N, A), chosen in `prev`.
            noise: (N, S, K) that determines the sample; None draws it.
        """
        deter = self._next_deter(prev, prev_action)
        return self._sample(deter, self.prior_stats(deter), noise)

    def obs_step(
        self,
        prev: RSSMState,
        prev_action: Tensor,
        embed: Tensor,
        is_first: Tensor,
        noise: Tensor | None = None,
    ) -> RSSMState:
        """Take one step with an observation: sample the posterior. `is_first` resets the state.

        Args:
            prev: (B, ...).
            prev_action: (B, A), the action that led to the observation.
            embed: (B, M).
            is_first: (B,) bool.
            noise: (B, S, K) that determines the sample; None draws it.
        """
        deter = self._next_deter(*self.reset(prev, prev_action, is_first))
        x = self.obs_out(torch.cat([deter, embed], -1))
        return self._sample(deter, self.latent.to_stats(self.obs_dist(x)), noise)

    def reset(
        self, prev: RSSMState, prev_action: Tensor, is_first: Tensor
    ) -> tuple[RSSMState, Tensor]:
        """Zero what leads into an episode's first step: the state (B, ...) and the action (B, A).

        `is_first` is (B,) bool.
        """
        keep = (~is_first).float().unsqueeze(-1)  # (B, 1)
        prev = RSSMState(prev.deter * keep, prev.stoch * keep.unsqueeze(-1), prev.stats)
        return prev, prev_action * keep

    def observe(
        self,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        start: RSSMState | None = None,
        noise: Tensor | None = None,
    ) -> RSSMState:
        """Infer the posteriors of sequences of observations: `obs_step` for T steps.

        Args:
            embed: (T, B, M).
            prev_action: (T, B, A).
            is_first: (T, B) bool; there, the previous state and action count as zero.
            start: (B, ...), None for zeros.
            noise: (T, B, S, K), None draws it.

        Returns:
            Posteriors (T, B, ...).
        """
        length, batch_size = embed.shape[:2]
        state = self.initial(batch_size) if start is None else start
        if noise is None:
            noise = self.latent.draw_noise(state.stats.expand(length, *state.stats.shape))
        states = []
        for t in range(length):
            state = self.obs_step(state, prev_action[t], embed[t], is_first[t], noise[t])
            states.append(state)
        return RSSMState(*(torch.stack(parts) for parts in zip(*states, strict=True)))

    def imagine(
        self,
        start: RSSMState,
        policy: ImaginationPolicy,
        horizon: int,
        *,
        action_noise: Tensor | None = None,
        state_noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Imagine trajectories under a policy: `img_step` for H steps.

        Args:
            start: (N, ...).
            policy: maps detached features (N, F) and noise (N, A) or None to actions (N, A).
            horizon: H steps.
            action_noise: (H, N, A), None leaves it to the policy.
            state_noise: (H, N, S, K), None draws it.

        Returns:
            Features (H+1, N, F), the first are those of `start`, and the actions that led to them
            (H+1, N, A), the first are zero. Gradients flow through features and actions.
        """
        # features   [z0]   [z1]   ...   [zH]
        # actions    [ 0]   [a1]   ...   [aH]      a_t was chosen in z_{t-1}
        state, features, actions = start, [start.features], []
        for t in range(horizon):
            noise = None if action_noise is None else action_noise[t]
            actions.append(policy(features[-1].detach(), noise))
            noise = None if state_noise is None else state_noise[t]
            state = self.img_step(state, actions[-1], noise)
            features.append(state.features)
        prev_action = [torch.zeros_like(actions[0]), *actions]
        return torch.stack(features), torch.stack(prev_action)

    def _next_deter(self, prev: RSSMState, prev_action: Tensor) -> Tensor:
        """Compute the next deterministic state: (N, ...), (N, A) -> (N, D)."""
        x = self.img_in(torch.cat([prev.stoch.flatten(-2), prev_action], -1))
        return self.gru(x, prev.deter)

    def _sample(self, deter: Tensor, stats: Tensor, noise: Tensor | None) -> RSSMState:
        """Sample a state (N, ...) from (N, D), (N, S, P) and noise (N, S, K) or None."""
        noise = self.latent.draw_noise(stats) if noise is None else noise
        return RSSMState(deter, self.latent.sample(stats, noise), stats)
