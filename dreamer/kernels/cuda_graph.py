"""CUDA graphs: the kernels of one call, replayed without Python.

An update consists of thousands of small kernels; launching them costs more than running them.
`CapturedUpdate` and `CapturedPolicy` use it. The file knows functions of tensors, no networks.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

TensorFunction = Callable[..., Sequence[Tensor]]

WARM_UP = 3  # calls before the capture: libraries choose kernels, optimisers create their state


class Captured(NamedTuple):
    """A captured call."""

    replay: TensorFunction  # repeats the call with inputs of the same shapes
    results: Sequence[Tensor]  # of the call


class Capture(Protocol):
    """Captures one function of tensors."""

    def warm_up(self, function: TensorFunction, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Call the function as it will be captured, without capturing it."""
        ...

    def capture(self, function: TensorFunction, inputs: Sequence[Tensor]) -> Captured:
        """Call the function and capture the call."""
        ...


class CudaCapture:
    """One CUDA graph."""

    def __init__(self):
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream()

    def warm_up(self, function: TensorFunction, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `Capture`; on the stream of the capture, as torch requires."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def capture(self, function: TensorFunction, inputs: Sequence[Tensor]) -> Captured:
        """See `Capture`; every replay returns the same tensors.

        Raises:
            RuntimeError: something in the function waits for the device.
        """
        copies = [x.clone() for x in inputs]
        # Other threads, which act or step environments, may use the device during the capture.
        mode = "thread_local"
        try:
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode=mode):
                outputs = function(*copies)
        except RuntimeError as error:
            raise RuntimeError(
                f"A CUDA graph could not be captured ({error}). Set cuda_graphs=false."
            ) from error

        def replay(*inputs: Tensor) -> Sequence[Tensor]:
            for copy, x in zip(copies, inputs, strict=True):
                copy.copy_(x, non_blocking=True)
            self._graph.replay()
            return outputs

        return Captured(replay, replay(*inputs))


class CapturedFunction:
    """A function of tensors that is captured after a few calls and then replayed.

    The function may change tensors, such as weights, in place; the capture keeps their addresses.
    If they are replaced, a new object of this class is needed.
    """

    def __init__(self, function: TensorFunction, capture: Capture, *, automatic: bool = True):
        """Capture nothing yet.

        Args:
            function: takes tensors of the same shapes in every call.
            capture: captures it.
            automatic: capture in a call, after the warm-up; otherwise in `capture` only.
        """
        self._function = function
        self._capture = capture
        self._automatic = automatic
        self._calls = 0
        self._inputs: Sequence[Tensor] = ()  # of the last call without a replay
        self._signatures = _signatures(())
        self._replay: TensorFunction | None = None

    @property
    def is_captured(self) -> bool:
        """Whether the next call is a replay."""
        return self._replay is not None

    def capture(self) -> None:
        """Repeat the last call and capture it, if the warm-up is over and nothing is captured."""
        if self._replay is None and self._calls >= WARM_UP:
            self._replay, _ = self._capture.capture(self._function, self._inputs)

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Call the function.

        Returns:
            Its results; once captured, they are valid until the next call.

        Raises:
            ValueError: the inputs differ from the captured ones in shape or type.
        """
        if self._replay is None:
            self._inputs, self._signatures = inputs, _signatures(inputs)
            if self._automatic and self._calls >= WARM_UP:
                self._replay, results = self._capture.capture(self._function, inputs)
                return results
            self._calls += 1
            return self._capture.warm_up(self._function, inputs)
        if (signatures := _signatures(inputs)) != self._signatures:
            pairs = zip(self._signatures, signatures, strict=True)
            captured, actual = next((x, y) for x, y in pairs if x != y)
            raise ValueError(
                f"Inputs must be {_describe(captured)} as captured, got {_describe(actual)}; "
                "cuda_graphs=false captures nothing"
            )
        return self._replay(*inputs)


_Signature = tuple[torch.Size, torch.dtype]


def _signatures(tensors: Sequence[Tensor]) -> list[_Signature]:
    return [(x.shape, x.dtype) for x in tensors]


def _describe(signature: _Signature) -> str:
    shape, dtype = signature
    return f"{tuple(shape)} {dtype}"
