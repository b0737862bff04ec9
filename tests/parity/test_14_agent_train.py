"""Complete updates under a real Trainer: every network, loss, optimiser and the carried state."""

import functools
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from golden import FOLDER, Case, RecordedCase, RoundedCase, golden, load
from networks import (
    actor_critic_config,
    obs_shapes_of,
    optimizer_config,
    our_batch,
    our_samples,
    reference_state,
    section,
    world_model_config,
)
from rounding import Rounding, measure_rounding
from torch import Tensor
from torch.utils.data import DataLoader

from dreamer.agent import AgentConfig, DreamerAgent, UpdateNoise
from dreamer.convert import load_reference_weights, reference_parameters
from dreamer.kernels import optimize
from dreamer.models.world_model import METRIC_NAMES
from dreamer.precision import Precision, trainer_options
from dreamer.types import ActionSpace

WEIGHT_ATOL = 2e-5
METRICS = {
    "model_loss": "world_model/loss",
    "kl_loss": "world_model/kl_loss",
    "model_kl": "world_model/kl",
    "prior_ent": "world_model/prior_entropy",
    "post_ent": "world_model/posterior_entropy",
    "model_grad_norm": "grad_norm/world_model",
    "actor_loss": "actor/loss",
    "actor_ent": "actor/entropy",
    "actor_ent_scale": "actor/entropy_scale",
    "actor_grad_norm": "grad_norm/actor",
    "critic_loss": "critic/loss",
    "critic_grad_norm": "grad_norm/critic",
    "critic": "critic/value",
    "critic_slow": "critic/target_critic_value",
    "critic_target": "critic/target",
    "reward_mean": "imagine/reward",
    "reward_std": "imagine/reward_std",
    "reward_normed_mean": "imagine/normed_reward",
    "reward_normed_std": "imagine/normed_reward_std",
}


class Update(NamedTuple):
    """What one update left behind, by the authors' names."""

    state: dict[str, Tensor]
    metrics: dict[str, Tensor]
    weights: dict[str, Tensor]


class GoldenAgent(DreamerAgent):
    """Learns from a file's batches with its noise, and carries the state from batch to batch."""

    def __init__(self, cases: list[Case]):
        case = cases[0]
        config, batch = case.config, our_batch(case.under("in"))
        shapes = obs_shapes_of(batch)
        weights = case.under("w")
        super().__init__(
            AgentConfig(
                world_model=world_model_config(config, shapes, config["grad_heads"]),
                actor_critic=actor_critic_config(config, sample_gradient="reference"),
                world_model_optimizer=optimizer_config(section(config, "model_opt")),
                actor_optimizer=optimizer_config(section(config, "actor_opt")),
                critic_optimizer=optimizer_config(section(config, "critic_opt")),
                horizon=config["imag_horizon"],
            ),
            shapes,
            ActionSpace(batch.prev_action.shape[-1], "actor/out/std/kernel" not in weights),
        )
        for network in self.world_model, self.actor_critic:
            names = reference_parameters(network).keys()
            load_reference_weights(network, {k: x for k, x in weights.items() if k in names})
        self.cases = cases
        self.state = None
        self.history: list[Update] = []

    def training_step(self, index: int, batch_idx: int) -> None:
        case, latent = self.cases[index], self.config.world_model.latent
        batch = our_batch(case.under("in"))

        def starts_time_first(noise: Tensor) -> Tensor:
            """(H, N, ...), where the authors' N goes through the time of one sequence first."""
            batch_size = batch.reward.shape[1]
            return noise.unflatten(1, (batch_size, -1)).transpose(1, 2).flatten(1, 2)

        noise = UpdateNoise(
            posterior=our_samples(latent, case["draw/observe/post"]),
            action=starts_time_first(case["draw/imagine/action"]),
            state=starts_time_first(our_samples(latent, case["draw/imagine/state"])),
        )
        self.state, metrics = self.update(batch, self.state, noise)
        mix = torch.tensor(self.actor_critic.gradient_mix(self.policy_steps))
        self.history.append(
            Update(
                reference_state(latent, self.state),
                {k: metrics[name] for k, name in self.metric_names().items()}
                | {"actor_grad_mix": mix},
                self.reference_weights(),
            )
        )

    def metric_names(self) -> dict[str, str]:
        model = self.world_model
        names = {f"{k}_loss": f"world_model/{METRIC_NAMES.get(k, k)}_nll" for k in model.heads}
        keys = [*model.decoder.image_keys, *model.decoder.vector_keys]
        return METRICS | names | {f"{k}_loss": f"observations/{k}_nll" for k in keys}

    def reference_weights(self) -> dict[str, Tensor]:
        ours = reference_parameters(self.world_model) | reference_parameters(self.actor_critic)
        weights = {
            k: torch.from_numpy(np.array(w.to_reference(w.parameter))) for k, w in ours.items()
        }
        critic = {k: x for k, x in weights.items() if k.startswith("critic/")}
        return {f"target_{k}": x for k, x in critic.items()} | weights


