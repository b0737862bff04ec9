"""The world model: infers latent states from observations and predicts all else from them.

The agent trains it on replayed batches and imagines trajectories with it; the policy infers states
with it. It knows neither actor nor critic: `imagine` takes the policy as a function.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn

from dreamer.losses import balanced_kl, importance_weighted, mean_where, sampled_kl
from dreamer.models.auxiliary import Auxiliary, AuxiliaryConfig, AuxiliaryContext, AuxiliaryShape
from dreamer.models.heads import Head
from dreamer.models.latents import Latent
from dreamer.models.model_heads import ModelHeadConfig, RewardTransform, transform_reward
from dreamer.models.observations import ObservationConfig, ObsShapes
from dreamer.models.rssm import ImaginationPolicy, RSSMConfig
from dreamer.schedules import NonNegativeSchedule, is_constant, parse_schedule
from dreamer.schema.types import NonNegative, OpenFraction, PositiveCount, PositiveFraction, doc
from dreamer.schema.validation import check
from dreamer.types import Batch, RSSMState, Trajectory, visible

OBSERVATIONS = "observations"  # key of `loss_scales`: the scales by observation
VECTORS = "vectors"  # key of `loss_scales`: the scale of all vector observations
METRIC_NAMES = {"discount": "continue"}  # heads with another name in metrics


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
class WorldModelConfig:
    """Configuration of the world model."""

    latent: Annotated[Latent, doc("Kind of stochastic state.")]
    rssm: Annotated[RSSMConfig, doc("The recurrent state-space model.")]
    encoder: Annotated[ObservationConfig, doc("Which observations are encoded, and how.")]
    decoder: Annotated[ObservationConfig, doc("Which observations are predicted, and how.")]
    heads: Annotated[
        Mapping[str, ModelHeadConfig | None],
        doc(
            "Other predictions, by name; null removes one. `discount` predicts gamma times the "
            "continuation, `terminal` the ends alone."
        ),
    ]
    kl: Annotated[KLConfig, doc("The KL loss.")]
    loss_scales: Annotated[
        Mapping[str, NonNegativeSchedule | Mapping[str, NonNegative]],
        doc(
            "Weights of the losses of the KL, which may be a schedule, and of observations; 1 if "
            "not given. `vectors` is that of every vector observation without one of its own."
        ),
    ]
    image_gradients: Annotated[bool, doc("Let the decoder train the latent state.")]
    reward_transform: Annotated[
        RewardTransform, doc("Transform of raw rewards to targets of the reward head.")
    ]
    discount: Annotated[PositiveFraction, doc("Gamma.", source="Table D1: 0.995")]
    iwae_samples: Annotated[
        PositiveCount,
        doc(
            "I, posterior samples of every sequence; more than one gives the loss of IWAE.",
            source="PyDreamer, and https://arxiv.org/abs/1509.00519",
        ),
    ]
    auxiliary: Annotated[
        Mapping[str, AuxiliaryConfig],
        doc("Losses that train the latent state as well, by name: dreamer/models/auxiliary.py."),
    ] = field(default_factory=dict)

    def build(self, obs_shapes: ObsShapes, action_size: int) -> "WorldModel":
        """Build the world model; a subclass may build another."""
        return WorldModel(self, obs_shapes, action_size)

    def __post_init__(self):
        check(self)
        if self.heads.get("reward") is None:
            raise ValueError("`heads` must have a `reward`: the actor learns from its predictions")
        if self.heads.get("discount") is not None and self.heads.get("terminal") is not None:
            raise ValueError(
                "`heads` must have `discount` or `terminal`, got both; set `heads.discount` to null"
            )
        kinds = dict.fromkeys(self.auxiliary, "an auxiliary loss")
        kinds |= dict.fromkeys(self.heads, "a head")
        for name, kind in kinds.items():
            taken = name == "kl" or hasattr(nn.ModuleDict(), name)
            if taken or not name.isidentifier():
                raise ValueError(
                    f"The name of {kind} must consist of letters, digits and underscores, and be "
                    f"neither `kl` nor a name that torch reserves, got {name}"
                )


class Losses(NamedTuple):
    """The parts of the world model's loss, unscaled, and their weighted sum."""

    loss: Tensor  # ()
    losses: dict[str, Tensor]  # of `kl` and of every head, each ()
    obs_losses: dict[str, Tensor]  # by observation, each ()


