"""The world model: from observations to latent states, and from those to all that is predicted.

The agent trains it on replayed batches and dreams in it; the policy filters observations with
it. It knows neither actor nor critic: imagination takes the actor as a plain function.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dreamer.losses import balanced_kl
from dreamer.models.encoder import Decoder, Encoder, ObservationConfig, ObsShapes
from dreamer.models.latents import Latent
from dreamer.models.mlp import Head, HeadConfig
from dreamer.models.rssm import RSSM, ImaginationPolicy, RSSMConfig
from dreamer.schema.types import NonNegative, OpenFraction, PositiveFraction, doc
from dreamer.schema.validation import check
from dreamer.types import Batch, RSSMState, Trajectory

LOSSES = ("kl", "reward", "discount")
OBSERVATIONS = "observations"  # the scales of their losses, beside those of `LOSSES`
METRIC_NAMES = {"discount": "continue"}  # the field's word for the head, where it is logged

RewardTransform = Literal["tanh", "sign", "identity"]


@dataclass(frozen=True)
class KLConfig:
    """How the KL divergence pulls prior and posterior together (section 2.1, KL balancing)."""

    balance: Annotated[OpenFraction, doc("Share of the prior's gradient; 0.5 is the plain KL.")]
    free_nats: Annotated[NonNegative, doc("A KL below this counts as this.", unit="nats")]
    forward: Annotated[bool, doc("Use KL(prior || posterior), not KL(posterior || prior).")]
    free_avg: Annotated[bool, doc("Apply free nats to the mean, not to each entry.")]

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class WorldModelConfig:
    """Everything about the world model that is a choice."""

    latent: Annotated[Latent, doc("Kind of stochastic state.")]
    rssm: Annotated[RSSMConfig, doc("The recurrent state-space model.")]
    encoder: Annotated[ObservationConfig, doc("What is observed, and how it is encoded.")]
    decoder: Annotated[ObservationConfig, doc("What is predicted of it, and how.")]
    reward_head: Annotated[HeadConfig, doc("Predicts rewards.")]
    discount_head: Annotated[
        HeadConfig | None, doc("Predicts whether episodes go on; null: they never end.")
    ]
    kl: Annotated[KLConfig, doc("How prior and posterior are pulled together.")]
    loss_scales: Annotated[
        Mapping[str, NonNegative | Mapping[str, NonNegative]],
        doc("Weights of the losses; one without, such as the image's, counts once."),
    ]
    image_gradients: Annotated[bool, doc("Let the decoder train the latent state.")]
    reward_gradients: Annotated[bool, doc("Let the reward head train the latent state.")]
    discount_gradients: Annotated[bool, doc("Let the discount head train the latent state.")]
    reward_transform: Annotated[
        RewardTransform, doc("What the reward head's targets are of raw rewards.")
    ]
    discount: Annotated[PositiveFraction, doc("Gamma.", source="Table D1: 0.995")]

    def __post_init__(self):
        check(self)


class WorldModelOutput(NamedTuple):
    """What one pass over a batch gives."""

    loss: Tensor  # ()
    posterior: RSSMState  # (T, B, ...), with its graph
    prior_stats: Tensor  # (T, B, S, P)
    losses: dict[str, Tensor]  # `kl`, `reward` and `discount`, unscaled, each ()
    obs_losses: dict[str, Tensor]  # by observation, unscaled, each ()
    log_probs: dict[str, Tensor]  # of `reward` and `discount`, each (T, B)
    obs_log_probs: dict[str, Tensor]  # by observation, each (T, B)
    kl: Tensor  # (T, B) in nats
    metrics: dict[str, Tensor]  # detached, each ()


def transform_reward(reward: Tensor, transform: RewardTransform) -> Tensor:
    """Squash raw rewards into training targets of the reward head, any shape."""
    match transform:
        case "tanh":
            return reward.tanh()
        case "sign":
            return reward.sign()
        case "identity":
            return reward


def split_loss_scales(
    scales: Mapping[str, Any], obs_keys: Collection[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Scales of the losses `kl`, `reward` and `discount`, and those of observations by key.

    Observations have a namespace of their own, `observations`: one may be called `reward`. The
    short form `image: 2.0` beside `kl` means an observation, too, unless it names another loss.

    Raises:
        ValueError: a name is neither a loss nor an observation.
    """
    own = scales.get(OBSERVATIONS, {})
    if not isinstance(own, Mapping):  # the short form of an observation of that name
        own = {OBSERVATIONS: own}
    flat = {key: scale for key, scale in scales.items() if key != OBSERVATIONS}
    losses = {key: flat.pop(key) for key in LOSSES if key in flat}
    observations = {**flat, **own}
    if unknown := observations.keys() - set(obs_keys):
        raise ValueError(
            f"`loss_scales` must be among {sorted([*LOSSES, *obs_keys])}, got {sorted(unknown)}"
        )
    return losses, observations


