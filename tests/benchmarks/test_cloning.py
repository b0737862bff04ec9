"""The clone imitates what it is shown, and intervals contain what they should."""

import numpy as np
import pytest
import torch

from dreamer.types import TimeStep

with pytest.MonkeyPatch.context() as patch:
    patch.setattr("dreamer.runtime.prepare", lambda: None)  # this process is the tests'
    from benchmarks import cloning, offline


@pytest.fixture
def signs(monkeypatch):
    """Episodes whose action tells the sign of the first observation, until the end."""
    rng = np.random.default_rng(0)
    sign = rng.integers(2, size=(60, 1)).repeat(cloning.LENGTH + 1, 1)
    obs = torch.zeros(*sign.shape, 1)
    obs[:, 0, 0] = torch.from_numpy(2.0 * sign[:, 0] - 1)
    action = torch.nn.functional.one_hot(torch.from_numpy(sign)).float()
    data = cloning.Sequences(obs, action, torch.ones(sign.shape))
    monkeypatch.setattr(cloning, "read", lambda address: (data, True))
    monkeypatch.setattr(cloning, "UPDATES", 60)
    monkeypatch.setattr(cloning, "CHECK_EVERY", 20)
    monkeypatch.setattr(cloning, "LEARNING_RATE", 1e-2)


def step(obs: float, is_first: bool) -> TimeStep:
    no = np.array([False])
    vector = np.array([[obs]], np.float32)
    return TimeStep({"vector": vector}, np.zeros(1, np.float32), np.array([is_first]), no, no)


def test_a_clone_remembers_within_an_episode_and_forgets_at_its_end(signs):
    policy, state = cloning.clone("anywhere", seed=0), None
    for sign in (1.0, -1.0, 1.0):  # one episode after the other
        chosen = []
        for time in range(6):
            action, state = policy(step(sign * (time == 0), time == 0), state)
            chosen.append(action.argmax(1).item())
        assert chosen == [int(sign > 0)] * 6


@pytest.mark.slow
def test_an_interval_is_over_seeds_and_episodes():
    same = offline.Estimate.of([[2.0] * 9] * 3)
    assert (same.mean, same.low, same.high) == (2.0, 2.0, 2.0)
    seeds = offline.Estimate.of([[0.0] * 9, [3.0] * 9])  # they differ, their episodes do not
    assert (seeds.mean, seeds.low, seeds.high) == (1.5, 0.0, 3.0)
    episodes = offline.Estimate.of([[0.0, 4.0] * 50] * 3)
    assert episodes.mean == 2.0
    # Three times a hundred episodes of standard deviation 2: 0.23 on either side.
    assert episodes.high - episodes.mean == pytest.approx(0.23, abs=0.03)
    assert str(seeds) == "1.50 (0.00 to 3.00)"
