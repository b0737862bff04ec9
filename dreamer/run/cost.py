"""How long will this take? A first answer before the first update.

The runner prints it on machines without a GPU. It counts the arithmetic of the update at hand and
measures what the machine multiplies.
"""

import time
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from dreamer.agent import DreamerAgent
from dreamer.types import Batch

EFFICIENCY = 0.5  # share of the matrix rate that an update reaches, measured on CPUs
SLOW = 7 * 24 * 3600  # seconds from which a smaller model is offered


class Cost(NamedTuple):
    """What the updates of a run take on this machine, roughly."""

    flops: float  # of one update
    seconds: float  # of one update
    updates: int  # that are left

    @property
    def total(self) -> float:
        """Seconds of all updates that are left."""
        return self.updates * self.seconds


def estimate_cost(agent: DreamerAgent, batch_size: int, length: int, updates: int) -> Cost:
    """Count the arithmetic of an update, and measure what the machine multiplies."""
    flops = update_flops(agent, batch_size, length)
    return Cost(flops, flops / (EFFICIENCY * matrix_rate()), updates)


def describe_cost(cost: Cost) -> str:
    """One line: arithmetic of an update, time of the run, and what to try if that is long."""
    total = cost.total
    line = (
        f"about {cost.flops / 1e9:.3g} GFLOP and {cost.seconds:.2g} s an update here: "
        f"{_duration(total)} for the {cost.updates:,} updates that are left"
    )
    if total > SLOW:
        line += (
            ". On a CPU, rather try +experiment=cpu (an hour or so), model=tiny with fewer "
            "total_frames, or debug=fast (a minute)"
        )
    return line


@torch.no_grad()
def update_flops(agent: DreamerAgent, batch_size: int, length: int) -> float:
    """Floating-point operations of one update; a backward pass counts as two forward ones."""
    model, heads = agent.world_model, agent.actor_critic
    obs = {
        key: torch.zeros((2, 1, *shape), dtype=torch.uint8 if len(shape) == 3 else torch.float32)
        for key, shape in agent.obs_shapes.items()
    }
    flags = torch.zeros((2, 1), dtype=torch.bool)
    action = torch.zeros(2, 1, agent.action_space.size)
    batch = Batch(obs, action, torch.zeros(2, 1), flags, flags)
    with torch.random.fork_rng(devices=()):
        with FlopCounterMode(display=False) as learning:
            posterior = model.loss(batch).posterior.flatten_time()
        with FlopCounterMode(display=False) as dreaming:
            trajectory = model.imagine(
                posterior,
                None,
                heads.act,
                agent.config.horizon,
            )
        with FlopCounterMode(display=False) as judging:
            heads.policy(trajectory.features[:-2])
            heads.critic(trajectory.features[:-1])
        with FlopCounterMode(display=False) as valuing:
            heads.target_critic(trajectory.features)
    dream_passes = 3 if heads.through_dynamics else 1
    steps = batch_size * length / 2
    flops = (
        3 * learning.get_total_flops()
        + dream_passes * (dreaming.get_total_flops() + valuing.get_total_flops())
        + 3 * judging.get_total_flops()
    )
    return steps * flops


def matrix_rate(size: int = 1024, repeats: int = 5) -> float:
    """Measure the floating-point operations a second of a float32 matrix product."""
    x = torch.rand(size, size)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(x, x)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