class WorldModel(nn.Module):
    """Encoder, RSSM and the heads that predict observations, rewards and discounts."""

    def __init__(self, config: WorldModelConfig, obs_shapes: ObsShapes, action_size: int):
        super().__init__()
        self.config = config
        self.encoder = Encoder(obs_shapes, config.encoder)
        self.rssm = RSSM(self.encoder.output_size, action_size, config.latent, config.rssm)
        self.feature_size = self.rssm.feature_size
        self.decoder = Decoder(self.feature_size, obs_shapes, config.decoder)
        self.reward_head = Head(self.feature_size, (), config.reward_head)
        self.discount_head = (
            Head(self.feature_size, (), config.discount_head) if config.discount_head else None
        )
        self.scales, self.obs_scales = split_loss_scales(config.loss_scales, obs_shapes)

    def real_discount(self, is_terminal: Tensor) -> Tensor:
        """What the data says of the future's worth: gamma, or 0 at the end. Any shape."""
        return (~is_terminal).float() * self.config.discount

    def loss(
        self, batch: Batch, start: RSSMState | None = None, noise: Tensor | None = None
    ) -> WorldModelOutput:
        """Infer the latent states of a batch and score everything that is predicted from them.

        Args:
            batch: (T, B, ...), raw.
            start: (B, ...) state before the batch, None for zeros.
            noise: (T, B, S, K) that decides the samples, None draws it.

        Source: Eq. 2. The loss of a first step is kept, its KL included, as in the authors' code.
        """
        length, batch_size = batch.reward.shape
        assert batch.prev_action.shape[:2] == (length, batch_size), batch.prev_action.shape
        assert batch.is_first.shape == batch.is_terminal.shape == (length, batch_size)
        config = self.config

        posterior = self.rssm.observe(
            self.encoder(batch.obs), batch.prev_action, batch.is_first, start, noise
        )
        prior_stats = self.rssm.prior_stats(posterior.deter)
        kl_loss, kl = balanced_kl(
            posterior.stats,
            prior_stats,
            config.latent.kl_divergence,
            balance=config.kl.balance,
            free_nats=config.kl.free_nats,
            forward=config.kl.forward,
            free_avg=config.kl.free_avg,
        )

        targets = {"reward": transform_reward(batch.reward, config.reward_transform)}
        if self.discount_head is not None:
            # Differs from the paper: a soft label, so that the head's mean includes gamma.
            targets["discount"] = self.real_discount(batch.is_terminal)
        obs_log_probs, log_probs = self.score(posterior.features, batch.obs, targets)  # (T, B) each
        losses = {"kl": kl_loss} | {k: -x.mean() for k, x in log_probs.items()}
        obs_losses = {k: -x.mean() for k, x in obs_log_probs.items()}
        scaled = [self.scales.get(k, 1.0) * x for k, x in losses.items()]
        scaled += [self.obs_scales.get(k, 1.0) * x for k, x in obs_losses.items()]
        loss = torch.stack(scaled).sum()

        with torch.no_grad():
            metrics = {
                "loss": loss,
                "kl": kl.mean(),
                "kl_loss": kl_loss,
                "posterior_entropy": config.latent.entropy(posterior.stats).mean(),
                "prior_entropy": config.latent.entropy(prior_stats).mean(),
            } | {f"{METRIC_NAMES.get(k, k)}_nll": x for k, x in losses.items() if k != "kl"}
        metrics = {f"world_model/{k}": x.detach() for k, x in metrics.items()}
        metrics |= {f"observations/{k}_nll": x.detach() for k, x in obs_losses.items()}
        return WorldModelOutput(
            loss,
            posterior,
            prior_stats,
            losses=losses,
            obs_losses=obs_losses,
            log_probs=log_probs,
            obs_log_probs=obs_log_probs,
            kl=kl,
            metrics=metrics,
        )

    def score(
        self, features: Tensor, obs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Log-densities (...) in nats of raw observations, and of the targets of the other heads.

        Args:
            features: (..., F); they get no gradient from a head whose switch is off.
            obs: by key, (..., *shape).
            targets: (...) of `reward`, and of `discount` where there is such a head.
        """
        config = self.config
        constant = features.detach()
        of_obs = self.decoder.log_prob(features if config.image_gradients else constant, obs)
        reward_input = features if config.reward_gradients else constant
        scores = {"reward": self.reward_head(reward_input).log_prob(targets["reward"])}
        if self.discount_head is not None:
            discount_input = features if config.discount_gradients else constant
            scores["discount"] = self.discount_head(discount_input).log_prob(targets["discount"])
        return of_obs, scores

    def imagine(
        self,
        start: RSSMState,
        start_is_terminal: Tensor | None,
        policy: ImaginationPolicy,
        horizon: int,
        *,
        action_noise: Tensor | None = None,
        state_noise: Tensor | None = None,
    ) -> Trajectory:
        """Dream `horizon` steps from each start.

        Args:
            start: (N, ...).
            start_is_terminal: (N,) bool, what the replay knows of the start; None trusts the head.
            policy: maps detached features (N, F) and noise or None to actions (N, A).
            horizon: H.
            action_noise: (H, N, A) or None.
            state_noise: (H, N, S, K) or None.

        Returns:
            (H+1, N, ...). Gradients flow through the actions, the dynamics and the heads.
        """
        features, prev_action = self.rssm.imagine(
            start, policy, horizon, action_noise=action_noise, state_noise=state_noise
        )
        reward = self.reward_head(features).mean
        if self.discount_head is None:
            discount = torch.full_like(reward, self.config.discount)
        else:
            discount = self.discount_head(features).mean
            if start_is_terminal is not None:
                first = self.real_discount(start_is_terminal)
                discount = torch.cat([first[None], discount[1:]])
        return Trajectory(features, prev_action, reward, discount)

    @torch.no_grad()
    def open_loop(self, batch: Batch, context: int) -> dict[str, Tensor]:
        """Reconstruct `context` steps, then predict the rest from the actions alone.

        Args:
            batch: (T, B, ...), raw.
            context: steps of which the observation is seen, in [1, T).

        Returns:
            By image key, (T, B, C, 64, 64) in [0, 1].
        """
        embed = self.encoder({k: x[:context] for k, x in batch.obs.items()})
        seen = self.rssm.observe(embed, batch.prev_action[:context], batch.is_first[:context])
        state = seen.at(-1)
        features = [seen.features]
        for prev_action in batch.prev_action[context:]:
            state = self.rssm.img_step(state, prev_action)
            features.append(state.features[None])
        predictions = self.decoder(torch.cat(features))
        return {k: (predictions[k].mode + 0.5).clamp(0, 1) for k in self.decoder.image_keys}
