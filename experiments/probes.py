"""What the probes of runs know at the end: a table for reports.

It reads the latest numbers from the logs of run folders. It knows no agent.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from experiments.run_folder import read_lines

MEASURES = {  # names in the logs, and in the table
    "acc_map": "map accuracy",
    "acc_map_where_seen": "map accuracy where seen",
    "loss_map": "map loss, nats",
    "mse_goals": "squared error of goals",
    "var_goals": "variance of goals",
}
PREFIXES = ("probe/", "world_model/probe_")  # of a component, and with probe_gradients=true
GROUP = ["env", "task", "variant"]


def probe_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Average the latest numbers of the probes over seeds.

    Args:
        runs: A row per run: env, task, variant, path and others.

    Returns:
        A row per variant and task that has a probe, with the number of runs and the means; empty
        if there is no probe.
    """
    rows = [
        {**{key: run[key] for key in GROUP}, "runs": 1, **found}
        for _, run in runs.iterrows()
        if (found := _latest(Path(run["path"]) / "metrics.jsonl"))
    ]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    how = {key: "sum" if key == "runs" else "mean" for key in table.columns.difference(GROUP)}
    columns = [key for key in ("runs", *MEASURES.values()) if key in table]
    return table.groupby(GROUP, sort=False).agg(how)[columns].reset_index()


def _latest(path: Path) -> dict[str, float]:
    """Return the latest value of every measure, by its name in the table."""
    found: dict[str, float] = {}
    for values in read_lines(path)[0]:
        found |= _measures(values)
    return found


def _measures(values: Mapping[str, float | None]) -> dict[str, float]:
    return {
        title: value
        for key, title in MEASURES.items()
        for prefix in PREFIXES
        if (value := values.get(prefix + key)) is not None
    }
