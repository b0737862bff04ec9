"""What loggers get of a run, for their tests."""

from pathlib import Path

from dreamer.loggers import RunDescription


def described(**changes) -> RunDescription:
    """Describe a new run of the memory world, with these changes."""
    fields = {
        "root": Path("runs"),
        "env": "dummy",
        "task": "memory",
        "variant": "no_kl",
        "seed": 3,
        "config": {"batch": {"size": 3}, "task": "memory"},
        "reference_returns": {"random": 0.0, "optimum": 2.0},
        "resumed_at": None,
        "sweep": None,
    }
    return RunDescription(**fields | changes)
