"""Recordings: what the device did in one call, played back without Python.

An update is thousands of small kernels, and launching them costs more than running them. The agent
and the policy have theirs recorded on CUDA, the policy its own on CPUs, too (`trace.py`). The file
knows batches, no network and no Trainer.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dreamer.types import Batch

TensorFunction = Callable[..., Sequence[Tensor]]

WARM_UP = 3  # calls before the recording: libraries choose kernels and optimisers make their state


class Recording(NamedTuple):
    """A call that was recorded."""

    play: TensorFunction  # of inputs shaped like those of the call, does what it did
    results: Sequence[Tensor]  # of the call


class Tape(Protocol):
    """What one function of tensors is recorded on."""

    def is_due(self, calls: int, inputs: Sequence[Tensor]) -> bool:
        """Whether a call with these inputs, after so many others, is to be recorded."""
        ...

    def warm_up(self, function: TensorFunction, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Call the function as it will be recorded, without recording it."""
        ...

    def record(self, function: TensorFunction, inputs: Sequence[Tensor]) -> Recording:
        """Call the function and record the call."""
        ...


class CudaTape:
    """One CUDA graph."""

    def __init__(self):
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream()

    def is_due(self, calls: int, inputs: Sequence[Tensor]) -> bool:
        """See `Tape`."""
        return calls >= WARM_UP

    def warm_up(self, function: TensorFunction, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """See `Tape`; on the stream of the recording, as torch asks for."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def record(self, function: TensorFunction, inputs: Sequence[Tensor]) -> Recording:
        """See `Tape`; what is played has the same tensors as results every time.

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
                f"A CUDA graph could not be recorded ({error}). cuda_graphs=false runs without."
            ) from error

        def play(*inputs: Tensor) -> Sequence[Tensor]:
            for copy, x in zip(copies, inputs, strict=True):
                copy.copy_(x, non_blocking=True)
            self._graph.replay()
            return outputs

        return Recording(play, play(*inputs))


class Recorded:
    """A function of tensors that is recorded after some calls, and played from then on.

    The function may change tensors in place, weights for instance; the recording keeps their
    addresses. Where they are replaced, a new object of this class is due.
    """

    def __init__(self, function: TensorFunction, tape: Tape, *, when_called: bool = True):
        """Record nothing yet.

        Args:
            function: of tensors of the same shapes at every call.
            tape: what it is recorded on.
            when_called: record by itself, in the call that is due; else in `record` only.
        """
        self._function = function
        self._tape = tape
        self._when_called = when_called
        self._calls = 0
        self._inputs: Sequence[Tensor] = ()  # of the last call that was no play
        self._kinds = _kinds(())
        self._play: TensorFunction | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether the next call is played."""
        return self._play is not None

    def record(self) -> None:
        """Make the last call again and record it, if that is due and not done."""
        if self._play is None and self._tape.is_due(self._calls, self._inputs):
            self._play, _ = self._tape.record(self._function, self._inputs)

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Call the function.

        Returns:
            Its results; once recorded, they hold until the next call.

        Raises:
            ValueError: the inputs are not shaped like those that were recorded.
        """
        if self._play is None:
            self._inputs, self._kinds = inputs, _kinds(inputs)
            if self._when_called and self._tape.is_due(self._calls, inputs):
                self._play, results = self._tape.record(self._function, inputs)
                return results
            self._calls += 1
            return self._tape.warm_up(self._function, inputs)
        if (kinds := _kinds(inputs)) != self._kinds:
            pairs = zip(self._kinds, kinds, strict=True)
            recorded, actual = next((x, y) for x, y in pairs if x != y)
            raise ValueError(
                "Expect inputs shaped like those that were recorded (cuda_graphs=false records no "
                f"update): {_in_words(recorded)}, actually: {_in_words(actual)}"
            )
        return self._play(*inputs)


_Kind = tuple[torch.Size, torch.dtype]


def _kinds(tensors: Sequence[Tensor]) -> list[_Kind]:
    return [(x.shape, x.dtype) for x in tensors]


