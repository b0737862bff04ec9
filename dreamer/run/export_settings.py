"""The keys of `python -m dreamer.export`, apart from what is slow to import."""

from dataclasses import dataclass
from typing import Annotated, Literal

from dreamer.schema.types import PositiveCount, Seed, doc


@dataclass
class ExportSettings:
    """The keys of `dreamer.export`."""

    to: Annotated[str | None, doc("Folder or address to write to, empty or new.")] = None
    checkpoint: Annotated[
        Literal["best", "last"], doc("Weights to export; best falls back to last.")
    ] = "best"
    weights: Annotated[
        Literal["float16", "float32"], doc("Type in which weights are stored; float16 is half.")
    ] = "float16"
    episodes: Annotated[PositiveCount, doc("Episodes whose scores are recorded.")] = 20
    seed: Annotated[Seed, doc("Seed of the first episode; each next one has the next seed.")] = 0
    max_episode_policy_steps: Annotated[
        PositiveCount,
        doc("Maximum length of an episode; a longer one is cut.", unit="policy steps"),
    ] = 30_000
    command: Annotated[str, doc("The command that trained the agent, to be recorded.")] = ""
    allow: Annotated[
        str, doc("Packages whose code the run may use, separated by commas; it is run.")
    ] = ""
