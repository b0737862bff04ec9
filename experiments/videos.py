"""The videos of runs, with captions in words.

Reports use it. It reads the names of files in the folder `videos` of a run.
"""

import re
from pathlib import Path

from experiments.page import Video

KINDS = {  # by the beginning of the file's name, the longest first
    "open_loop": "A dream. Truth, the model's prediction and the error",
    "policy_explore": "An evaluation episode of the explorer",
    "policy": "An evaluation episode",
    "evaluation_explore": "An episode of the explorer, by `python -m dreamer.evaluate`",
    "evaluation": "An episode, by `python -m dreamer.evaluate`",
    "probe_map": "The map, what the probe reads from the features, and errors in red",
    "probe_goals": "Goals as seen from the agent; small squares are the probe's predictions",
}
_NAME = re.compile(r"(?P<kind>.+)_(?P<count>\d{10})\.mp4")
_ORDER = [*KINDS]


def latest_videos(folder: Path, name: str, counter: str = "frames") -> list[Video]:
    """Return the latest video of each kind of a run.

    Args:
        folder: of the run.
        name: of the run, for the captions.
        counter: what the names of its videos count, frames or updates.
    """
    latest: dict[str, tuple[int, Path]] = {}
    for path in sorted((folder / "videos").glob("*.mp4")):
        if match := _NAME.fullmatch(path.name):
            found = (int(match["count"]), path)
            latest[match["kind"]] = max(found, latest.get(match["kind"], found))
    return [
        Video(path, f"{_what(kind)}. {name}, after {count:,} {counter}.")
        for kind, (count, path) in sorted(latest.items(), key=lambda item: _place(item[0]))
    ]


def _what(kind: str) -> str:
    beginning = _beginning(kind)
    if beginning is None:
        return kind.replace("_", " ").capitalize()
    rest = kind.removeprefix(beginning).strip("_")
    return KINDS[beginning] + (f" of `{rest}`" if rest else "")


def _place(kind: str) -> tuple[int, str]:
    beginning = _beginning(kind)
    return (len(_ORDER) if beginning is None else _ORDER.index(beginning), kind)


def _beginning(kind: str) -> str | None:
    return next((x for x in KINDS if kind == x or kind.startswith(f"{x}_")), None)
