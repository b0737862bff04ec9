"""The published data: training curves, baselines, and the paper's tables.

Scores, figures and reports compare runs with it. It knows no run folders; README.md beside it names
the source of each file.
"""

import difflib
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
CURVE_COLUMNS = ("env", "task", "variant", "seed", "frames", "score")


class _Source(NamedTuple):
    """The runs of one agent in a file, and our names for them."""

    file: str
    method: str
    env: str
    variant: str


_SOURCES = {
    "atari-dreamerv2": _Source("atari-dreamerv2", "dreamerv2", "atari", "dreamerv2"),
    "atari-dreamerv2-schedules": _Source(
        "atari-dreamerv2-schedules", "dreamerv2", "atari", "dreamerv2_schedules"
    ),
    # Three other seeds in the first file, which the paper leaves out: never mix them with it.
    "atari-dreamerv2-nosched": _Source("atari-dreamerv2", "nosched", "atari", "dreamerv2_nosched"),
    "montezuma-dreamerv2": _Source(
        "montezuma-dreamerv2", "dreamerv2", "atari", "dreamerv2_discount_0.99"
    ),
    "dmc-vision-dreamerv2": _Source("dmc-vision-dreamerv2", "dreamerv2", "dmc_vision", "dreamerv2"),
    "humanoid-dreamerv2": _Source("humanoid-dreamerv2", "best", "dmc_vision", "dreamerv2"),
    "pydreamer-atari": _Source("pydreamer-atari", "pydreamer", "atari", "pydreamer"),
}


def names() -> tuple[str, ...]:
    """Return the names that `curves` accepts."""
    return tuple(_SOURCES)


def curves(name: str) -> pd.DataFrame:
    """Return the training curves of one published agent, one row per point.

    Args:
        name: One of `names()`.

    Returns:
        Columns env, task, variant, seed (text), frames (emulator frames at the right edge of a
        bin) and score (mean return of the episodes in the bin), in the order of the file. A run
        that stopped early has fewer points. The frames of `pydreamer-atari` are on no grid: they
        are the means of an interval of 2000 updates.

    Raises:
        ValueError: There are no such curves; the message names similar ones.
    """
    if name not in _SOURCES:
        raise ValueError(unknown("published curves", name, _SOURCES))
    source = _SOURCES[name]
    runs = [
        run
        for run in _read(source.file)
        # The pseudo-tasks `stats_*` are aggregates over progress in percent, not over frames.
        if run["method"] == source.method and not run["task"].startswith("stats_")
    ]
    points = [len(run["xs"]) for run in runs]
    return pd.DataFrame(
        {
            "env": source.env,
            "task": np.repeat([_task(run["task"]) for run in runs], points),
            "variant": source.variant,
            "seed": np.repeat([run["seed"] for run in runs], points),
            "frames": np.concatenate([run["xs"] for run in runs]).astype(np.int64),
            "score": np.concatenate([run["ys"] for run in runs]),
        }
    )


def baselines() -> pd.DataFrame:
    """Return scores of a random agent, humans and other agents on Atari games, a row per game.

    Returns:
        Index `task`; columns `random`, `human_gamer`, `human_record`, and agents, such as
        `iqn_sticky_2e8` (sticky actions, 2e8 frames) and `rainbow_determ_2e8`. Each agent has one
        score per game, at the end of its training. 62 games; NaN where a score was not published.
    """
    scores = _read("baselines")
    table = pd.DataFrame.from_dict({_task(task): row for task, row in scores.items()}, "index")
    return table.rename_axis("task").sort_index()


def games() -> tuple[str, ...]:
    """Return the paper's 55 Atari games, in the order of Table K1."""
    return tuple(table_k1().index)


def game(task: str) -> str | None:
    """Return the published spelling of an Atari game, whatever the case and separators of `task`.

    ale-py writes `jamesbond` where the authors write `james_bond`.

    Returns:
        None if it is not among the games with published baselines.
    """
    return _spellings().get(_letters(task))


def table_1() -> pd.DataFrame:
    """Return Table 1 as printed: four aggregates per agent at 200M frames."""
    return pd.read_csv(HERE / "table_1.csv", index_col="agent")


def table_2() -> pd.DataFrame:
    """Return Table 2 as printed: four aggregates per ablation, of a slightly earlier DreamerV2."""
    return pd.read_csv(HERE / "table_2.csv", index_col="variant")


def table_k1() -> pd.DataFrame:
    """Return Table K1 as printed: rounded baselines, Rainbow, IQN and DreamerV2 per game."""
    return pd.read_csv(HERE / "table_k1.csv", index_col="task")


def unknown(kind: str, name: str, known: Any) -> str:
    """Return an error message for an unknown name, with the most similar known ones."""
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)
    return f"Unknown {kind} `{name}`. The nearest: {', '.join(f'`{n}`' for n in nearest)}"


def _read(file: str) -> Any:
    with gzip.open(HERE / f"{file}.json.gz", "rt") as stream:
        return json.load(stream)


def _task(name: str) -> str:
    """`atari_pong` -> `pong`, `dmc_walker_walk` -> `walker_walk`."""
    return name.split("_", 1)[1]


@cache
def _spellings() -> dict[str, str]:
    return {_letters(name): name for name in baselines().index}


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()
