"""Complete updates of PyDreamer's agent under a real Trainer, and what it does afterwards."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from golden import FOLDER, Case, Golden, RecordedCase, RoundedCase, golden, load
from probes import (
    GOALS_PROBE,
    MAP_FOLDER,
    MAP_PROBE,
    agent_probe_values,
    goals_config,
    image_config,
    load_agent_probe,
    probe_weights,
    with_truth,
)
from pydreamer_models import (
    actor_critic_config,
    obs_shapes_of,
    optimizer_config,
    our_batch,
    our_samples,
    their_state,
    world_model_config,
)
from rounding import Rounding, measure_rounding
from torch import Tensor
from torch.utils.data import DataLoader

from dreamer.agent import UpdateNoise
from dreamer.convert_pydreamer import load_pydreamer_weights, pydreamer_parameters
from dreamer.kernels import optimize
from dreamer.models.probes import MapAndGoalsProbe
from dreamer.policy import DreamerPolicy, PolicyNoise
from dreamer.precision import trainer_options
from dreamer.probes import PROBE, MapAndGoalsProbeConfig, Probe
from dreamer.pydreamer import PyDreamerAgent, PyDreamerAgentConfig
from dreamer.types import ActionSpace, RSSMState, Trajectory, visible

AnyCase = TypeVar("AnyCase", bound=Case)
ACT = "act"
WEIGHT_ATOL = 2e-5
METRICS = {
    "entropy_post": "world_model/posterior_entropy",
    "entropy_prior": "world_model/prior_entropy",
    "grad_norm": "grad_norm/world_model",
    "grad_norm_actor": "grad_norm/actor",
    "grad_norm_critic": "grad_norm/critic",
    "loss_actor": "actor/loss",
    "loss_critic": "critic/loss",
    "loss_kl": "world_model/kl",
    "loss_model": "world_model/loss",
    "policy_entropy": "actor/entropy",
    "policy_reward": "imagine/reward_after_start",
    "policy_reward_std": "imagine/reward_after_start_std",
    "policy_value": "critic/start_value",
    "policy_value_im": "critic/value",
}
PROBE_METRICS = (
    *("loss_map", "acc_map"),
    *("loss_goal_direction", "loss_goals_direction", "mse_goals", "var_goals"),
)


class Update(NamedTuple):
    """What one update left behind, by PyDreamer's names."""

    state: dict[str, Tensor]
    metrics: dict[str, Tensor]
    dream: dict[str, Tensor]
    gradients: dict[str, Tensor]  # before clipping
    weights: dict[str, Tensor]


