"""The precisions of a run, as options of Lightning's Trainer.

Runs, benchmarks and tests build their Trainer with them. The file knows no networks.
"""

from typing import Any, Literal

from pytorch_lightning.plugins.precision import MixedPrecision

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class Float16(MixedPrecision):
    """Autocast to float16, on CPUs, too; the agent scales the losses, see `loss_scaling.py`.

    Lightning's own plugin has one scale for all optimisers, which waits for the device, and falls
    back to bfloat16 on CPUs.
    """

    def __init__(self, device: str):
        """`device` is the kind of the device: cuda, cpu or mps."""
        # Without Lightning's own constructor, which would make a scale.
        self.precision, self.device, self.scaler = "16-mixed", device, None


def trainer_options(precision: str, device: str) -> dict[str, Any]:
    """Return the arguments of the Trainer for a precision on a kind of device."""
    if precision == "16-mixed":
        return {"plugins": [Float16(device)]}
    return {"precision": precision}