class WorldModelOutput(NamedTuple):
    """Result of `WorldModel.loss`; with several samples, B counts all of them."""

    loss: Tensor  # ()
    batch: Batch  # (T, B, ...), repeated for every sample
    embed: Tensor  # (T, B, M), differentiable
    posterior: RSSMState  # (T, B, ...), differentiable
    prior_stats: Tensor  # (T, B, S, P)
    losses: dict[str, Tensor]  # of `kl` and of every head, unscaled, each ()
    obs_losses: dict[str, Tensor]  # by observation, unscaled, each ()
    log_probs: dict[str, Tensor]  # by head, each (T, B)
    obs_log_probs: dict[str, Tensor]  # by observation, each (T, B)
    kl: Tensor  # (T, B) in nats
    metrics: dict[str, Tensor]  # detached, each ()


def split_loss_scales(
    scales: Mapping[str, Any], obs_shapes: ObsShapes
) -> tuple[str | float, dict[str, float]]:
    """Return the schedule of the KL scale (1 by default), and the scales of observations by key.

    Observations have the namespace `observations`, so that one may be called `kl`. The short form
    `image: 2.0` beside `kl` is accepted, too, and `vectors: 30.0` for all vector observations.

    Raises:
        ValueError: a name is neither `kl` nor an observation, or the scale of an observation is
            not a number.
    """
    nested = scales.get(OBSERVATIONS, {})
    if not isinstance(nested, Mapping):  # the short form of an observation of that name
        nested = {OBSERVATIONS: nested}
    flat = {key: scale for key, scale in scales.items() if key not in ("kl", OBSERVATIONS)}
    if VECTORS in flat and VECTORS not in obs_shapes:
        vectors = [key for key, shape in obs_shapes.items() if len(shape) == 1]
        flat = dict.fromkeys(vectors, flat.pop(VECTORS)) | flat
    observations = {**flat, **nested}
    if unknown := observations.keys() - obs_shapes.keys():
        raise ValueError(
            f"`loss_scales` must be among {['kl', *sorted(obs_shapes)]}, got {sorted(unknown)}; "
            "the scale of a head is `heads.<name>.scale`"
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
        own = visible(obs_shapes)
        self.encoder = config.encoder.build_encoder(own, self.transform_of("reward"))
        self.rssm = config.rssm.build(self.encoder.output_size, action_size, config.latent)
        self.feature_size = self.rssm.feature_size
        self.decoder = config.decoder.build_decoder(self.feature_size, own)
        used = {name: head for name, head in config.heads.items() if head is not None}
        self.heads = nn.ModuleDict(
            {
                name: head.build(self.feature_size, self.transform_of(name))
                for name, head in used.items()
            }
        )
        shape = AuxiliaryShape(self.feature_size, obs_shapes, action_size)
        self.auxiliary = nn.ModuleDict(
            {name: part.build(shape) for name, part in config.auxiliary.items()}
        )
        self.has_gradients = {name: head.gradients for name, head in used.items()}
        kl_scale, self.obs_scales = split_loss_scales(config.loss_scales, own)
        self.kl_schedule = None if is_constant(kl_scale) else parse_schedule(kl_scale)
        first = parse_schedule(kl_scale)(0)
        if self.kl_schedule:  # a tensor, so that a CUDA graph reads the value of its update
            self.register_buffer("kl_scale", torch.tensor(first), persistent=False)
        self.scales = {"kl": first} | {name: head.scale for name, head in used.items()}
        self.register_load_state_dict_pre_hook(rename_heads)

    def transform_of(self, head: str) -> Callable[[Tensor], Tensor]:
        """Return what maps raw values of a head's target to the target."""
        name = self.config.reward_transform if head == "reward" else "identity"
        return functools.partial(transform_reward, transform=name)

    def set_time(self, policy_steps: int) -> None:
        """Set what follows a schedule to its value at this time; nothing waits for the device."""
        if self.kl_schedule:
            self.kl_scale.fill_(self.kl_schedule(policy_steps))

    def real_discount(self, is_terminal: Tensor) -> Tensor:
        """Return gamma, or 0 where the episode has terminated; any shape."""
        return (~is_terminal).float() * self.config.discount

    def encode(
        self, obs: dict[str, Tensor], reward: Tensor | None, is_terminal: Tensor | None
    ) -> Tensor:
        """Encode raw observations (..., *shape) to (..., M).

        Reward and terminal (...) of the same steps are only read with `reward_input`.
        """
        return self.encoder(self.encoder.inputs(obs, reward, is_terminal))

    def targets(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the targets of the heads, by name, each (T, B, *shape).

        A subclass adds those of its own heads. Targets without a head are ignored.
        """
        return {
            "reward": self.transform_of("reward")(batch.reward),
            # Differs from the paper: a soft label, so that the head's mean includes gamma.
            "discount": self.real_discount(batch.is_terminal),
            "terminal": batch.is_terminal.float(),
        }

    def loss(
        self, batch: Batch, start: RSSMState | None = None, noise: Tensor | None = None
    ) -> WorldModelOutput:
        """Infer the posteriors of a batch, and score the priors and all predictions.

        Args:
            batch: (T, B, ...), raw.
            start: (B, ...) state before the batch, None for zeros; (B * I, ...) with I samples.
            noise: (T, B, S, K) that determines the samples, None draws it; (T, B * I, S, K) with I.

        Source: Eq. 2. First steps count, and so does their KL, as in the authors' code.
        """
        length, batch_size = batch.reward.shape
        assert batch.prev_action.shape[:2] == (length, batch_size), batch.prev_action.shape
        assert batch.is_first.shape == batch.is_terminal.shape == (length, batch_size)
        config = self.config

        given = batch
        embed = self.encode(batch.obs, batch.reward, batch.is_terminal)  # once, for all samples
        if config.iwae_samples > 1:
            embed = embed.repeat_interleave(config.iwae_samples, 1)  # (T, B * I, M)
            batch = batch.repeat(config.iwae_samples)
        posterior = self.rssm.observe(embed, batch.prev_action, batch.is_first, start, noise)
        prior_stats = self.rssm.prior_stats(posterior.deter)
        kl_term, kl = self.divergence(posterior, prior_stats)
        targets = self.targets(batch)
        obs_log_probs, log_probs = self.score(  # (T, B) each
            posterior.features, batch.obs, targets
        )
        parts = self.combine(kl_term, log_probs, obs_log_probs)
        loss, auxiliary = parts.loss, {}
        if self.auxiliary:
            added, auxiliary = self.auxiliary_loss(posterior.features, given)
            loss = loss + added

        with torch.no_grad():
            metrics = {
                "loss": loss,
                "kl": self.per_sequence(kl).mean(),
                "kl_loss": parts.losses["kl"],
                "posterior_entropy": config.latent.entropy(posterior.stats).mean(),
                "prior_entropy": config.latent.entropy(prior_stats).mean(),
            } | {f"{METRIC_NAMES.get(k, k)}_nll": x for k, x in parts.losses.items() if k != "kl"}
            metrics |= self.group_metrics(log_probs, targets) | auxiliary
            if self.kl_schedule:
                metrics["kl_scale"] = self.kl_scale.clone()
        metrics = {f"world_model/{k}": x.detach() for k, x in metrics.items()}
        metrics |= {f"observations/{k}_nll": x.detach() for k, x in parts.obs_losses.items()}
        return WorldModelOutput(
            loss,
            batch,
            embed,
            posterior,
            prior_stats,
            losses=parts.losses,
            obs_losses=parts.obs_losses,
            log_probs=log_probs,
            obs_log_probs=obs_log_probs,
            kl=kl,
            metrics=metrics,
        )

    def group_metrics(
        self, log_probs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Average the heads' losses over the groups of steps that their configurations name.

        Args:
            log_probs: by head, each (T, B) in nats.
            targets: by head, each (T, B, *shape).

        Returns:
            Each (), nan if the batch has no step of the group.
        """
        metrics = {}
        for name, log_prob in log_probs.items():
            config, head = self.config.heads[name], self.heads[name]
            assert config is not None
            assert isinstance(head, Head)
            target = targets[name][:, :: self.config.iwae_samples]
            for group, mask in config.groups(head, target).items():
                key = f"{METRIC_NAMES.get(name, name)}_nll_where_{group}"
                metrics[key] = mean_where(self.per_sequence(-log_prob), mask)
        return metrics

    def auxiliary_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up the weighted auxiliary losses of a batch.

        Args:
            features: (T, B * I, F) of the posteriors; they get gradients.
            batch: (T, B, ...), raw.

        Returns:
            The sum (), and detached metrics, each ().
        """
        samples = features.unflatten(1, (-1, self.config.iwae_samples))  # (T, B, I, F)
        context = AuxiliaryContext(
            samples[:, :, 0], self.transform_of("reward")(batch.reward), batch, samples
        )
        losses, metrics = [], {}
        for name, auxiliary in self.auxiliary.items():
            assert isinstance(auxiliary, Auxiliary)
            output = auxiliary.loss(context)
            losses.append(self.config.auxiliary[name].weight * output.loss)
            values = {"loss": output.loss, **output.metrics}
            metrics |= {f"{name}_{key}": x.detach() for key, x in values.items()}
        return torch.stack(losses).sum(), metrics

    def begin_update(self, update: int) -> None:
        """Do what depends on the number of the update (0, 1, ...), before its losses.

        CUDA graphs do not capture it.
        """
        for auxiliary in self.auxiliary.values():
            assert isinstance(auxiliary, Auxiliary)
            auxiliary.begin_update(update)

    def divergence(self, posterior: RSSMState, prior_stats: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the KL term of the loss, and the exact KL divergence (T, B), detached.

        The term is that of `balanced_kl`, (). With several samples it is that of `sampled_kl`,
        (T, B), without balancing and free nats.

        Args:
            posterior: (T, B, ...).
            prior_stats: (T, B, S, P).
        """
        config, latent = self.config.kl, self.config.latent
        if self.config.iwae_samples > 1:
            term = sampled_kl(posterior.stats, prior_stats, posterior.stoch, latent.log_prob)
            with torch.no_grad():
                return term, latent.kl_divergence(posterior.stats, prior_stats)
        return balanced_kl(
            posterior.stats,
            prior_stats,
            latent.kl_divergence,
            balance=config.balance,
            free_nats=config.free_nats,
            forward=config.forward,
            free_avg=config.free_avg,
        )

    def combine(
        self,
        kl_term: Tensor,
        log_probs: Mapping[str, Tensor],
        obs_log_probs: Mapping[str, Tensor],
    ) -> Losses:
        """Combine the KL term and all log-probabilities to the loss.

        Args:
            kl_term: see `divergence`.
            log_probs: by head, each (T, B) in nats.
            obs_log_probs: by observation, each (T, B) in nats.
        """
        losses = {"kl": kl_term} | {k: -x for k, x in log_probs.items()}
        obs_losses = {k: -x for k, x in obs_log_probs.items()}
        if self.config.iwae_samples > 1:
            # The samples are combined last: each has a weight for all of its terms.
            loss = self.per_sequence(self._weighted_sum(losses, obs_losses)).mean()
            with torch.no_grad():
                losses = {k: self.per_sequence(x).mean() for k, x in losses.items()}
                obs_losses = {k: self.per_sequence(x).mean() for k, x in obs_losses.items()}
            return Losses(loss, losses, obs_losses)
        losses = {k: x.mean() for k, x in losses.items()}
        obs_losses = {k: x.mean() for k, x in obs_losses.items()}
        return Losses(self._weighted_sum(losses, obs_losses), losses, obs_losses)

    def _weighted_sum(
        self, losses: Mapping[str, Tensor], obs_losses: Mapping[str, Tensor]
    ) -> Tensor:
        """Add up losses (...) with the configured weights: (...)."""
        scales = self.scales | ({"kl": self.kl_scale} if self.kl_schedule else {})
        scaled = [scales[k] * x for k, x in losses.items()]
        scaled += [self.obs_scales.get(k, 1.0) * x for k, x in obs_losses.items()]
        return torch.stack(scaled).sum(0)

    def per_sequence(self, loss: Tensor) -> Tensor:
        """Combine the samples of every sequence: (T, B * I) -> (T, B); with one, do nothing."""
        samples = self.config.iwae_samples
        return loss if samples == 1 else importance_weighted(loss.unflatten(1, (-1, samples)))

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
            start_is_terminal: (N,) bool, from the replay; None uses the head, as for other steps.
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
        discount = self.predict_discount(features)
        if discount is None:
            discount = torch.full_like(reward, self.config.discount)
        elif start_is_terminal is not None:
            first = self.real_discount(start_is_terminal)
            discount = torch.cat([first[None], discount[1:]])
        return Trajectory(features, prev_action, reward, discount)

    def predict_discount(self, features: Tensor) -> Tensor | None:
        """Predict gamma times the probability of continuing: (..., F) -> (...); None without head.

        The mean of `discount` includes gamma, that of `terminal` is the probability of an end.
        """
        if "discount" in self.heads:
            return self.heads["discount"](features).mean
        if "terminal" in self.heads:
            return self.config.discount * (1 - self.heads["terminal"](features).mean)
        return None

    @torch.no_grad()
    def open_loop(self, batch: Batch, context: int) -> dict[str, Tensor]:
        """Reconstruct `context` steps, then predict the rest from the actions alone.

        Args:
            batch: (T, B, ...), raw.
            context: number of steps whose observations are used, in [1, T).

        Returns:
            By image key, (T, B, C, 64, 64) in [0, 1].
        """
        predictions = self.decoder(self.open_loop_features(batch, context))
        return {k: (predictions[k].mode + 0.5).clamp(0, 1) for k in self.decoder.image_keys}

    @torch.no_grad()
    def open_loop_features(self, batch: Batch, context: int) -> Tensor:
        """Infer the states of `context` steps, then imagine the rest: features (T, B, F)."""
        known = {k: x[:context] for k, x in batch.obs.items()}
        embed = self.encode(known, batch.reward[:context], batch.is_terminal[:context])
        posterior = self.rssm.observe(embed, batch.prev_action[:context], batch.is_first[:context])
        state = posterior.at(-1)
        features = [posterior.features]
        for prev_action in batch.prev_action[context:]:
            state = self.rssm.img_step(state, prev_action)
            features.append(state.features[None])
        return torch.cat(features)


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