def _in_words(kind: _Kind) -> str:
    shape, dtype = kind
    return f"{tuple(shape)} {dtype}"


class Alarm:
    """Remembers on the device which of some checks failed first, and tells the host later.

    While the host looks at each result it cannot send off the next kernel; so the device itself
    holds back what must not happen after a failure, and the host reads of it when it gets there.
    """

    def __init__(self, names: Sequence[str], device: torch.device):
        """`names` of the checks, in any order."""
        self._names = list(names)
        self._first = torch.zeros((), device=device)  # 0, or 1 + the place in `names`
        self._seen = torch.zeros((), pin_memory=device.type == "cuda")

    def allow(self, name: str, passed: Tensor) -> Tensor:
        """1 if this check () and all before it have been passed, else 0; () float."""
        code = 1.0 + self._names.index(name)
        self._first += code * (~passed & (self._first == 0))
        return (self._first == 0).float()

    def send(self) -> None:
        """Start to tell the host; nothing waits."""
        self._seen.copy_(self._first, non_blocking=True)

    def heard(self, *, wait: bool = False) -> str | None:
        """The check that failed first, as far as the host has been told; or up to now."""
        code = int(self._first if wait else self._seen)
        return self._names[code - 1] if code else None


class RecordedUpdate:
    """An update that is recorded after a few calls, and played from then on."""

    def __init__(
        self,
        learn: Callable[[Batch, Alarm], dict[str, Tensor]],
        make_tape: Callable[[], Tape],
        losses: Sequence[str],
    ):
        """Record nothing yet.

        Args:
            learn: from a batch (T, B, ...) to metrics, each (); asks the alarm before each step.
            make_tape: what recordings are made on.
            losses: names of the alarm's checks.
        """
        self.captures = 0  # recordings; more than one in a run is a bug
        self._learn = learn
        self._make_tape = make_tape
        self._losses = losses
        self._alarm: Alarm | None = None
        self._recorded: Recorded | None = None
        self._states: list[Any] = []  # of the optimisers, which the recording writes to
        self._names: list[str] = []  # of the metrics

    def __call__(
        self, batch: Batch, optimizers: Sequence[torch.optim.Optimizer]
    ) -> dict[str, Tensor]:
        """Learn from a batch (T, B, ...), with the optimisers that do the steps.

        Returns:
            Metrics, each (); they stay as they are.

        Raises:
            ValueError: the batch is not shaped like those before.
            RuntimeError: something in `learn` waits for the device.
        """
        if self._alarm is None:
            self._alarm = Alarm(self._losses, batch.reward.device)
        states = [optimizer.state for optimizer in optimizers]
        same = all(x is y for x, y in zip(states, self._states, strict=False))
        if self._recorded is None or not same:  # a state that is loaded has new tensors
            self._recorded, self._states = self._start(list(batch.obs), self._alarm), states
        was_recorded = self._recorded.is_recorded
        (values,) = self._recorded(*batch.obs.values(), *batch[1:])
        self.captures += self._recorded.is_recorded and not was_recorded
        self._alarm.send()
        # One copy of all: the next update is played into the same memory.
        return dict(zip(self._names, values.clone().unbind(), strict=True))

    def failure(self, *, wait: bool = False) -> str | None:
        """The first loss that was not finite, as far as the host knows; `wait` makes it ask."""
        return self._alarm.heard(wait=wait) if self._alarm else None

    def _start(self, obs_keys: list[str], alarm: Alarm) -> Recorded:
        """`learn` as a function from the tensors of a batch to one tensor of all metrics."""

        def learn(*tensors: Tensor) -> list[Tensor]:
            obs = dict(zip(obs_keys, tensors, strict=False))
            metrics = self._learn(Batch(obs, *tensors[len(obs) :]), alarm)
            self._names = list(metrics)
            return [torch.stack([x.float() for x in metrics.values()])]

        return Recorded(learn, self._make_tape())
