"""Replays with steps of a known world."""

from collections.abc import Callable
from pathlib import Path

import pytest
from replay_world import ACTION_SIZE, OBS_SHAPES, World

from dreamer.replay.buffer import Replay, ReplayConfig


@pytest.fixture
def make_world() -> type[World]:
    return World


@pytest.fixture
def make_replay(tmp_path: Path) -> Callable[..., Replay]:
    def make(
        env_count: int = 3,
        capacity: int = 311,
        sampling: str = "episodes",
        across_episodes: bool = False,
        seed: int = 0,
        directory: str = "replay",
    ) -> Replay:
        return Replay(
            tmp_path / directory,
            obs_shapes=OBS_SHAPES,
            action_size=ACTION_SIZE,
            env_count=env_count,
            config=ReplayConfig(capacity, sampling, across_episodes),  # pyright: ignore
            seed=seed,
        )

    return make
