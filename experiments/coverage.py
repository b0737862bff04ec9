"""Counts the states that runs have seen: `python -m experiments.coverage runs`.

It reads the replays of run folders and counts different observations. In the dummy maze these are
its cells. It knows no environments.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd

from dreamer.cli.command import HELP, interruptible, loaded, start
from dreamer.schema.help import Usage, head, keys, print_lines
from dreamer.schema.types import Section, doc
from dreamer.schema.validation import validate_words
from experiments import text_tables
from experiments.plots import style
from experiments.plots.curves import Band, bin_width, draw_band
from experiments.run_folder import UnusableError, read_run, run_folders
from experiments.scores import bootstrap_interval

if TYPE_CHECKING:
    from dreamer.replay.storage import Stored

USAGE = Usage(
    "Count the different observations in the replays of runs, over frames, and draw the counts.",
    "python -m experiments.coverage FOLDER ... [key=value ...]",
    (
        (
            "python -m experiments.coverage runs/dummy/maze",
            "Counts the cells that each run visited.",
        ),
    ),
)
VARIANT = ["env", "task", "variant"]
ROWS = 10  # about as many are printed of each curve


@dataclass
class CoverageSettings(Section):
    """The arguments after the folders."""

    out: Annotated[str, doc("Output folder of the figure and the numbers.")] = "reports/coverage"


def states_seen(replay: Path) -> np.ndarray:
    """Count the different observations of all environments together.

    Observations are compared exactly, so the counts mean little where observations are noisy.
    Those of resets count from the next policy step on.

    Args:
        replay: The folder of a replay that still holds every step.

    Returns:
        (P,) the number so far after each policy step; environments step in the order of their
        number.

    Raises:
        ValueError: The folder holds no replay, or early steps have been overwritten.
    """
    from dreamer.replay.storage import peek  # slow: torch

    stored = peek(replay)
    if stored is None:
        raise ValueError(f"{replay} must hold a replay, got no steps")
    capacity = stored.columns["is_first"].shape[1] - 1  # one slot is spare
    if stored.steps > capacity:
        raise ValueError(
            f"{replay} must hold every step of the run, got the last {capacity:,} of "
            f"{stored.steps:,}. Run it again with a larger replay.capacity_policy_steps."
        )
    seen: set[bytes] = set()
    counts = []
    for state, is_first in _states(stored):
        seen.add(state)
        if not is_first:
            counts.append(len(seen))
    return np.array(counts, int)


def _states(stored: "Stored") -> Iterator[tuple[bytes, bool]]:
    """Yield a hash of each observation, and whether it is that of a reset, in the order of time."""
    names = sorted(name for name in stored.columns if name.startswith("obs_"))
    is_first = stored.columns["is_first"]  # (E, L)
    for step in range(stored.steps):
        for env in range(len(is_first)):
            digest = blake2b(digest_size=16)
            for name in names:
                digest.update(stored.columns[name][env, step].tobytes())
            yield digest.digest(), bool(is_first[env, step])


def read_counts(folders: Sequence[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Count the states of all runs in and under some folders.

    Returns:
        A row per policy step of each run (env, task, variant, seed, frames and states), and
        sentences about runs that are left out.
    """
    tables, problems = [], []
    for path in (path for folder in folders for path in run_folders(folder)):
        try:
            row = read_run(path).row
            states = states_seen(path / "replay")
        except (UnusableError, ValueError) as reason:
            problems.append(f"{path}: {reason}. Left out.")
            continue
        frames = np.arange(1, len(states) + 1) * row["action_repeat"]
        name = {key: row[key] for key in [*VARIANT, "seed"]}
        tables.append(pd.DataFrame({**name, "frames": frames, "states": states}))
    if not tables:
        names = ", ".join(map(str, folders))
        message = f"The folders must hold runs with a replay, got {names}"
        raise ValueError("\n".join([message, *problems]))
    return pd.concat(tables, ignore_index=True), problems


