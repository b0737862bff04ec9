"""The recurrent state-space model: what the agent remembers, and what it expects next.

The world model drives it, over replayed sequences and in imagination. It knows latent states,
embeddings and actions, but no observation and no reward.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamer.models.activations import check_activation
from dreamer.models.latents import Latent
from dreamer.models.linear import Linear, constant_weights, linear, product_dtype
from dreamer.models.mlp import DenseLayer, LayerNorm, Norm, init_glorot
from dreamer.models.recurrent import GRUCell, LoopLinear
from dreamer.models.steps import Steps, Weights
from dreamer.models.unrolled import MakeSteps, unroll
from dreamer.types import Features, OneHotFeatures, RSSMState

ImaginationPolicy = Callable[[Features, Tensor | None], Tensor]
# `RSSM.dream_step` with its policy.
DreamStep = Callable[[Tensor, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor, Tensor]]

MANY_LATENTS = 256  # S * K; fewer one-hot numbers are multiplied faster than rows are looked up


@dataclass(frozen=True)
class RSSMConfig:
    """Sizes and variants of the recurrent state-space model."""

    deter: int  # D, units of the GRU
    hidden: int  # units of the dense layers around it
    activation: str
    norm: Norm  # of the dense layers
    layer_norm: bool  # of the GRU
    ensemble: int  # priors; each step uses one of them, drawn at random for the whole batch

    def __post_init__(self):
        check_activation(self.activation)
        for name in ("deter", "hidden", "ensemble"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"Expect `{name}` to be at least 1, actually: {getattr(self, name)}"
                )


class Prior(nn.Module):
    """Statistics of the stochastic state before the observation is seen."""

    def __init__(self, layer: DenseLayer, hidden: int, outputs: int):
        super().__init__()
        self.layer = layer
        self.out = Linear(hidden, outputs)

    def forward(self, deter: Tensor) -> Tensor:
        """(..., D) -> (..., S * P)."""
        return self.out(self.layer(deter))


class RSSM(nn.Module):
    """Deterministic GRU state and stochastic latent, inferred or imagined.

    Source: Eq. 1, section 2.1.
    """

    def __init__(self, embed_size: int, action_size: int, latent: Latent, config: RSSMConfig):
        super().__init__()
        self.config = config
        self.latent = latent
        self.deter_size = config.deter
        self.stoch_size = latent.variables * latent.classes
        one_hot = latent.classes > 1
        self.looks_up = one_hot and self.stoch_size >= MANY_LATENTS
        self.feature_size = self.stoch_size + config.deter
        stats_size = latent.variables * latent.statistics
        dense = functools.partial(DenseLayer, activation=config.activation, norm=config.norm)
        self.img_in = dense(self.stoch_size + action_size, config.hidden)
        self.gru = GRUCell(config.hidden, config.deter, layer_norm=config.layer_norm)
        self.priors = nn.ModuleList(
            Prior(dense(config.deter, config.hidden), config.hidden, stats_size)
            for _ in range(config.ensemble)
        )
        self.obs_out = dense(config.deter + embed_size, config.hidden)
        self.obs_dist = Linear(config.hidden, stats_size)
        # The released agent's choices, for which `steps.py` is written.
        dense_is_known = config.activation == "elu" and config.norm == "none"
        self.unrolls = one_hot and dense_is_known and config.layer_norm
        self.make_steps: MakeSteps = Steps  # of sequences unrolled by hand
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
        """What the model expects of the stochastic state, for one or many steps at once.

        Args:
            deter: (..., D).
            member: index of the prior to ask, broadcastable to (...); None draws one at random
                for each entry of the leading axis, or for all of a single step (B, D).

        Returns:
            (..., S, P) float32.
        """
        if len(self.priors) == 1:
            return self.latent.to_stats(self.priors[0](deter))
        if member is None:
            steps = deter.shape[: deter.ndim - 2]
            member = torch.randint(len(self.priors), steps, device=deter.device).unsqueeze(-1)
        everyone = torch.stack([self.latent.to_stats(p(deter)) for p in self.priors], -1)
        index = member.expand(deter.shape[:-1])[..., None, None, None]
        return everyone.take_along_dim(index, -1).squeeze(-1)

    def _advance(self, prev: RSSMState, prev_action: Tensor) -> Tensor:
        """Next deterministic state: (N, ...), (N, A) -> (N, D)."""
        x = self.img_in(torch.cat([prev.stoch.flatten(-2), prev_action], -1))
        return self.gru(x, prev.deter)

    def img_step(
        self, prev: RSSMState, prev_action: Tensor, noise: Tensor | None = None
    ) -> RSSMState:
        """One step without an observation.

        Args:
            prev: (N, ...).
            prev_action: (N, A), chosen in `prev`.
            noise: (N, S, K) that decides the sample; None draws it.

        Returns:
            (N, ...) with the prior's statistics and a sample of it.
        """
        deter = self._advance(prev, prev_action)
        stats = self.prior_stats(deter)
        noise = self.latent.draw_noise(stats) if noise is None else noise
        return RSSMState(deter, self.latent.sample(stats, noise), stats)

    def obs_step(
        self,
        prev: RSSMState,
        prev_action: Tensor,
        embed: Tensor,
        is_first: Tensor,
        noise: Tensor | None = None,
    ) -> RSSMState:
        """One step with an observation; where `is_first`, state and action start from zero.

        As `observe` for one step, without what that prepares for many.

        Args:
            prev: (B, ...).
            prev_action: (B, A), the action that led to the observation.
            embed: (B, M).
            is_first: (B,) bool.
            noise: (B, S, K) that decides the sample; None draws it.

        Returns:
            The posterior (B, ...). Ask `prior_stats` of its `deter` for the prior.
        """
        keep = (~is_first).float().unsqueeze(-1)  # (B, 1)
        masked = RSSMState(prev.deter * keep, prev.stoch * keep.unsqueeze(-1), prev.stats)
        deter = self._advance(masked, prev_action * keep)
        stats = self.latent.to_stats(self.obs_dist(self.obs_out(torch.cat([deter, embed], -1))))
        noise = self.latent.draw_noise(stats) if noise is None else noise
        return RSSMState(deter, self.latent.sample(stats, noise), stats)

    def observe(
        self,
        embed: Tensor,
        prev_action: Tensor,
        is_first: Tensor,
        start: RSSMState | None = None,
        noise: Tensor | None = None,
    ) -> RSSMState:
        """Infer the states of sequences of observations.

        What does not depend on the recurrent state is computed for all steps at once: the
        parts of actions and embeddings in the first layers before the loop, the gradients of its
        weights and the prior, by the caller, after it. `unrolled.py` does the whole loop for the
        released agent's choices.

        Args:
            embed: (T, B, M).
            prev_action: (T, B, A).
            is_first: (T, B) bool; there, state and action are taken as zero.
            start: (B, ...), None for zeros.
            noise: (T, B, S, K), None draws it.

        Returns:
            Posteriors (T, B, ...).
        """
        length, batch_size = embed.shape[:2]
        latent = self.latent
        keep = (~is_first).float().unsqueeze(-1)  # (T, B, 1)
        weight, bias = self.img_in.linear.weight, self.img_in.linear.bias
        weight_stoch, weight_action = weight.split([self.stoch_size, prev_action.shape[-1]], -1)
        from_action = linear(prev_action * keep, weight_action, bias)  # (T, B, hidden)
        weight, bias = self.obs_out.linear.weight, self.obs_out.linear.bias
        weight_deter, weight_embed = weight.split([self.deter_size, embed.shape[-1]], -1)
        from_embed = linear(embed, weight_embed, bias)  # (T, B, hidden)

        state = self.initial(batch_size) if start is None else start
        if noise is None:
            shape = (length, batch_size, latent.variables, latent.statistics)
            noise = latent.draw_noise(state.stats.new_empty(shape))
        if self.unrolls:
            gru, last = self.gru, self.obs_dist
            assert isinstance(gru.norm, LayerNorm)
            norm = gru.norm.weight, gru.norm.bias
            weights = Weights(
                *(weight_stoch, gru.linear.weight, gru.linear.bias, *norm),
                *(weight_deter, last.weight, last.bias),
            )
            inputs = from_embed, from_action, keep, noise
            states = unroll(*inputs, state.deter, state.stoch, weights, self.make_steps)
            return RSSMState(*states)

        from_stoch = LoopLinear(weight_stoch)
        gates = LoopLinear(self.gru.linear.weight, self.gru.linear.bias)
        from_deter = LoopLinear(weight_deter)
        obs_dist = LoopLinear(self.obs_dist.weight, self.obs_dist.bias)

        states = []
        steps = (from_embed.unbind(), from_action.unbind(), keep.unbind(), noise.unbind())
        for embedded, acted, kept, step_noise in zip(*steps, strict=True):
            # Everything is masked, though only the start of a chunk meets a non-zero action.
            stoch, deter = state.stoch.flatten(-2) * kept, state.deter * kept
            x = self.img_in.finish(from_stoch(stoch, acted))
            deter = self.gru.finish(gates(torch.cat([x, deter], -1)), deter)
            hidden = self.obs_out.finish(from_deter(deter, embedded))
            stats = latent.to_stats(obs_dist(hidden))
            state = RSSMState(deter, latent.sample(stats, step_noise), stats)
            states.append(state)
        return _stack(states)

    def imagine(
        self,
        start: RSSMState,
        policy: ImaginationPolicy,
        horizon: int,
        *,
        action_noise: Tensor | None = None,
        state_noise: Tensor | None = None,
    ) -> tuple[RSSMState, Tensor]:
        """Roll the prior forward under a policy.

        Args:
            start: (N, ...).
            policy: maps features (N, F), detached, and noise (N, A) or None to actions (N, A).
            horizon: H steps.
            action_noise: (H, N, A), None leaves it to the policy.
            state_noise: (H, N, S, K), None draws it.

        Returns:
            States (H+1, N, ...), the first being `start`, and the actions that led to each
            (H+1, N, A), the first being zero. Gradients flow through states and actions.
        """
        # states     [z0]   [z1]   ...   [zH]
        # actions    [ 0]   [a1]   ...   [aH]      a_t was chosen in z_{t-1}
        if state_noise is None:
            state_noise = self.latent.draw_noise(start.stats.expand(horizon, *start.stats.shape))
        states, actions = [start], []
        for t in range(horizon):
            noise = None if action_noise is None else action_noise[t]
            actions.append(policy(states[-1].features.detach(), noise))
            states.append(self.img_step(states[-1], actions[-1], state_noise[t]))
        return _stack(states), torch.stack([torch.zeros_like(actions[0]), *actions])

    @torch.no_grad()
    @constant_weights()
    def imagine_features(
        self,
        start: RSSMState,
        step: DreamStep,
        horizon: int,
        *,
        action_noise: Tensor | None = None,
        state_noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`imagine` without a graph, which writes down the features and nothing else.

        Arguments and numbers are those of `imagine`, but for the policy, which is in `step`:
        `dream_step`, or the same compiled. Of the states, it gives the features (H+1, N, F), in the
        type of matrix products, which is all that heads make of them.
        """
        deter = start.deter
        if state_noise is None:
            shape = horizon, *start.stats.shape
            state_noise = self.latent.draw_noise(start.stats.expand(shape))
        features = [start.features.to(product_dtype(deter))]
        actions = []
        for t in range(horizon):
            noise = None if action_noise is None else action_noise[t]
            row, deter, action = step(features[-1], deter, noise, state_noise[t])
            features.append(row)
            actions.append(action)
        prev_action = torch.stack([torch.zeros_like(actions[0]), *actions])
        return torch.stack(features), prev_action

    def dream_step(
        self,
        policy: ImaginationPolicy,
        features: Tensor,
        deter: Tensor,
        action_noise: Tensor | None,
        state_noise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of `imagine_features`.

        Args:
            policy: as that of `imagine`.
            features: (N, F), in the type of matrix products.
            deter: (N, D), the same state in float32.
            action_noise: (N, A) or None.
            state_noise: (N, S, K).

        Returns:
            features (N, F) and deter (N, D) one step later, and the action (N, A) between.
        """
        stoch, rounded = features.split([self.stoch_size, self.deter_size], -1)
        action = policy(features, action_noise)
        x = self.img_in(torch.cat([stoch, action.to(features.dtype)], -1))
        deter = self.gru.finish(self.gru.linear(torch.cat([x, rounded], -1)), deter)
        rounded = deter.to(features.dtype)
        stoch = self.latent.sample(self.prior_stats(rounded), state_noise).flatten(-2)
        return torch.cat([stoch.to(rounded.dtype), rounded], -1), deter, action

    @torch.no_grad()
    @constant_weights()
    def imagine_one_hots(
        self,
        start: RSSMState,
        policy: ImaginationPolicy,
        horizon: int,
        *,
        action_noise: Tensor | None = None,
        state_noise: Tensor | None = None,
    ) -> tuple[OneHotFeatures, Tensor]:
        """`imagine` for categorical latents without a graph, which never writes out a one-hot row.

        Arguments and numbers are those of `imagine`; of the states, it gives the features.
        """
        latent = self.latent
        first = torch.arange(latent.variables, device=start.stoch.device) * latent.classes  # (S,)
        deter = start.deter
        dtype = product_dtype(deter)  # once, where autocast would for every layer
        features = [OneHotFeatures(start.stoch.argmax(-1) + first, deter.to(dtype))]
        actions = []
        for t in range(horizon):
            noise = None if action_noise is None else action_noise[t]
            actions.append(policy(features[-1], noise))
            # The dense layer reads the action where heads read the deterministic state.
            x = self.img_in(OneHotFeatures(features[-1].ones, actions[-1]))
            gates = self.gru.linear(torch.cat([x, features[-1].deter], -1))
            deter = self.gru.finish(gates, deter)
            rounded = deter.to(dtype)
            stats = self.prior_stats(rounded)  # (N, S, K)
            noise = latent.draw_noise(stats) if state_noise is None else state_noise[t]
            features.append(OneHotFeatures((stats + noise).max(-1).indices + first, rounded))
        ones = torch.stack([x.ones for x in features])
        deters = torch.stack([x.deter for x in features])
        prev_action = torch.stack([torch.zeros_like(actions[0]), *actions])
        return OneHotFeatures(ones, deters), prev_action


def _stack(states: list[RSSMState]) -> RSSMState:
    return RSSMState(*(torch.stack(parts) for parts in zip(*states, strict=True)))
