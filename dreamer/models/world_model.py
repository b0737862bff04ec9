"""The world model: infers latent states from observations and predicts all else from them.

The agent trains it on replayed batches and imagines trajectories with it; the policy infers states
with it. It knows neither actor nor critic: `imagine` takes the policy as a function.
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
from dreamer.schedules import NonNegativeSchedule, is_constant, parse_schedule
from dreamer.schema.types import NonNegative, OpenFraction, PositiveCount, PositiveFraction, doc
from dreamer.schema.validation import check
from dreamer.types import Batch, RSSMState, Trajectory

OBSERVATIONS = "observations"  # key of `loss_scales`: the scales by observation
METRIC_NAMES = {"discount": "continue"}  # heads with another name in metrics

RewardTransform = Literal["tanh", "sign", "identity"]


@dataclass(frozen=True)
class KLConfig:
    """The KL loss between posterior and prior (section 2.1, KL balancing)."""

    balance: Annotated[OpenFraction, doc("Share of the prior's gradient; 0.5 is the plain KL.")]
    free_nats: Annotated[NonNegative, doc("Least value of the KL in the loss.", unit="nats")]
    forward: Annotated[bool, doc("Use KL(prior || posterior), not KL(posterior || prior).")]
    free_avg: Annotated[bool, doc("Apply free nats to the mean, not to each entry.")]

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class ModelHeadConfig(HeadConfig):
    """A head of the world model; `WorldModel.targets` computes its targets."""

    gradients: Annotated[bool, doc("Let the head train the latent state.")]
    scale: Annotated[NonNegative, doc("Weight of its loss.")]
    shape: Annotated[Sequence[PositiveCount], doc("Shape of one target.")] = ()


@dataclass(frozen=True)
class WorldModelConfig:
    """Configuration of the world model."""

    latent: Annotated[Latent, doc("Kind of stochastic state.")]
    rssm: Annotated[RSSMConfig, doc("The recurrent state-space model.")]
    encoder: Annotated[ObservationConfig, doc("Which observations are encoded, and how.")]
    decoder: Annotated[ObservationConfig, doc("Which observations are predicted, and how.")]
    heads: Annotated[
        Mapping[str, ModelHeadConfig | None],
        doc("Other predictions, by name; null removes one. `discount` predicts ends."),
    ]
    kl: Annotated[KLConfig, doc("The KL loss.")]
    loss_scales: Annotated[
        Mapping[str, NonNegativeSchedule | Mapping[str, NonNegative]],
        doc(
            "Weights of the losses of the KL, which may be a schedule, and of observations; 1 if "
            "not given."
        ),
    ]
    image_gradients: Annotated[bool, doc("Let the decoder train the latent state.")]
    reward_transform: Annotated[
        RewardTransform, doc("Transform of raw rewards to targets of the reward head.")
    ]
    discount: Annotated[PositiveFraction, doc("Gamma.", source="Table D1: 0.995")]

    def build(self, obs_shapes: ObsShapes, action_size: int) -> "WorldModel":
        """Build the world model; a subclass may build another."""
        return WorldModel(self, obs_shapes, action_size)

    def __post_init__(self):
        check(self)
        if self.heads.get("reward") is None:
            raise ValueError("`heads` must have a `reward`: the actor learns from its predictions")
        for name in self.heads:
            taken = name == "kl" or hasattr(nn.ModuleDict(), name)
            if taken or not name.isidentifier():
                raise ValueError(
                    "The name of a head must consist of letters, digits and underscores, and be "
                    f"neither `kl` nor a name that torch reserves, got {name}"
                )


class WorldModelOutput(NamedTuple):
    """Result of `WorldModel.loss`."""

    loss: Tensor  # ()
    embed: Tensor  # (T, B, M), differentiable
    posterior: RSSMState  # (T, B, ...), differentiable
    prior_stats: Tensor  # (T, B, S, P)
    losses: dict[str, Tensor]  # of `kl` and of every head, unscaled, each ()
    obs_losses: dict[str, Tensor]  # by observation, unscaled, each ()
    log_probs: dict[str, Tensor]  # by head, each (T, B)
    obs_log_probs: dict[str, Tensor]  # by observation, each (T, B)
    kl: Tensor  # (T, B) in nats
    metrics: dict[str, Tensor]  # detached, each ()


def transform_reward(reward: Tensor, transform: RewardTransform) -> Tensor:
    """Transform raw rewards to targets of the reward head, any shape."""
    match transform:
        case "tanh":
            return reward.tanh()
        case "sign":
            return reward.sign()
        case "identity":
            return reward


def split_loss_scales(
    scales: Mapping[str, Any], obs_keys: Collection[str]
) -> tuple[str | float, dict[str, float]]:
    """Return the schedule of the KL scale (1 by default), and the scales of observations by key.

    Observations have the namespace `observations`, so that one may be called `kl`. The short form
    `image: 2.0` beside `kl` is accepted, too.

    Raises:
        ValueError: a name is neither `kl` nor an observation, or the scale of an observation is
            not a number.
    """
    nested = scales.get(OBSERVATIONS, {})
    if not isinstance(nested, Mapping):  # the short form of an observation of that name
        nested = {OBSERVATIONS: nested}
    flat = {key: scale for key, scale in scales.items() if key not in ("kl", OBSERVATIONS)}
    observations = {**flat, **nested}
    if unknown := observations.keys() - set(obs_keys):
        raise ValueError(
            f"`loss_scales` must be among {['kl', *sorted(obs_keys)]}, got {sorted(unknown)}; the "
            "scale of a head is `heads.<name>.scale`"
        )
    for key, scale in observations.items():
        if not is_constant(scale):
            raise ValueError(
                f"`loss_scales.{key}` must be a number, got {scale}; of these scales only `kl` may "
                "be a schedule"
            )
    return scales.get("kl", 1.0), observations


class WorldModel(nn.Module):
    """Encoder, RSSM, decoder and the heads that predict rewards, discounts and more."""

    kl_scale: Tensor  # () float, only if it is a schedule

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
        self.kl_schedule = None if is_constant(kl_scale) else parse_schedule(kl_scale)
        first = parse_schedule(kl_scale)(0)
        if self.kl_schedule:  # a tensor, so that a CUDA graph reads the value of its update
            self.register_buffer("kl_scale", torch.tensor(first), persistent=False)
        self.scales = {"kl": first} | {name: head.scale for name, head in used.items()}
        self.register_load_state_dict_pre_hook(rename_heads)

    def set_time(self, policy_steps: int) -> None:
        """Set what follows a schedule to its value at this time; nothing waits for the device."""
        if self.kl_schedule:
            self.kl_scale.fill_(self.kl_schedule(policy_steps))

    def real_discount(self, is_terminal: Tensor) -> Tensor:
        """Return gamma, or 0 where the episode has terminated; any shape."""
        return (~is_terminal).float() * self.config.discount

    def targets(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the targets of the heads, by name, each (T, B, *shape).

        A subclass adds those of its own heads. Targets without a head are ignored.
        """
        return {
            "reward": transform_reward(batch.reward, self.config.reward_transform),
            # Differs from the paper: a soft label, so that the head's mean includes gamma.
            "discount": self.real_discount(batch.is_terminal),
        }

    def loss(
        self, batch: Batch, start: RSSMState | None = None, noise: Tensor | None = None
    ) -> WorldModelOutput:
        """Infer the posteriors of a batch, and score the priors and all predictions.

        Args:
            batch: (T, B, ...), raw.
            start: (B, ...) state before the batch, None for zeros.
            noise: (T, B, S, K) that determines the samples, None draws it.

        Source: Eq. 2. First steps count, and so does their KL, as in the authors' code.
        """
        length, batch_size = batch.reward.shape
        assert batch.prev_action.shape[:2] == (length, batch_size), batch.prev_action.shape
        assert batch.is_first.shape == batch.is_terminal.shape == (length, batch_size)
        config = self.config

        embed = self.encoder(batch.obs)
        posterior = self.rssm.observe(embed, batch.prev_action, batch.is_first, start, noise)
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
        scales = self.scales | ({"kl": self.kl_scale} if self.kl_schedule else {})
        scaled = [scales[k] * x for k, x in losses.items()]
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
            if self.kl_schedule:
                metrics["kl_scale"] = self.kl_scale.clone()
        metrics = {f"world_model/{k}": x.detach() for k, x in metrics.items()}
        metrics |= {f"observations/{k}_nll": x.detach() for k, x in obs_losses.items()}
        return WorldModelOutput(
            loss,
            embed,
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
        """Compute log-probabilities (...) in nats of raw observations and of the heads' targets.

        Args:
            features: (..., F); heads with `gradients: false` send no gradient into them.
            obs: by key, (..., *shape).
            targets: by head, (..., *shape), see `targets`.

        Raises:
            ValueError: a head has no target.
        """
        detached = features.detach()
        obs_scores = self.decoder.log_prob(
            features if self.config.image_gradients else detached, obs
        )
        scores = {}
        for name, head in self.heads.items():
            if name not in targets:
                raise ValueError(
                    f"`{type(self).__name__}.targets` must have a target for every head, got none "
                    f"for `{name}`"
                )
            prediction = head(features if self.has_gradients[name] else detached)
            scores[name] = prediction.log_prob(targets[name])
        return obs_scores, scores

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
        """Imagine a trajectory of `horizon` steps from each start.

        Args:
            start: (N, ...).
            start_is_terminal: (N,) bool, from the replay; None uses the discount head.
            policy: maps detached features (N, F) and noise or None to actions (N, A).
            horizon: H.
            action_noise: (H, N, A) or None.
            state_noise: (H, N, S, K) or None.

        Returns:
            (H+1, N, ...). Gradients flow through actions, dynamics and heads.
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
            context: number of steps whose observations are used, in [1, T).

        Returns:
            By image key, (T, B, C, 64, 64) in [0, 1].
        """
        embed = self.encoder({k: x[:context] for k, x in batch.obs.items()})
        posterior = self.rssm.observe(embed, batch.prev_action[:context], batch.is_first[:context])
        state = posterior.at(-1)
        features = [posterior.features]
        for prev_action in batch.prev_action[context:]:
            state = self.rssm.img_step(state, prev_action)
            features.append(state.features[None])
        predictions = self.decoder(torch.cat(features))
        return {k: (predictions[k].mode + 0.5).clamp(0, 1) for k in self.decoder.image_keys}


def rename_heads(
    module: nn.Module | None, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Accept old checkpoints, in which the heads are `reward_head` and `discount_head`.

    The signature is that of torch's hooks; `prefix` is that of the names of a world model.
    """
    for name in ("reward", "discount"):
        old = f"{prefix}{name}_head."
        for key in [key for key in state_dict if key.startswith(old)]:
            state_dict[f"{prefix}heads.{name}.{key.removeprefix(old)}"] = state_dict.pop(key)
