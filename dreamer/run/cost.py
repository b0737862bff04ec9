"""Estimates the duration of a run before its first update.

Runs print it on machines without a GPU. It counts the arithmetic of one update and measures the
machine's rate of matrix products.
"""

import time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dreamer.agent import DreamerAgent
from dreamer.components import UpdateContext
from dreamer.exploration import EXPLORER, EnsembleOnly, explorer_of
from dreamer.probes import PROBE
from dreamer.types import Batch, obs_dtype

EFFICIENCY = 0.5  # share of the matrix rate that an update reaches, measured on CPUs
SLOW = 7 * 24 * 3600  # seconds; for longer runs, the message suggests a smaller model


class Cost(NamedTuple):
    """Estimated cost of a run's updates on this machine."""

    flops: float  # of one update
    seconds: float  # of one update
    updates: int  # remaining

    @property
    def total(self) -> float:
        """Seconds of all remaining updates."""
        return self.updates * self.seconds


def estimate_cost(agent: DreamerAgent, batch_size: int, length: int, updates: int) -> Cost:
    """Count the arithmetic of an update, and measure the machine's rate of matrix products."""
    flops = update_flops(agent, batch_size, length)
    return Cost(flops, flops / (EFFICIENCY * matrix_rate()), updates)


def describe_cost(cost: Cost) -> str:
    """Describe the cost in one line, with advice if the run will take long."""
    total = cost.total
    line = (
        f"about {cost.flops / 1e9:.3g} GFLOP and {cost.seconds:.2g} s per update here: "
        f"{_duration(total)} for the {cost.updates:,} remaining updates"
    )
    if total > SLOW:
        line += (
            ". On a CPU, try experiment=cpu (about an hour), model=tiny with fewer total_frames, "
            "or debug=fast (a minute)"
        )
    return line


@torch.no_grad()
def update_flops(agent: DreamerAgent, batch_size: int, length: int) -> float:
    """Count the floating-point operations of one update; a backward pass is two forward ones."""
    model, heads, explorer = agent.world_model, agent.actor_critic, explorer_of(agent)
    # Steps; an ensemble looks some steps ahead.
    counted = length if EXPLORER in agent.components else 2
    batch = _empty_batch(agent, counted)
    with torch.random.fork_rng(devices=()):
        with FlopCounterMode(display=False) as model_flops:
            output = model.loss(batch)
        starts = output.posterior.flatten_time()
        with FlopCounterMode(display=False) as imagine_flops:
            trajectory = model.imagine(
                starts,
                None,
                heads.act,
                agent.config.horizon,
            )
        with FlopCounterMode(display=False) as behavior_flops:
            heads.policy(trajectory.features[:-2])
            heads.critic(trajectory.features[:-1])
        with FlopCounterMode(display=False) as target_flops:
            heads.target_critic(trajectory.features)
    imagine_passes = 3 if heads.through_dynamics else 1
    behavior = (
        imagine_passes * (imagine_flops.get_total_flops() + target_flops.get_total_flops())
        + 3 * behavior_flops.get_total_flops()
    )
    flops = 3 * model_flops.get_total_flops() + behavior
    context = UpdateContext.of(output, trajectory, 0, model)
    if PROBE in agent.components:
        with FlopCounterMode(display=False) as probe_flops:
            agent.components[PROBE].loss(context)  # pyright: ignore
        flops += 3 * probe_flops.get_total_flops()
    if explorer is not None:  # an actor and a critic like the agent's, and the predictions
        with FlopCounterMode(display=False) as prediction_flops:
            explorer.learn_predictions(context, lambda loss, network="": None)
        with FlopCounterMode(display=False) as reward_flops:
            explorer.intrinsic_reward(trajectory)
        flops += behavior + 3 * prediction_flops.get_total_flops()
        flops += imagine_passes * reward_flops.get_total_flops()
    ensemble = dict(agent.components.items()).get(EXPLORER)
    if isinstance(ensemble, EnsembleOnly):
        with FlopCounterMode(display=False) as loss_flops:
            ensemble.ensemble_loss(context)
        with FlopCounterMode(display=False) as doubt_flops:
            if agent.config.pessimism:
                ensemble.disagreement(trajectory)
        flops += 3 * loss_flops.get_total_flops() + imagine_passes * doubt_flops.get_total_flops()
    return batch_size * length / counted * flops


def update_memory(agent: DreamerAgent, batch_size: int, length: int) -> float:
    """Estimate the bytes that the world model's loss keeps for its gradient, in float32.

    That is what grows with the batch and with `iwae_samples`. Kernels compute in chunks and keep
    less.
    """
    kept: dict[int, Tensor] = {}  # by address, so that shared memory counts once

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x
        return x

    weights = {p.untyped_storage().data_ptr() for p in agent.parameters()}
    steps = 2
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
    with torch.random.fork_rng(devices=()), hooks:
        agent.world_model.loss(_empty_batch(agent, steps))
    sizes = (x.untyped_storage().nbytes() for at, x in kept.items() if at not in weights)
    return batch_size * length / steps * sum(sizes)


def describe_samples(agent: DreamerAgent, batch_size: int, length: int) -> str:
    """Describe in a line what several posterior samples change and cost."""
    samples = agent.config.world_model.iwae_samples
    gib = update_memory(agent, batch_size, length) / 2**30
    return (
        f"{samples} posterior samples of every sequence (IWAE): kl_balance and free nats have no "
        f"effect; an update keeps about {gib:.2g} GiB for the world model's gradient"
    )


def _empty_batch(agent: DreamerAgent, steps: int) -> Batch:
    """Make a sequence of zeros, (steps, 1, ...)."""
    obs = {
        key: torch.from_numpy(np.zeros((steps, 1, *shape), obs_dtype(shape)))
        for key, shape in agent.obs_shapes.items()
    }
    flags = torch.zeros((steps, 1), dtype=torch.bool)
    action = torch.zeros(steps, 1, agent.action_space.size)
    return Batch(obs, action, torch.zeros(steps, 1), flags, flags)


def matrix_rate(size: int = 1024, repeats: int = 5) -> float:
    """Measure the floating-point operations per second of a float32 matrix product."""
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
    whole = round(seconds)
    return f"{whole} second{'s' * (whole != 1)}" if whole else "less than a second"
