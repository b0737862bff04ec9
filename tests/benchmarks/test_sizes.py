"""The sizes at which peers are measured are those of our own configuration."""

import pytest

from benchmarks.peers import authors_update, sheeprl_update
from benchmarks.peers.sizes import SIZES


def test_the_full_size_is_our_default_configuration(compose_any):
    cfg = compose_any("env=atari", "task=pong")
    assert SIZES["full"].as_dict() == {
        "batch_size": cfg.batch.size,
        "batch_length": cfg.batch.length,
        "horizon": cfg.model.horizon,
        "actions": 18,
        "channels": 1,
        **cfg.stochastic,
        **cfg.sizes,
    }


@pytest.mark.parametrize("name", SIZES)
def test_sheeprl_is_told_every_size(name):
    """Actions and channels come with its spaces, not with its configuration."""
    size = SIZES[name].as_dict()
    settings = sheeprl_update.overrides(
        SIZES[name], precision="32-true", compile_losses=False, device="cpu"
    )
    numbers = [int(value) for _, value in (s.split("=") for s in settings) if value.isdigit()]
    expected = [value for key, value in size.items() if key not in ("actions", "channels")]
    assert sorted(numbers) == sorted([*expected, size["hidden"]])  # of prior and posterior


@pytest.mark.parametrize("name", SIZES)
def test_the_authors_are_told_every_size(name):
    size = SIZES[name].as_dict()
    numbers = [v for key, v in authors_update.overrides(SIZES[name]).items() if key != "precision"]
    expected = [value for key, value in size.items() if key not in ("actions", "channels")]
    twice = [size["depth"]]  # encoder and decoder
    heads = [size["units"], size["layers"]] * 3  # four heads
    assert sorted(numbers) == sorted([*expected, *twice, *heads])
