"""The keys of `python -m dreamer.data`, apart from what is slow to import."""

from dataclasses import dataclass
from typing import Annotated, Literal

from dreamer.schema.types import PositiveCount, doc


@dataclass
class DataSettings:
    """The keys of `dreamer.data`."""

    to: Annotated[str | None, doc("Address to write to, empty or new; for convert.")] = None
    format: Annotated[
        Literal["dreamerv2", "pydreamer", "minari", "run"],
        doc("What convert writes: the authors' or PyDreamer's files, a Minari dataset, a replay."),
    ] = "dreamerv2"
    steps_per_file: Annotated[
        PositiveCount,
        doc(
            "Least steps of a file of format=pydreamer.",
            unit="policy steps",
            source="PyDreamer, steps_per_npz",
        ),
    ] = 1000
    minari_format: Annotated[
        Literal["hdf5", "arrow", "parquet"], doc("Files of format=minari.")
    ] = "arrow"
