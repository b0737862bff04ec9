"""The agent's update as a CUDA graph: captured after a few calls, and replayed from then on.

`build.py` puts it in the place of `DreamerAgent.learn` where `cuda_graphs` asks for it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamer.agent import DreamerAgent
from dreamer.kernels.cuda_graph import Capture, CapturedFunction
from dreamer.schedules import is_constant
from dreamer.types import Batch


class RecordedUpdate:
    """`agent.learn`, recorded."""

    def __init__(self, agent: DreamerAgent, make_capture: Callable[[], Capture]):
        """Record nothing yet.

        Args:
            agent: whose `learn` is recorded.
            make_capture: what captures are made with.

        Raises:
            ValueError: a schedule changes with the update.
        """
        actor = agent.config.actor_critic.actor
        for name in ("entropy_scale", "gradient_mix"):
            # A replay would go on with the value of the update that was captured.
            if not is_constant(getattr(actor, name)):
                raise ValueError(
                    f"Expect `{name}` to be a number with cuda_graphs=true, "
                    f"actually: {getattr(actor, name)}"
                )
        self.captures = 0  # one, and one more whenever optimisers load a state
        self._agent = agent
        self._learn = agent.learn
        self._make_capture = make_capture
        self._captured: CapturedFunction | None = None
        self._states: list[Any] = []  # of the optimisers, which the replay writes to
        self._names: list[str] = []  # of the metrics

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from a batch (T, B, ...).

        Returns:
            Metrics, each (); they stay as they are.

        Raises:
            ValueError: the batch is not shaped like those before.
            RuntimeError: something in the update waits for the device.
        """
        states = [optimizer.state for optimizer in self._agent.trainer.optimizers]
        same = all(x is y for x, y in zip(states, self._states, strict=False))
        if self._captured is None or not same:  # a state that is loaded has new tensors
            self._captured, self._states = self._start(list(batch.obs)), states
        was_captured = self._captured.is_captured
        (values,) = self._captured(*batch.obs.values(), *batch[1:])
        self.captures += self._captured.is_captured and not was_captured
        # One copy of all: the next update is replayed into the same memory.
        return dict(zip(self._names, values.clone().unbind(), strict=True))

    def _start(self, obs_keys: list[str]) -> CapturedFunction:
        """`learn` as a function from the tensors of a batch to one tensor of all metrics."""

        def learn(*tensors: Tensor) -> list[Tensor]:
            obs = dict(zip(obs_keys, tensors, strict=False))
            metrics = self._learn(Batch(obs, *tensors[len(obs) :]))
            self._names = list(metrics)
            return [torch.stack([x.float() for x in metrics.values()])]

        return CapturedFunction(learn, self._make_capture())