def train(
    stem: str, *, precision: Precision = "32-true", kernels: bool = False
) -> dict[str, Update]:
    """All updates of a file, by case."""
    cases = [Case(load(stem), name) for name in load(stem).parameters]
    agent = GoldenAgent(cases)
    if kernels:
        optimize(agent, torch.device("cpu"))
    trainer = pl.Trainer(
        accelerator="cpu",
        **trainer_options(precision, "cpu"),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(agent, DataLoader(range(len(cases)), batch_size=None))  # pyright: ignore
    return {case.name: update for case, update in zip(cases, agent.history, strict=True)}


trained = functools.cache(train)


@functools.cache
def rounding_of(stem: str) -> Rounding:
    """What rounding does to all updates of a file."""

    def record() -> dict[str, np.ndarray]:
        results = {}
        for name, update in train(stem).items():
            case = RecordedCase(load(stem), name)
            check(update, case)
            results |= case.results
        return results

    return measure_rounding(record)


@golden("14_*")
def test_update(case: Case):
    check(trained(case.golden.name)[case.name], case)


every_file = pytest.mark.parametrize("stem", sorted(path.stem for path in FOLDER.glob("14_*.npz")))


@pytest.fixture
def small_kernels(monkeypatch) -> None:
    """Kernels take the small networks of the file, too."""
    monkeypatch.setattr("dreamer.kernels.chunked.CHUNK", 8)


@every_file
def test_updates_with_kernels(stem: str, small_kernels):
    for name, update in train(stem, kernels=True).items():
        case = Case(load(stem), name)
        check(update, case)
        case.assert_complete()


@every_file
@pytest.mark.parametrize("kernels", [False, True], ids=["plain", "kernels"])
def test_updates_in_bf16(stem: str, kernels: bool, small_kernels):
    rounding = rounding_of(stem)
    with rounding.choices():
        updates = train(stem, precision="bf16-mixed", kernels=kernels)
    for name, update in updates.items():
        case = RoundedCase(load(stem), name, rounding)
        check(update, case)
        case.assert_complete()


@every_file
def test_updates_in_float16(stem: str, monkeypatch):
    """As near as three more bits than bfloat16's allow; the scale is one without overflows."""
    monkeypatch.setattr("dreamer.loss_scaling.FIRST_SCALE", 2.0**4)
    rounding = rounding_of(stem)
    finer = {key: moved / 8 for key, moved in rounding.movements.items()}
    with rounding.choices():
        updates = train(stem, precision="16-mixed")
    for name, update in updates.items():
        case = RoundedCase(load(stem), name, rounding._replace(movements=finer))
        check(update, case)
        case.assert_complete()


def check(update: Update, case: Case) -> None:
    case.check_all("out/state", update.state)
    case.check_all("out/metrics", update.metrics)
    case.check_all("out/w", update.weights, atol=WEIGHT_ATOL)