def summarize(counts: pd.DataFrame, every_frames: int) -> pd.DataFrame:
    """Average the counts over seeds, as far as all seeds of a variant reach.

    Args:
        counts: See `read_counts`.
        every_frames: Distance of the points.

    Returns:
        A row per variant and point: env, task, variant, frames, seeds, value (the mean), and low
        and high (its 95 % bootstrap interval; NaN with one seed).
    """
    rows = []
    for name, part in counts[counts["frames"] % every_frames == 0].groupby(VARIANT):
        table = part.pivot(index="seed", columns="frames", values="states").dropna(axis=1)  # (S, K)
        if table.empty:
            continue
        low, high = bootstrap_interval(
            lambda matrix: matrix.mean(0), table, rng=np.random.default_rng(0)
        )
        points = {"frames": table.columns, "value": table.mean(), "low": low, "high": high}
        rows.append(
            pd.DataFrame({**dict(zip(VARIANT, name, strict=True)), "seeds": len(table), **points})
        )
    if not rows:
        raise ValueError(f"The runs must have at least {every_frames:,} frames, got fewer")
    return pd.concat(rows, ignore_index=True)


def tables_of(summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Format a table per task, by its title: a row per frame count, a column per variant."""
    found = {}
    for (env, task), part in summary.groupby(["env", "task"]):
        points = sorted(part["frames"].unique())
        wide: dict[int, dict[str, str]] = {
            int(frames): {} for frames in points[:: -max(1, len(points) // ROWS)][::-1]
        }
        for row in part[part["frames"].isin(wide)].to_dict("records"):
            column = f"{row['variant']} ({style.plural(row['seeds'], 'seed')})"
            wide[row["frames"]][column] = text_tables.interval(row)
        table = pd.DataFrame.from_dict(wide, "index").fillna("-").rename_axis("frames")
        found[f"{env}/{task}: different observations, mean [95 % interval]"] = table
    return found


def draw(summary: pd.DataFrame, stem: Path) -> Path:
    """Draw a panel per task and a line per variant, and return the path of the PNG file."""
    looks = style.variant_styles(summary["variant"])
    tasks = list(summary.groupby(["env", "task"]))
    figure, axes = style.panels(len(tasks), columns=style.columns_of(len(tasks)), width=3.4)
    for axis, ((_, task), part) in zip(axes, tasks, strict=True):
        for variant, points in part.groupby("variant"):
            columns = (points[key].to_numpy() for key in ("frames", "value", "low", "high"))
            band = Band(*columns, seeds=int(points["seeds"].iloc[0]), stops=[])
            draw_band(axis, band, looks[str(variant)], label=style.readable(str(variant)))
        axis.set_title(style.readable(str(task)), fontsize=style.NORMAL)
        axis.set_xlabel("frames", fontsize=style.SMALL)
        axis.set_ylabel("different observations", fontsize=style.SMALL)
    handles = {line.get_label(): line for axis in axes for line in axis.lines}
    style.legend_below(figure, list(handles.values()))
    return style.save(figure, stem)


def parse(words: Sequence[str]) -> tuple[list[Path], Path]:
    """Return the folders of runs, and the output folder.

    Raises:
        ValueError: There is no folder, or an argument is not allowed.
    """
    folders = [Path(word) for word in words if "=" not in word]
    options = validate_words([word for word in words if "=" in word], CoverageSettings)
    if not folders:
        raise ValueError("The input must be one or more folders of runs, got none")
    return folders, Path(options.get("out", CoverageSettings.out))


def main(words: Sequence[str]) -> int:
    """Print the tables, write the numbers and a figure; return the exit status: 2 on an error."""
    if HELP & set(words):
        print_lines([*head(USAGE), *keys({}, CoverageSettings)])
        return 0
    try:
        folders, out = parse(words)
        counts, problems = read_counts(folders)
        summary = summarize(counts, bin_width(counts))
        figure = draw(summary, out / "coverage")
        summary.to_csv(out / "coverage.csv", index=False)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for title, table in tables_of(summary).items():
        print(f"{title}\n\n{table.to_string()}\n")
    for line in problems:
        print(f"! {line}")
    print(f"Written to {out}: {figure.name}, coverage.pdf, coverage.csv")
    return 0


if __name__ == "__main__":
    start("to count states:", sys.argv[1:])
    loaded()
    interruptible(main, sys.argv[1:])
