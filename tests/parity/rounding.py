"""How far bfloat16 may move the results of a test: measured on the test itself.

A float32 run is repeated with its products rounded as bfloat16 rounds them, each time on another
grid. By how much its results move is how much rounding matters to them. This knows no golden file,
no autocast and no kernel.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

UNIT_ROUNDOFF = 2**-8  # the most by which rounding to 8 bits changes a number, as a part of it
# Of the largest of eight movements: a ninth of the same normal distribution exceeds that once in
# 7000 times if it is a single number, and never if it is the norm of many.
FACTOR = 4
GRIDS = tuple(2 ** (i / 8) for i in range(8))
PRODUCTS = (
    F.linear,
    F.conv2d,
    F.conv_transpose2d,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
)


class Rounding(NamedTuple):
    """What rounding does to one test."""

    movements: dict[str, float]  # by result, the largest norm of its change
    scores: list[Tensor]  # of every choice of a class, as float32 has them
    margins: list[float]  # by choice, what rounding may add to the difference of two scores

    def limit(self, key: str) -> float:
        """The largest norm of the error in bfloat16 that rounding explains."""
        return FACTOR * self.movements[key]

    def choices(self) -> TorchFunctionMode:
        """Lets float32 choose between classes whose scores rounding cannot tell apart."""
        return _Run(self.scores, self.margins)


def measure_rounding(test: Callable[[], Mapping[str, np.ndarray]]) -> Rounding:
    """Repeat a test, which returns all its results, on every grid."""
    with _Run() as exact:
        results = test()
    movements, margins = dict.fromkeys(results, 0.0), [0.0] * len(exact.scores)
    for grid in GRIDS:
        with _Run(exact.scores, [torch.inf] * len(margins), grid) as run:
            for key, rounded in test().items():
                moved = change(rounded, results[key])
                movements[key] = max(movements[key], moved)
        for i, scores in enumerate(zip(run.scores, exact.scores, strict=True)):
            moved = float((scores[0] - scores[1]).abs().max())
            margins[i] = max(margins[i], 2 * FACTOR * moved)
    return Rounding(movements, exact.scores, margins)


def change(result: np.ndarray, earlier: np.ndarray) -> float:
    """The norm of a difference; nan (a mean of nothing) is no change where both have it."""
    both = np.isnan(result) & np.isnan(earlier)
    return float(np.linalg.norm(np.where(both, 0, np.subtract(result, earlier, dtype=float))))


class _Run(TorchFunctionMode):
    """Rounds products if it has a grid, and chooses as an earlier run did, within margins."""

    def __init__(
        self,
        earlier: Sequence[Tensor] = (),
        margins: Sequence[float] = (),
        grid: float | None = None,
    ):
        super().__init__()
        self.scores: list[Tensor] = []  # of the choices so far
        self._earlier, self._margins, self._grid = earlier, margins, grid

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._grid is not None and func in PRODUCTS:
            args = [self._round(x) for x in args]
            return self._round(func(*args, **{k: self._round(x) for k, x in kwargs.items()}))
        axis = args[1] if len(args) > 1 else kwargs.get("dim")
        chooses = func is Tensor.argmax or (func is Tensor.max and axis is not None)
        if chooses and args[0].is_floating_point():  # integers are exact data
            args = [self._choose(args[0].detach(), axis), *args[1:]]
        return func(*args, **kwargs)

    def _round(self, x: Any) -> Any:
        is_tensor = isinstance(x, Tensor) and x.is_floating_point()
        return _RoundBothWays.apply(x, self._grid) if is_tensor else x

    def _choose(self, scores: Tensor, axis: int | None) -> Tensor:
        """Scores of which the largest is that of the class to choose."""
        axes = tuple(range(scores.ndim)) if axis is None else axis
        i = len(self.scores)
        self.scores.append(scores)
        if not self._earlier:
            return scores
        earlier = self._earlier[i]
        assert scores.shape == earlier.shape, "the runs choose in different orders"
        was_best = earlier == earlier.amax(axes, keepdim=True)
        close = scores >= scores.amax(axes, keepdim=True) - self._margins[i]
        return scores.masked_fill(was_best & close, torch.inf)


class _RoundBothWays(torch.autograd.Function):
    """Rounds a tensor to the 8 bits of bfloat16, and its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, grid: float) -> Tensor:
        ctx.grid = grid
        return (x * grid).bfloat16().float() / grid

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs
        return (grad * ctx.grid).bfloat16().float() / ctx.grid, None
