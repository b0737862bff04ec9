"""Traces: the operations of one call, called again without the Python between them.

On a CPU that saves up to half the time of a policy call, whose operations are small; and while
Python is at work, the threads that help with the larger ones fall asleep. What `graph.py` records
on a GPU saves the same and more.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Calls before the trace, which takes as long as it saves in so many.
CALLS = 200


class Traced:
    """A function of tensors, without gradients, that is traced after some calls and then played.

    Its numbers, draws included, stay the same to the last bit. The weights may change in place, but
    not move. With inputs on other devices than a CPU, it is only ever called.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], networks: Sequence[nn.Module]):
        """Trace nothing yet.

        Args:
            function: takes tensors of the same shapes at every call; what it does depends on no
                number in them.
            networks: all whose weights it reads.
        """
        self._function = function
        self._networks = networks
        self._calls = 0
        self._trace: Callable[..., Sequence[Tensor]] | None = None

    @property
    def is_traced(self) -> bool:
        """Whether the next call is played."""
        return self._trace is not None

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Call the function."""
        if self._trace is not None:
            return self._trace(*inputs)
        self._calls += 1
        if self._calls <= CALLS or inputs[0].device.type != "cpu":
            return self._function(*inputs)
        # The trace makes a call of its own, whose draws are not to be missing afterwards.
        with torch.random.fork_rng(devices=()), warnings.catch_warnings():
            # That sizes are numbers to it, and that torch will do without TorchScript one day.
            warnings.simplefilter("ignore")
            module = _WithWeights(self._function, self._networks)
            trace: Any = torch.jit.trace(module, inputs, check_trace=False)
        self._trace = trace
        return trace(*inputs)


class _WithWeights(nn.Module):
    """A function as a module that has the weights it reads: a trace takes others for constants."""

    def __init__(self, function: Callable[..., Sequence[Tensor]], networks: Sequence[nn.Module]):
        super().__init__()
        self._function = function
        weights = (weight for network in networks for weight in network.parameters())
        for number, weight in enumerate(weights):
            self.register_parameter(str(number), weight)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._function(*inputs))
