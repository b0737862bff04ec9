"""CUDA graphs: what the device did in one call, replayed without Python.

An update is thousands of small kernels, and launching them costs more than running them. The
recorded update and the recorded policies use it. The file knows functions of tensors, no network.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

TensorFunction = Callable[..., Sequence[Tensor]]

WARM_UP = 3  # calls before the capture: libraries choose kernels and optimisers make their state


class Captured(NamedTuple):
    """A call that was captured."""

    replay: TensorFunction  # of inputs shaped like those of the call, does what it did
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
        """See `Capture`; on the stream of the capture, as torch asks for."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def capture(self, function: TensorFunction, inputs: Sequence[Tensor]) -> Captured:
        """See `Capture`; every replay has the same tensors as results.

        Raises:
            RuntimeError: something in the function waits for the device.
        """
        copies = [x.clone() for x in inputs]
        # Threads that act or step environments meanwhile may use the device as they like.
        mode = "thread_local"
        try:
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode=mode):
                outputs = function(*copies)
        except RuntimeError as error:
            raise RuntimeError(
                f"A CUDA graph could not be captured ({error}). cuda_graphs=false runs without."
            ) from error

        def replay(*inputs: Tensor) -> Sequence[Tensor]:
            for copy, x in zip(copies, inputs, strict=True):
                copy.copy_(x, non_blocking=True)
            self._graph.replay()
            return outputs

        return Captured(replay, replay(*inputs))


class CapturedFunction:
    """A function of tensors that is captured after some calls, and replayed from then on.

    The function may change tensors in place, weights for instance; the capture keeps their
    addresses. Where they are replaced, a new object of this class is due.
    """

    def __init__(self, function: TensorFunction, capture: Capture, *, when_called: bool = True):
        """Capture nothing yet.

        Args:
            function: of tensors of the same shapes at every call.
            capture: captures it.
            when_called: capture by itself, in the call that is due; else in `capture` only.
        """
        self._function = function
        self._capture = capture
        self._when_called = when_called
        self._calls = 0
        self._inputs: Sequence[Tensor] = ()  # of the last call that was no replay
        self._kinds = _kinds(())
        self._replay: TensorFunction | None = None

    @property
    def is_captured(self) -> bool:
        """Whether the next call is a replay."""
        return self._replay is not None

    def capture(self) -> None:
        """Make the last call again and capture it, if that is due and not done."""
        if self._replay is None and self._calls >= WARM_UP:
            self._replay, _ = self._capture.capture(self._function, self._inputs)

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Call the function.

        Returns:
            Its results; once captured, they hold until the next call.

        Raises:
            ValueError: the inputs are not shaped like those that were captured.
        """
        if self._replay is None:
            self._inputs, self._kinds = inputs, _kinds(inputs)
            if self._when_called and self._calls >= WARM_UP:
                self._replay, results = self._capture.capture(self._function, inputs)
                return results
            self._calls += 1
            return self._capture.warm_up(self._function, inputs)
        if (kinds := _kinds(inputs)) != self._kinds:
            pairs = zip(self._kinds, kinds, strict=True)
            captured, actual = next((x, y) for x, y in pairs if x != y)
            raise ValueError(
                "Expect inputs shaped like those that were captured (cuda_graphs=false captures no "
                f"update): {_in_words(captured)}, actually: {_in_words(actual)}"
            )
        return self._replay(*inputs)


_Kind = tuple[torch.Size, torch.dtype]


def _kinds(tensors: Sequence[Tensor]) -> list[_Kind]:
    return [(x.shape, x.dtype) for x in tensors]


def _in_words(kind: _Kind) -> str:
    shape, dtype = kind
    return f"{tuple(shape)} {dtype}"