class GoldenAgent(PyDreamerAgent):
    """Learns from a file's batches with its noise, and carries the state from batch to batch."""

    def __init__(self, cases: list[Case]):
        case = cases[0]
        config, batch = case.config, with_truth(case, our_batch(case))
        shapes = obs_shapes_of(batch)
        optimizers = [optimizer_config(config, group) for group in ("model", "actor", "critic")]
        probe = MapAndGoalsProbeConfig(
            image_config(probe_weights(case, MAP_PROBE), MAP_FOLDER),
            goals_config(probe_weights(case, GOALS_PROBE)),
            optimizers[0],
        )
        super().__init__(
            PyDreamerAgentConfig(
                world_model_config(config, visible(shapes)),
                actor_critic_config(config),
                *optimizers,
                horizon=config["imag_horizon"],
                components={PROBE: probe},
            ),
            shapes,
            ActionSpace(batch.prev_action.shape[-1], discrete=True),
        )
        weights = {k: x for k, x in case.under("w").items() if not k.startswith("probe_model/")}
        load_pydreamer_weights(weights, self.world_model, self.actor_critic)
        load_agent_probe(self.probe, case, *self.sizes)
        self.cases = cases
        self.state: RSSMState | None = None
        self.history: list[Update] = []
        self.gradients: dict[str, Tensor] = {}
        self.dream: dict[str, Tensor] = {}
        self.imagine, self.world_model.imagine = self.world_model.imagine, self.recorded

    @property
    def probe(self) -> MapAndGoalsProbe:
        """The networks of the probe."""
        component = self.components[PROBE]
        assert isinstance(component, Probe)
        return component.network

    @property
    def sizes(self) -> tuple[int, int]:
        """Sizes of the deterministic and the stochastic state."""
        stoch = self.world_model.rssm.stoch_size
        return self.world_model.feature_size - stoch, stoch

    def recorded(self, *args, **options) -> Trajectory:
        trajectory = self.imagine(*args, **options)
        stoch, deter = trajectory.features.tensor_split([self.world_model.rssm.stoch_size], -1)
        self.dream = {
            "features": torch.cat([deter, stoch], -1),
            "actions": trajectory.prev_action[1:],
            "rewards": trajectory.reward,
            "terminals": 1 - trajectory.discount / self.config.world_model.discount,
        }
        return trajectory

    def _make_steps(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.gradients = {k: x for k, x in self.by_name(gradient=True).items() if x is not None}
        return super()._make_steps(losses)

    def by_name(self, *, gradient: bool = False) -> dict[str, Tensor]:
        parameters = pydreamer_parameters(self.world_model, self.actor_critic)
        own = {k: w.to_reference(gradient=gradient) for k, w in parameters.items()}
        return own | agent_probe_values(self.probe, *self.sizes, gradient=gradient)

    def training_step(self, index: int, batch_idx: int) -> None:
        case, latent = self.cases[index], self.config.world_model.latent
        noise = UpdateNoise(
            posterior=our_samples(latent, case["draw/post"]),
            action=case["draw/action"],
            state=our_samples(latent, case["draw/state"]),
        )
        self.state, metrics = self.update(with_truth(case, our_batch(case)), self.state, noise)
        names = METRICS | {f"loss_{k}": f"world_model/{k}_nll" for k in self.world_model.heads}
        decoder = self.world_model.decoder
        keys = [*decoder.image_keys, *decoder.vector_keys]
        names |= {f"loss_{k}": f"observations/{k}_nll" for k in keys}
        names |= {name: f"probe/{name}" for name in PROBE_METRICS}
        names |= {"loss_probe": "probe/loss", "grad_norm_probe": "grad_norm/probe"}
        self.history.append(
            Update(
                their_state(self.state),
                {k: metrics[name] for k, name in names.items()},
                self.dream,
                self.gradients,
                self.by_name(),
            )
        )
        for name in case.parameters["no_gradient"]:
            assert name not in self.gradients, name


def train(stem: str, *, kernels: bool = False, precision: str = "32-true") -> GoldenAgent:
    """An agent after all updates of a file."""
    cases = [Case(load(stem), name) for name in load(stem).parameters if name != ACT]
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
    return agent


trained = functools.cache(train)


@functools.cache
def rounding_of(stem: str) -> Rounding:
    """What rounding does to all updates of a file, and to acting afterwards."""

    def record() -> dict[str, np.ndarray]:
        results = {}
        for case in check_everything(train(stem), stem, RecordedCase):
            results |= case.results
        return results

    return measure_rounding(record)


@golden("30_*", lambda case: case.name != ACT)
def test_update(case: Case):
    check_update(case, trained(case.golden.name))


@golden("30_*", lambda case: case.name == ACT)
def test_acting(case: Case):
    check_acting(case, trained(case.golden.name))


every_file = pytest.mark.parametrize("stem", sorted(path.stem for path in FOLDER.glob("30_*.npz")))


@pytest.fixture
def small_kernels(monkeypatch) -> None:
    """Kernels take the small networks of the file, too."""
    monkeypatch.setattr("dreamer.kernels.chunked.CHUNK", 8)


@every_file
def test_updates_and_acting_with_kernels(stem: str, small_kernels):
    for case in check_everything(train(stem, kernels=True), stem, Case):
        case.assert_complete()


@every_file
@pytest.mark.parametrize("kernels", [False, True], ids=["plain", "kernels"])
def test_updates_and_acting_in_bf16(stem: str, kernels: bool, small_kernels):
    rounding = rounding_of(stem)
    rounded = functools.partial(RoundedCase, rounding=rounding)
    with rounding.choices():
        agent = train(stem, precision="bf16-mixed", kernels=kernels)
        with torch.autocast("cpu", torch.bfloat16):
            cases = check_everything(agent, stem, rounded)
    for case in cases:
        case.assert_complete()


def check_everything(
    agent: GoldenAgent, stem: str, make_case: Callable[[Golden, str], AnyCase]
) -> list[AnyCase]:
    """Compare all updates of a file, then acting; returns the cases."""
    cases = [make_case(load(stem), name) for name in load(stem).parameters]
    for case in cases:
        check = check_acting if case.name == ACT else check_update
        check(case, agent)
    return cases


def check_update(case: Case, agent: GoldenAgent) -> None:
    update = agent.history[[each.name for each in agent.cases].index(case.name)]
    metrics = update.metrics
    losses = {name: metrics[f"loss_{name}"] for name in ("model", "probe", "actor", "critic")}
    case.check_all("out/losses", losses)
    case.check_all("out/metrics", metrics)
    case.check_all("out/state", update.state)
    case.check_all("out/dream", update.dream)
    case.check_all("out/w", update.weights, atol=WEIGHT_ATOL)
    case.check_all("grad", update.gradients)


@torch.no_grad()
def check_acting(case: Case, agent: GoldenAgent) -> None:
    latent = agent.config.world_model.latent
    policy = DreamerPolicy(agent.world_model, agent.actor_critic, sample_actions=True)
    latent_noise, action_noise = our_samples(latent, case["draw/post"]), case["draw/action"]
    memory, results = None, []
    for t in range(case.parameters["steps"]):
        noise = PolicyNoise(latent_noise[t][None], action_noise[t][None])
        obs = {key: case[f"in/{key}"][t][None] for key in visible(agent.obs_shapes)}
        memory = policy.act(obs, case["in/reset"][t][None], memory, noise)
        features = memory.latent.features
        actions = torch.eye(memory.action.shape[-1])
        result = {
            "action": memory.action[0],
            "value": agent.actor_critic.critic(features).mean[0],
            "log_prob": agent.actor_critic.policy(features).log_prob(actions),
        }
        results.append(result)
    case.check_all("out", {key: torch.stack([x[key] for x in results]) for key in results[0]})
