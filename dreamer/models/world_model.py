"""The world model: from observations to latent states, and from those to all that is predicted.

The agent trains it on replayed batches and dreams in it; the policy filters observations with
it. It knows neither actor nor critic: imagination takes the actor as a plain function.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dreamer.losses import balanced_kl
from dreamer.models.heads import Head, HeadConfig
from dreamer.models.latents import Latent
from dreamer.models.observations import Decoder, Encoder, ObservationConfig, ObsShapes
from dreamer.models.rssm import RSSM, ImaginationPolicy, RSSMConfig
from dreamer.schema.types import NonNegative, OpenFraction, PositiveCount, PositiveFraction, doc
from dreamer.schema.validation import check
from dreamer.types import Batch, RSSMState, Trajectory

OBSERVATIONS = "observations"  # the scales of their losses, beside that of `kl`
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
class ModelHeadConfig(HeadConfig):
    """A head of the world model; `WorldModel.targets` says what it learns to predict."""

    gradients: Annotated[bool, doc("Let it train the latent state.")]
    scale: Annotated[NonNegative, doc("Weight of its loss.")]
    shape: Annotated[Sequence[PositiveCount], doc("Shape of one target.")] = ()


@dataclass(frozen=True)
class WorldModelConfig:
    """Everything about the world model that is a choice."""

    latent: Annotated[Latent, doc("Kind of stochastic state.")]
    rssm: Annotated[RSSMConfig, doc("The recurrent state-space model.")]
    encoder: Annotated[ObservationConfig, doc("What is observed, and how it is encoded.")]
    decoder: Annotated[ObservationConfig, doc("What is predicted of it, and how.")]
    heads: Annotated[
        Mapping[str, ModelHeadConfig | None],
        doc("What else is predicted, by name; null leaves one out. No `discount`: no end."),
    ]
    kl: Annotated[KLConfig, doc("How prior and posterior are pulled together.")]
    loss_scales: Annotated[
        Mapping[str, NonNegative | Mapping[str, NonNegative]],
        doc("Weights of the KL and of observations; one without counts once."),
    ]
    image_gradients: Annotated[bool, doc("Let the decoder train the latent state.")]
    reward_transform: Annotated[
        RewardTransform, doc("What the reward head's targets are of raw rewards.")
    ]
    discount: Annotated[PositiveFraction, doc("Gamma.", source="Table D1: 0.995")]

    def build(self, obs_shapes: ObsShapes, action_size: int) -> "WorldModel":
        """The world model of this configuration; a subclass builds its own."""
        return WorldModel(self, obs_shapes, action_size)

    def __post_init__(self):
        check(self)
        if self.heads.get("reward") is None:
            raise ValueError("`heads` must have a `reward`: the actor learns from what it predicts")
        for name in self.heads:
            taken = name == "kl" or hasattr(nn.ModuleDict(), name)
            if taken or not name.isidentifier():
                raise ValueError(
                    "The name of a head must be letters, digits and underscores, and neither `kl` "
                    f"nor a word that torch has taken, got {name}"
                )


class WorldModelOutput(NamedTuple):
    """What one pass over a batch gives."""

    loss: Tensor  # ()
    posterior: RSSMState  # (T, B, ...), with its graph
    prior_stats: Tensor  # (T, B, S, P)
    losses: dict[str, Tensor]  # of `kl` and of every head, unscaled, each ()
    obs_losses: dict[str, Tensor]  # by observation, unscaled, each ()
    log_probs: dict[str, Tensor]  # by head, each (T, B)
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
) -> tuple[float, dict[str, float]]:
    """The scale of the KL loss, and those of observations by key; a loss without one counts once.

    Observations have a namespace of their own, `observations`: one may be called `kl`. The short
    form `image: 2.0` beside `kl` means an observation, too.

    Raises:
        ValueError: a name is neither `kl` nor an observation.
    """
    own = scales.get(OBSERVATIONS, {})
    if not isinstance(own, Mapping):  # the short form of an observation of that name
        own = {OBSERVATIONS: own}
    flat = {key: scale for key, scale in scales.items() if key not in ("kl", OBSERVATIONS)}
    observations = {**flat, **own}
    if unknown := observations.keys() - set(obs_keys):
        raise ValueError(
            f"`loss_scales` must be among {['kl', *sorted(obs_keys)]}, got {sorted(unknown)}; that "
            "of a head is `heads.<name>.scale`"
        )
    return scales.get("kl", 1.0), observations


class WorldModel(nn.Module):
    """Encoder, RSSM and the heads that predict observations, rewards and discounts."""

    def __init__(self, config: WorldModelConfig, obs_shapes: ObsShapes, action_size: int):
        super().__init__()
        self.config = config
        self.encoder = Encoder(obs_shapes, config.encoder)
        self.rssm = RSSM(self.encoder.output_size, action_size, config.latent, config.rssm)
        self.feature_size = self.rssm.feature_size
        self.decoder = Decoder(self.feature_size, obs_shapes, config.decoder)
        used = {name: head for name, head in config.heads.items() if head is not None}
        self.heads = nn.ModuleDict(
            {name: Head(self.feature_size, head.shape, head) for name, head in used.items()}
        )
        self.has_gradients = {name: head.gradients for name, head in used.items()}
        kl_scale, self.obs_scales = split_loss_scales(config.loss_scales, obs_shapes)
        self.scales = {"kl": kl_scale} | {name: head.scale for name, head in used.items()}
        self.register_load_state_dict_pre_hook(_rename_heads)

    def real_discount(self, is_terminal: Tensor) -> Tensor:
        """What the data says of the future's worth: gamma, or 0 at the end. Any shape."""
        return (~is_terminal).float() * self.config.discount

    def targets(self, batch: Batch) -> dict[str, Tensor]:
        """What the heads learn to predict, by name, each (T, B, *shape) like `batch.reward`.

        A subclass adds those of its own heads. Those of a head that is left out are not used.
        """
        return {
            "reward": transform_reward(batch.reward, self.config.reward_transform),
            # Differs from the paper: a soft label, so that the head's mean includes gamma.
            "discount": self.real_discount(batch.is_terminal),
        }

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

        obs_log_probs, log_probs = self.score(  # (T, B) each
            posterior.features, batch.obs, self.targets(batch)
        )
        losses = {"kl": kl_loss} | {k: -x.mean() for k, x in log_probs.items()}
        obs_losses = {k: -x.mean() for k, x in obs_log_probs.items()}
        scaled = [self.scales[k] * x for k, x in losses.items()]
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
        """Log-densities (...) in nats of raw observations, and of the targets of all heads.

        Args:
            features: (..., F); they get no gradient from a head whose switch is off.
            obs: by key, (..., *shape).
            targets: by head, (..., *shape), see `targets`.

        Raises:
            ValueError: a head has no target.
        """
        constant = features.detach()
        of_obs = self.decoder.log_prob(features if self.config.image_gradients else constant, obs)
        scores = {}
        for name, head in self.heads.items():
            if name not in targets:
                raise ValueError(
                    f"`{type(self).__name__}.targets` must have one for every head, got none for "
                    f"`{name}`"
                )
            prediction = head(features if self.has_gradients[name] else constant)
            scores[name] = prediction.log_prob(targets[name])
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
        reward = self.heads["reward"](features).mean
        if "discount" not in self.heads:
            discount = torch.full_like(reward, self.config.discount)
        else:
            discount = self.heads["discount"](features).mean
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


def _rename_heads(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take weights of the time when the heads were `reward_head` and `discount_head`."""
    for name in ("reward", "discount"):
        old = f"{prefix}{name}_head."
        for key in [key for key in state_dict if key.startswith(old)]:
            state_dict[f"{prefix}heads.{name}.{key.removeprefix(old)}"] = state_dict.pop(key)
