"""The smallest agent that has every part; its sizes are pairwise different, so swapped axes fail.

Builders give one default each; a test changes what it is about with `dataclasses.replace`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dreamer.agent import AgentConfig, DreamerAgent
from dreamer.exploration import EnsembleOnlyConfig, ModelLossConfig, Plan2ExploreConfig
from dreamer.models.actor_critic import ActorConfig, ActorCriticConfig, RewardNormConfig
from dreamer.models.ensemble import EnsembleConfig
from dreamer.models.heads import HeadConfig
from dreamer.models.latents import BinaryLatent, CategoricalLatent, GaussianLatent
from dreamer.models.observations import ObservationConfig, ObsShapes, VectorConfig
from dreamer.models.rssm import GRUConfig, RSSMConfig
from dreamer.models.vision import ConvConfig
from dreamer.models.world_model import KLConfig, ModelHeadConfig, WorldModelConfig
from dreamer.optim import OptimizerConfig
from dreamer.types import ActionSpace, Batch, RSSMState

T, B, H = 7, 3, 5
S, K, D, A = 4, 6, 16, 2
N = T * B
CATEGORICAL = CategoricalLatent(S, K)
GAUSSIAN = GaussianLatent(S, "sigmoid2", 0.1)
BINARY = BinaryLatent(S)
VECTORS = {"angle": (9,), "speed": (1,)}
IMAGE = {"image": (1, 64, 64)}
DISCRETE, CONTINUOUS = ActionSpace(A, discrete=True), ActionSpace(A, discrete=False)
CHOICES = ActionSpace(9, discrete=True, choices=(3, 2, 2, 2))  # several at once


def head(distribution: str = "mse") -> HeadConfig:
    return HeadConfig(2, 10, "elu", "none", distribution)


def model_head(distribution: str = "mse", scale: float = 1.0) -> ModelHeadConfig:
    return ModelHeadConfig(**vars(head(distribution)), gradients=True, scale=scale)


def observations(kernels: Sequence[int]) -> ObservationConfig:
    return ObservationConfig(
        image_keys="image",
        vector_keys="angle|speed",
        image=ConvConfig(3, kernels, "elu", "none"),
        vector=VectorConfig([11], "elu", "none"),
    )


ENCODER, DECODER = observations([4, 4, 4, 4]), observations([5, 5, 6, 6])
RSSM_CONFIG = RSSMConfig(
    deter=D, hidden=12, activation="elu", norm="none", cell=GRUConfig(layer_norm=True), ensemble=1
)
WORLD_MODEL = WorldModelConfig(
    latent=CATEGORICAL,
    rssm=RSSM_CONFIG,
    encoder=ENCODER,
    decoder=DECODER,
    heads={"reward": model_head(), "discount": model_head("binary")},
    kl=KLConfig(balance=0.8, free_nats=0.0, forward=False, free_avg=True),
    loss_scales={},
    image_gradients=True,
    reward_transform="tanh",
    discount=0.9,
    iwae_samples=1,
)
ACTOR = ActorConfig(
    layers=2,
    units=10,
    activation="elu",
    norm="none",
    distribution="auto",
    min_std=0.1,
    init_std=0.0,
    sample_gradient="exact",
    gradient="auto",
    gradient_mix=0.3,
    entropy_scale=1e-2,
)
ACTOR_CRITIC = ActorCriticConfig(
    actor=ACTOR,
    critic=head(),
    reward_norm=RewardNormConfig(momentum=1.0, scale=1.0, epsilon=1e-8),
    lambda_=0.95,
    slow_critic=True,
    slow_critic_updates=2,
    slow_critic_fraction=1.0,
    entropy_in_target=False,
)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, epsilon=1e-5, clip=100.0, weight_decay=1e-6)
EXPLORER = dict(
    until_frames=None,
    intrinsic_scale=1.0,
    extrinsic_scale=0.0,
    intrinsic_norm=ACTOR_CRITIC.reward_norm,
    extrinsic_norm=ACTOR_CRITIC.reward_norm,
    actor_critic=ACTOR_CRITIC,
)
PLAN2EXPLORE = Plan2ExploreConfig(
    **EXPLORER,
    optimizer={"ensemble": OPTIMIZER, "actor": OPTIMIZER, "critic": OPTIMIZER},
    target="stoch",
    offset=1,
    action_input="previous",
    log=False,
    ensemble=EnsembleConfig(**vars(head()), members=8),
)
ENSEMBLE_ONLY = EnsembleOnlyConfig(
    optimizer={"ensemble": OPTIMIZER},
    target="stoch",
    offset=1,
    action_input="next",
    ensemble=PLAN2EXPLORE.ensemble,
)
MODEL_LOSS = ModelLossConfig(
    **EXPLORER,
    optimizer={"predictor": OPTIMIZER, "actor": OPTIMIZER, "critic": OPTIMIZER},
    target="kl",
    predictor=head(),
)
AGENT = AgentConfig(WORLD_MODEL, ACTOR_CRITIC, OPTIMIZER, OPTIMIZER, OPTIMIZER, horizon=H)


def make_agent(
    action_space: ActionSpace = DISCRETE,
    *,
    obs_shapes: ObsShapes = VECTORS,
    world_model: WorldModelConfig = WORLD_MODEL,
    actor_critic: ActorCriticConfig = ACTOR_CRITIC,
    seed: int = 0,
    **options,
) -> DreamerAgent:
    torch.manual_seed(seed)
    networks = {"world_model": world_model, "actor_critic": actor_critic}
    config = dataclasses.replace(AGENT, **networks, **options)
    return DreamerAgent(config, obs_shapes, action_space)


def make_obs(obs_shapes: ObsShapes, *leading: int) -> dict[str, Tensor]:
    return {
        key: torch.randint(256, (*leading, *shape), dtype=torch.uint8)
        if len(shape) == 3
        else torch.randn(*leading, *shape)
        for key, shape in obs_shapes.items()
    }


def make_batch(
    action_space: ActionSpace = DISCRETE, obs_shapes: ObsShapes = VECTORS, *, seed: int = 0
) -> Batch:
    """Random steps; an episode ends in the middle of sequence 2, where the next one begins."""
    torch.manual_seed(seed)
    action = torch.rand(T, B, action_space.size) * 2 - 1
    if action_space.discrete:
        choices = action_space.choices or (action_space.size,)
        one_hots = [nn.functional.one_hot(torch.randint(n, (T, B)), n) for n in choices]
        action = torch.cat(one_hots, -1).float()
    is_first, is_terminal = torch.zeros(2, T, B, dtype=torch.bool)
    is_first[0], is_first[4, 2], is_terminal[3, 2] = True, True, True
    return Batch(make_obs(obs_shapes, T, B), action, torch.randn(T, B), is_first, is_terminal)


def make_state(latent, *leading: int, requires_grad: bool = False) -> RSSMState:
    stats = torch.randn(*leading, latent.variables, latent.statistics)
    stoch = latent.sample(stats, latent.draw_noise(stats))
    state = RSSMState(torch.randn(*leading, D), stoch, stats)
    return RSSMState(*(x.requires_grad_(requires_grad) for x in state))


def fit(
    agent: DreamerAgent,
    batches: Sequence[Batch],
    step: Callable[[Batch], dict[str, Tensor]] | None = None,
    **options,
) -> list[dict[str, Tensor]]:
    """Learn from batches under a real Trainer; `step` replaces `training_step`."""
    results = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            results.append(outputs)

    if step is not None:
        agent.training_step = lambda batch, batch_idx: step(batch)
    trainer = pl.Trainer(
        **{"accelerator": "cpu"} | options,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Keep()],
    )
    trainer.fit(agent, DataLoader(batches, batch_size=None))
    return results


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {k: x.clone() for k, x in module.state_dict().items()}


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all gradients that there are."""
    return {k: p.grad.clone() for k, p in module.named_parameters() if p.grad is not None}
