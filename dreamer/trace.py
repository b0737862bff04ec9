"""Traces: the operations of one call, called again without the Python between them.

On a CPU that saves up to half the time of a policy call, whose operations are small; and while
Python is at work, the threads that help with the larger ones fall asleep. On a GPU a CUDA graph
(`graph.py`) saves the same and more.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dreamer.graph import Recording, TensorFunction

# Calls before the trace, which takes as long as it saves in so many.
CALLS = 200


class TraceTape:
    """One trace, for functions that need no gradients, on a CPU.

    Its numbers are those of the function to the last bit, draws included. The weights may change in
    place, but not move; what the function does may depend on no number in them or in its inputs.
    """

    def __init__(self, networks: Sequence[nn.Module]):
        """`networks` are all whose weights the function reads."""
        self._networks = networks

    def is_due(self, calls: int, inputs: Sequence[Tensor]) -> bool:
        """See `graph.Tape`."""
        return calls >= CALLS and inputs[0].device.type == "cpu"

    def warm_up(self, function: TensorFunction, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `graph.Tape`."""
        return function(*inputs)

    @torch.no_grad()
    def record(self, function: TensorFunction, inputs: Sequence[Tensor]) -> Recording:
        """See `graph.Tape`."""
        module = _Module(function, self._networks)
        with warnings.catch_warnings():
            # That sizes are numbers to it, and that torch will do without TorchScript one day.
            warnings.simplefilter("ignore")
            trace: Any = torch.jit.trace(module, tuple(inputs), check_trace=False)
        return Recording(trace, module.results)


class _Module(nn.Module):
    """A function as a module that has the weights it reads: a trace takes others for constants."""

    def __init__(self, function: TensorFunction, networks: Sequence[nn.Module]):
        super().__init__()
        self.results: tuple[Tensor, ...] = ()
        self._function = function
        weights = (weight for network in networks for weight in network.parameters())
        for number, weight in enumerate(weights):
            self.register_parameter(str(number), weight)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        self.results = tuple(self._function(*inputs))
        return self.results
