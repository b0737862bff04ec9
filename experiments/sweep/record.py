"""The jobs that sweeps were asked for, in a file in their root.

`sweep.py` writes it; reports read it to name the runs that are missing.
"""

import json
from collections.abc import Iterable
from pathlib import Path

NAME = "sweep.json"


def write_jobs(root: Path, folders: Iterable[Path]) -> None:
    """Add the folders of jobs to those of earlier sweeps in the same root."""
    top = root.absolute()
    inside = [folder.absolute() for folder in folders if folder.absolute().is_relative_to(top)]
    names = [folder.relative_to(top).as_posix() for folder in inside]
    root.mkdir(parents=True, exist_ok=True)
    jobs = list(dict.fromkeys([*read_jobs(root), *names]))
    unfinished = root / f"{NAME}.new"
    unfinished.write_text(json.dumps({"jobs": jobs}, indent=1) + "\n")
    unfinished.replace(root / NAME)


def read_jobs(root: Path) -> list[str]:
    """Return the run folders, below `root`, of all jobs; empty without a sweep."""
    try:
        jobs = json.loads((root / NAME).read_text())["jobs"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(name) for name in jobs] if isinstance(jobs, list) else []
