"""The two sizes at which everybody's update is measured, in numbers that every program shares.

Our benchmarks and the peers' scripts read them; the standard library is all they need, because a
peer's virtual environment holds nothing of ours.
"""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Size:
    """What one update works on. The letters are those of `dreamer/types.py`."""

    batch_size: int  # B, sequences
    batch_length: int  # T, steps of each
    horizon: int  # H, imagined steps from each of the T * B states
    actions: int  # A, discrete
    channels: int  # C of the 64 x 64 images
    deter: int  # D, units of the GRU
    hidden: int  # units of the dense layers around it
    variables: int  # S, categorical
    classes: int  # K of each
    depth: int  # channels of the outermost convolution
    units: int  # of every layer of every head
    layers: int  # of every head: reward, discount, actor, critic

    def as_dict(self) -> dict[str, int]:
        """For a report in JSON."""
        return asdict(self)


SIZES = {
    # Atari as the authors released it.
    "full": Size(
        batch_size=16,
        batch_length=50,
        horizon=15,
        actions=18,
        channels=1,
        deter=600,
        hidden=600,
        variables=32,
        classes=32,
        depth=48,
        units=400,
        layers=4,
    ),
    # A model for the CPU, where overhead weighs more than arithmetic.
    "small": Size(
        batch_size=8,
        batch_length=16,
        horizon=10,
        actions=6,
        channels=1,
        deter=128,
        hidden=128,
        variables=8,
        classes=8,
        depth=16,
        units=128,
        layers=2,
    ),
}
