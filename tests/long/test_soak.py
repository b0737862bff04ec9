"""A run of some length: its memory does not grow."""

import resource

import pytest

from dreamer.run.train import train


def peak_mib() -> float:
    """The most memory that this process has had at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.long
def test_memory_of_a_run_stays_flat(compose_tiny):
    """The replay fills and is overwritten several times; evaluations and checkpoints go on."""
    options = ("callbacks.checkpoint.every_frames=500", "callbacks.evaluate.every_frames=500")
    train(compose_tiny(*options, "total_frames=3000"))
    before = peak_mib()
    summary = train(compose_tiny(*options, "total_frames=8000"))
    assert summary.frames == 8000
    assert peak_mib() - before < 30
