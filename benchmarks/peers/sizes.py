"""The two sizes of the benchmarks, in numbers that apply to every program.

Our benchmarks and the peers' scripts use them. They need the standard library only, as a peer's
virtual environment has none of our packages.
"""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Size:
    """Sizes of one update, with the letters of `dreamer/types.py`."""

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
        """Return the sizes for a report in JSON."""
        return asdict(self)


SIZES = {
    # The authors' released Atari configuration.
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
    # A model for the CPU, for which overhead matters more than arithmetic.
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
