"""The table of agents that `python -m dreamer.export` wrote, by what they played.

Reports show it. It reads `scores.json` of a folder; a folder without one is not listed.
"""

from pathlib import Path

import pandas as pd

from dreamer.files import DamagedFile, read_json
from experiments.text_tables import number


def exported_agents(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per exported agent: its scores, and the command that trained it.

    Args:
        runs: A row per run with env, task and path, see `runs.RUN_COLUMNS`.
    """
    rows = []
    for run in runs.to_dict("records"):
        try:
            scores = read_json(Path(run["path"]) / "scores.json")
            low, high = map(number, scores["interval"])
            row = {
                "agent": f"{run['env']}/{run['task']}",
                "frames": f"{scores['frames']:,}",
                "episodes": str(scores["episodes"]),
                "return": f"{number(scores['mean'])} [{low}, {high}]",
                "command": str(scores["command"]),
            }
        except (OSError, DamagedFile, KeyError, TypeError, ValueError):
            continue
        rows.append(row)
    return pd.DataFrame(rows)
