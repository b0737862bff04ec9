"""The first answer to how long a run will take."""

import re

import pytest
import torch

from dreamer.run import cost
from dreamer.run.build import make_agent, make_envs
from dreamer.run.cost import (
    describe_cost,
    describe_samples,
    estimate_cost,
    update_flops,
    update_memory,
)


@pytest.fixture
def make_tiny(compose_tiny):
    def make(*overrides):
        cfg = compose_tiny(*overrides)
        return make_agent(cfg, make_envs(cfg, seed=0))

    return make


def test_arithmetic_grows_with_the_batch_and_with_the_dream(make_tiny):
    agent = make_tiny()
    assert update_flops(agent, 6, 16) == pytest.approx(2 * update_flops(agent, 3, 16))
    assert update_flops(agent, 3, 32) == pytest.approx(2 * update_flops(agent, 3, 16))
    assert update_flops(make_tiny("model.horizon=10"), 3, 16) > 1.02 * update_flops(agent, 3, 16)


def test_gradients_through_the_dream_cost_more(make_tiny):
    reinforce, dynamics = (make_tiny(f"actor_gradient={x}") for x in ("reinforce", "dynamics"))
    assert update_flops(dynamics, 3, 16) > 1.02 * update_flops(reinforce, 3, 16)


def test_arithmetic_of_the_encoder_alone_is_a_lower_bound(make_tiny):
    agent = make_tiny()
    first = next(m for m in agent.world_model.encoder.modules() if isinstance(m, torch.nn.Conv2d))
    multiplications = 31 * 31 * first.weight.numel()  # of one picture of 64 x 64, stride 2
    assert update_flops(agent, 3, 16) > 3 * 16 * 3 * 2 * multiplications


def test_counting_changes_neither_weights_nor_random_state(make_tiny):
    agent = make_tiny()
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    update_flops(agent, 3, 16)
    assert torch.rand(2).equal(expected)
    torch.testing.assert_close(dict(agent.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("updates", "duration", "advice"),
    [
        (10, "second", False),
        (20, "seconds", False),
        (100_000, "hours", False),
        (100_000_000, "days", True),
    ],
)
def test_a_long_run_is_told_with_what_to_try(make_tiny, monkeypatch, updates, duration, advice):
    agent = make_tiny()
    # A machine on which an update takes a tenth of a second.
    monkeypatch.setattr(cost, "matrix_rate", lambda: 20 * update_flops(agent, 4, 16))
    line = describe_cost(estimate_cost(agent, 4, 16, updates))
    assert re.search(
        rf"0\.1 s per update here: [\d.]+ {duration} for the {updates:,} remaining updates", line
    )
    assert ("model=tiny" in line) == advice


def test_exploration_costs_more(make_tiny):
    plain, explorer = make_tiny(), make_tiny("explore=plan2explore")
    assert update_flops(explorer, 3, 16) > 1.1 * update_flops(plain, 3, 16)
    assert update_flops(explorer, 6, 16) == pytest.approx(2 * update_flops(explorer, 3, 16))
    more = make_tiny("explore=plan2explore", "explore.ensemble.members=20")
    assert update_flops(more, 3, 16) > 1.05 * update_flops(explorer, 3, 16)


def test_an_ensemble_alone_costs_less_than_an_explorer_and_pessimism_costs_more(make_tiny):
    plain, explorer = make_tiny(), make_tiny("explore=plan2explore")
    ensemble, pessimist = (
        make_tiny("explore=ensemble", "explore.ensemble.members=10", f"data.pessimism={scale}")
        for scale in (0, 2)
    )
    costs = [update_flops(agent, 3, 16) for agent in (plain, ensemble, pessimist, explorer)]
    assert costs == sorted(set(costs))


def test_memory_grows_with_the_batch_and_with_the_samples(make_tiny):
    one, three = make_tiny(), make_tiny("iwae_samples=3")
    assert update_memory(one, 6, 16) == pytest.approx(2 * update_memory(one, 3, 16))
    # All but the encoder, whose activations are kept once.
    assert 1.5 < update_memory(three, 3, 16) / update_memory(one, 3, 16) < 3


def test_memory_of_the_decoded_images_is_a_lower_bound(make_tiny):
    pixels = 3 * 16 * 64 * 64 * 4  # bytes
    assert update_memory(make_tiny(), 3, 16) > pixels


def test_samples_are_described_with_what_has_no_effect_and_their_memory(make_tiny):
    agent = make_tiny("iwae_samples=3")
    gib = update_memory(agent, 4, 16) / 2**30
    line = describe_samples(agent, 4, 16)
    assert line.startswith("3 posterior samples of every sequence (IWAE): kl_balance and free nats")
    assert f"about {gib:.2g} GiB" in line
