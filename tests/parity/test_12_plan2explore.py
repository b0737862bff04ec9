"""Plan2Explore: the reward of given trajectories, and one step of the ensemble in a real update."""

from dataclasses import replace

import numpy as np
import pytorch_lightning as pl
import torch
from golden import Case, golden, swap_time
from networks import optimizer_config, our_samples
from tiny import ACTOR_CRITIC, ENCODER, OPTIMIZER, VECTORS, WORLD_MODEL
from torch import Tensor
from torch.utils.data import DataLoader

from dreamer.agent import AgentConfig, DreamerAgent
from dreamer.components import UpdateContext
from dreamer.convert import load_reference_weights, reference_parameters
from dreamer.exploration import (
    EXPLORER,
    EnsembleTarget,
    Plan2Explore,
    Plan2ExploreConfig,
    explorer_of,
)
from dreamer.models.actor_critic import RewardNormConfig
from dreamer.models.ensemble import EnsembleConfig
from dreamer.models.latents import CategoricalLatent, GaussianLatent
from dreamer.models.observations import VectorConfig
from dreamer.types import ActionSpace, Batch, RSSMState, Trajectory

WEIGHT_ATOL = 2e-5
TARGETS: dict[str, EnsembleTarget] = {
    "stoch": "stoch",
    "deter": "deter",
    "embed": "embedding",
    "feat": "features",
}


class GoldenExplorer(DreamerAgent):
    """An agent of the file's sizes, whose explorer learns once from the file's features."""

    def __init__(self, case: Case):
        parameters = case.parameters
        stoch, deter = case.array("in/stoch"), case.array("in/deter")
        latent = GaussianLatent(stoch.shape[2], "sigmoid2", 0.1)
        if stoch.ndim == 4:
            latent = CategoricalLatent(*stoch.shape[2:])
        norm = parameters["expl_reward_norm"]
        reward_norm = RewardNormConfig(norm["momentum"], norm["scale"], norm["eps"])
        embed_size = case.array("in/embed").shape[-1] if "in/embed" in case else 1
        configured = Plan2ExploreConfig(
            until_frames=None,
            intrinsic_scale=parameters["expl_intr_scale"],
            extrinsic_scale=parameters.get("expl_extr_scale", 0.0),
            intrinsic_norm=reward_norm,
            extrinsic_norm=reward_norm,
            actor_critic=ACTOR_CRITIC,
            optimizer={
                "ensemble": optimizer_config(parameters["expl_opt"]),
                "actor": OPTIMIZER,
                "critic": OPTIMIZER,
            },
            target=TARGETS[parameters["disag_target"]],
            offset=parameters["disag_offset"],
            action_input="previous" if parameters["disag_action_cond"] else "none",
            log=parameters["disag_log"],
            ensemble=EnsembleConfig(
                layers=parameters["layers"],
                units=parameters["units"],
                activation=parameters.get("act", "elu"),
                norm=parameters.get("norm", "none"),
                distribution="mse",
                members=parameters["models"],
            ),
        )
        model = replace(
            WORLD_MODEL,
            latent=latent,
            encoder=replace(ENCODER, vector=VectorConfig([embed_size], "elu", "none")),
            rssm=replace(WORLD_MODEL.rssm, deter=deter.shape[-1]),
        )
        optimizers = [OPTIMIZER] * 3
        super().__init__(
            AgentConfig(
                model, ACTOR_CRITIC, *optimizers, horizon=2, components={EXPLORER: configured}
            ),
            VECTORS,
            ActionSpace(case.array("in/action").shape[-1], discrete=True),
        )
        explorer = explorer_of(self)
        assert isinstance(explorer, Plan2Explore)
        self.explorer = explorer
        for member, head in enumerate(self.explorer.ensemble.heads):
            load_reference_weights(head, case.under(f"w/ens{member}"))
        self.context = self._context(case)
        self.metrics: dict[str, Tensor] = {}

    def _context(self, case: Case) -> UpdateContext:
        """What an update would have computed; an explorer with other inputs would fail on it."""
        stoch, deter, action = (swap_time(case[f"in/{x}"]) for x in ("stoch", "deter", "action"))
        latent = self.config.world_model.latent
        stoch = our_samples(latent, stoch)
        posterior = RSSMState(deter, stoch, stoch.new_zeros((*stoch.shape[:3], latent.statistics)))
        assert torch.equal(posterior.features, swap_time(case["in/feat"]))
        leading = deter.shape[:2]
        is_first = torch.zeros(leading, dtype=torch.bool)
        is_first[0] = True
        reward, nan = torch.zeros(leading), torch.tensor(torch.nan)
        return UpdateContext(
            batch=Batch({}, action, reward, is_first, torch.zeros_like(is_first)),
            embed=swap_time(case["in/embed"]) if "in/embed" in case else nan,
            posterior=posterior,
            prior_stats=nan,
            kl=nan,
            obs_log_probs={},
            trajectory=Trajectory(nan, nan, nan, nan),
            policy_steps=0,
            world_model=self.world_model,
        )

    def training_step(self, index: int, batch_idx: int) -> None:
        self.metrics = self._learn_component(EXPLORER, self.explorer, self.context)
        self._end_update()

    def ensemble_weights(self) -> dict[str, Tensor]:
        return {
            f"ens{member}/{name}": torch.from_numpy(np.array(w.to_reference(w.parameter)))
            for member, head in enumerate(self.explorer.ensemble.heads)
            for name, w in reference_parameters(head).items()
        }


@golden("12_*", bf16=True)
def test_plan2explore(case: Case, optimized):
    agent = GoldenExplorer(case)
    optimized(agent)
    extrinsic = case["in/seq_extrinsic_reward"]
    trajectory = Trajectory(
        case["in/seq_feat"], case["in/seq_action"], extrinsic, torch.ones_like(extrinsic)
    )
    intrinsic = agent.explorer.intrinsic_reward(trajectory)
    case.check("out/reward", agent.explorer.reward(intrinsic, extrinsic))

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(agent, DataLoader([0], batch_size=None))  # pyright: ignore
    case.check("out/expl_loss", agent.metrics["explore_ensemble/loss"])
    case.check("out/expl_grad_norm", agent.metrics["grad_norm/explore_ensemble"])
    case.check_all("out/w_after_step", agent.ensemble_weights(), atol=WEIGHT_ATOL)
