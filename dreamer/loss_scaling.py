"""Loss scaling for float16: every loss has a scale, and a step that overflows is skipped.

The agent uses it as its finite check if the Trainer computes in float16. It knows names and
numbers, but no networks.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dreamer.finite_check import FiniteCheck

FIRST_SCALE = 2.0**15
LEAST_SCALE = 1.0
GREATEST_SCALE = 2.0**32
GROWTH_STEPS = 2000  # good steps in a row, after which a scale doubles
PATIENCE = 10  # overflows in a row at the least scale, after which the run fails


class LossScaling(FiniteCheck):
    """Scales losses, so that small gradients do not vanish in float16, whose least number is 6e-8.

    Gradients that overflow are normal: their step is skipped, and their scale halved. The device
    decides both, so the host does not wait. A loss that is not finite itself is a failure at once.

    Source: the dynamic loss scale of TensorFlow, which the authors' code uses for 16 bits.
    """

    _scales: Tensor  # (names,) float, powers of 2
    _good_steps: Tensor  # (names,) int64, since the scale changed
    _overflows: Tensor  # (names,) int64, in a row at the least scale

    def __init__(self, names: Sequence[str]):
        """`names` are those of the losses."""
        super().__init__(names)
        count = len(self.names)
        self.register_buffer("_scales", torch.full((count,), FIRST_SCALE), persistent=False)
        for name in ("_good_steps", "_overflows"):
            counts = torch.zeros(count, dtype=torch.long)
            self.register_buffer(name, counts, persistent=False)

    def scale(self, name: str, loss: Tensor) -> Tensor:
        """See `FiniteCheck`."""
        return loss * self._scales[self.names.index(name)].clone()  # it changes before the next

    def unscale(self, name: str, gradients: Sequence[Tensor]) -> None:
        """See `FiniteCheck`."""
        torch._foreach_mul_([*gradients], 1 / self._scales[self.names.index(name)])

    def allow(self, name: str, loss: Tensor, norm: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See `FiniteCheck`; the norm is that of the unscaled gradients."""
        index = self.names.index(name)
        scale = self._scales[index].clone()
        good = norm.isfinite()
        self._change_scale(index, scale, good)
        overflows = (self._overflows[index] + (scale <= LEAST_SCALE)) * ~good
        self._overflows[index] = overflows
        failure = torch.where(overflows >= PATIENCE, norm, 0)
        allowed = self.check(name, loss + failure) * good
        metrics = {
            f"grad_norm/{name}": torch.where(good, norm, 0),
            f"grad_scale/{name}": scale,
            f"grad_overflow/{name}": (~good).float(),
        }
        return allowed, metrics

    def _change_scale(self, index: int, scale: Tensor, good: Tensor) -> None:
        steps = (self._good_steps[index] + 1) * good
        due = steps >= GROWTH_STEPS
        changed = torch.where(good, torch.where(due, scale * 2, scale), scale / 2)
        self._scales[index] = changed.clamp(LEAST_SCALE, GREATEST_SCALE)
        self._good_steps[index] = steps * ~due

    def saved(self) -> dict[str, list[float]]:
        """See `FiniteCheck`: by name, the scale and both counts."""
        columns = (x.tolist() for x in (self._scales, self._good_steps, self._overflows))
        return {name: list(row) for name, *row in zip(self.names, *columns, strict=True)}

    def restore(self, saved: Mapping[str, Sequence[float]]) -> None:
        """See `FiniteCheck`."""
        for index, name in enumerate(self.names):
            if name in saved:
                for buffer, value in zip(
                    (self._scales, self._good_steps, self._overflows), saved[name], strict=True
                ):
                    buffer[index] = value
