"""One callback at a time, with the least that it needs."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dreamer.agent import DreamerAgent
from dreamer.replay.buffer import Replay, ReplayConfig
from dreamer.run.build import make_agent, make_envs


class Written:
    """A logger that keeps what it gets."""

    def __init__(self):
        self.lines: list[tuple[int, dict]] = []

    def log_metrics(self, metrics, step):
        self.lines.append((step, dict(metrics)))


@pytest.fixture
def trainer():
    return SimpleNamespace(loggers=[Written()], should_stop=False)


@pytest.fixture
def envs(compose_tiny):
    """One memory world: an episode has 8 policy steps."""
    return make_envs(compose_tiny(), seed=0)


@pytest.fixture
def agent(compose_tiny, envs) -> DreamerAgent:
    return make_agent(compose_tiny(), envs)


@pytest.fixture
def replay(tmp_path: Path, envs) -> Replay:
    return Replay(
        tmp_path / "replay",
        obs_shapes=envs.obs_shapes,
        action_size=2,
        env_count=1,
        config=ReplayConfig(1000, "episodes", True),
        seed=0,
    )
