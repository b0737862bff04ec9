"""Every two features learn together: all pairs, in one process."""

import itertools

import pytest
import torch
from omegaconf import DictConfig
from test_config import make_tiny_agent, some_batch
from tiny import fit, weights_of

from dreamer.precision import trainer_options
from dreamer.run.config import checked

# By name: experiments, and further words of the command line.
FEATURES = {
    "gae": (["gae"], []),
    "samples": ([], ["iwae_samples=2"]),
    "cell": ([], ["cell=gru_layernorm", "cell.layers=2"]),
    "gaussian": ([], ["latents=gaussian", "latents.std_activation=double_sigmoid"]),
    "binary": (["binary_latents"], ["stochastic.variables=4"]),
    "categorical_reward": (
        ["categorical_reward"],
        ["model.world_model.heads.reward.support=[0,1,10]"],  # log1p of less than 0 is not finite
    ),
    "terminal_head": (["terminal_head"], []),
    "reward_input": (["reward_input"], []),
    "auxiliary_critic": (["auxiliary_critic"], []),
    "log1p": ([], ["model.world_model.reward_transform=log1p"]),
    "carried_state": (
        [],
        ["replay/sampling=sequential", "replay.carry_state=true", "replay.across_episodes=false"]
        + ["replay.sampling.reset_interval=0"],
    ),
    "schedules": (["schedules"], []),
    "long_term_entropy": (["long_term_entropy"], []),
    "free_nats": (["free_nats"], []),
    "plan2explore": (["plan2explore"], []),
    "float16": ([], ["precision=16-mixed"]),
}
EXCLUSIVE = {frozenset(("gaussian", "binary"))}  # two kinds of latents
PAIRS = [pair for pair in itertools.combinations(FEATURES, 2) if frozenset(pair) not in EXCLUSIVE]


def compose_both(compose_tiny, *names: str) -> DictConfig:
    experiments, words = [], []
    for name in names:
        experiments += FEATURES[name][0]
        words += FEATURES[name][1]
    chosen = [f"experiment=[{','.join(experiments)}]"] if experiments else []
    return checked(compose_tiny(*chosen, *words))


@pytest.mark.long
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_two_features_learn_from_two_batches(compose_tiny, pair):
    agent = make_tiny_agent(compose_both(compose_tiny, *pair))
    before = weights_of(agent)
    precision = "16-mixed" if "float16" in pair else "32-true"
    logged = fit(agent, [some_batch(), some_batch()], **trainer_options(precision, "cpu"))
    assert agent.updates == 2
    for metrics in logged:
        for key, value in metrics.items():
            assert "_where_" in key or torch.isfinite(torch.as_tensor(value)), key
    after = weights_of(agent)
    assert any(not torch.equal(before[key], after[key]) for key in before) or "float16" in pair
