"""The agent's update as a CUDA graph: captured after a few calls, then replayed.

`build.py` replaces `DreamerAgent.learn` by it if `cuda_graphs` is on.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.exploration import ACTOR, actors_of
from dreamer.kernels.cuda_graph import Capture, CapturedFunction
from dreamer.models.actor import ActorConfig
from dreamer.schedules import is_constant
from dreamer.types import Batch


class CapturedUpdate:
    """`agent.learn` as a CUDA graph."""

    def __init__(self, agent: DreamerAgent, make_capture: Callable[[], Capture]):
        """Capture nothing yet.

        Args:
            agent: its `learn` is captured.
            make_capture: makes the object that captures a graph.

        Raises:
            ValueError: a schedule changes with the update.
        """
        for name, actor_critic in actors_of(agent).items():
            prefix = "" if name == ACTOR else f"{name}.actor_critic.actor."
            _check_schedules(actor_critic.config.actor, prefix)
        self.captures = 0  # 1, and 1 more for every state that the optimisers load
        self._agent = agent
        self._learn = agent.learn
        self._make_capture = make_capture
        self._captured: CapturedFunction | None = None
        self._states: list[Any] = []  # of the optimisers, which the replay writes to
        self._names: list[str] = []  # of the metrics

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from a batch (T, B, ...).

        Returns:
            Metrics, each (); later calls do not change them.

        Raises:
            ValueError: the batch differs from the captured one in shape or type.
            RuntimeError: something in the update waits for the device.
        """
        states = [optimizer.state for optimizer in self._agent.trainer.optimizers]
        same = all(x is y for x, y in zip(states, self._states, strict=False))
        if self._captured is None or not same:  # a loaded state has new tensors
            self._captured, self._states = self._start(list(batch.obs)), states
        was_captured = self._captured.is_captured
        (values,) = self._captured(*batch.obs.values(), *batch[1:])
        self.captures += self._captured.is_captured and not was_captured
        # A copy: the next replay writes to the same memory.
        return dict(zip(self._names, values.clone().unbind(), strict=True))

    def _start(self, obs_keys: list[str]) -> CapturedFunction:
        """Turn `learn` into a function from the tensors of a batch to one tensor of all metrics."""

        def learn(*tensors: Tensor) -> list[Tensor]:
            obs = dict(zip(obs_keys, tensors, strict=False))
            metrics = self._learn(Batch(obs, *tensors[len(obs) :]))
            self._names = list(metrics)
            return [torch.stack([x.float() for x in metrics.values()])]

        return CapturedFunction(learn, self._make_capture())


def _check_schedules(actor: ActorConfig, prefix: str) -> None:
    """Raise a ValueError for a schedule: a replay would keep the value of the captured update."""
    for name in ("entropy_scale", "gradient_mix"):
        value = getattr(actor, name)
        if not is_constant(value):
            raise ValueError(
                f"`{prefix}{name}` must be a number with cuda_graphs=true, got {value}"
            )
