"""Scores of runs, or of the published agents, as tables: `python -m experiments.report runs`.

`source=published` in place of a folder takes the published data alone. `frames=` says where scores
are read, `compare=published` sets published scores beside those of the runs, `out=` says where the
files go.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments import layout, published, tables

TABLE_1_FRAMES = 199_000_000  # the bin of the curves that gives the paper's Table 1
OPTIONS = ("source", "compare", "frames", "out")


class Request(NamedTuple):
    """What was typed: a folder of runs, or None for the published data; frames may be left open."""

    folder: Path | None
    compare: bool
    frames: int | None
    out: Path


class Report(NamedTuple):
    """What there is to say, before it is printed and written.

    `tidy` is one table with a row for each number, `files` are further tables by file name, and
    `notes` what a reader must know about what the numbers rest on.
    """

    title: str
    tidy: pd.DataFrame
    files: dict[str, pd.DataFrame]
    notes: list[str]


def main(words: Sequence[str]) -> int:
    """Report, and return the exit status: 2 if there is nothing to report."""
    try:
        request = parse(words)
        if request.folder:
            raise ValueError("Folders of runs cannot be read yet; source=published can.")
        report = report_published(request)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(report)
    write(report, request.out)
    return 0


def parse(words: Sequence[str]) -> Request:
    """Understand the command line.

    Raises:
        ValueError: Naming the word that makes no sense, and what would.
    """
    folders = [word for word in words if "=" not in word]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    for key in options:
        if key not in OPTIONS:
            raise ValueError(published.unknown("option", key, OPTIONS))
    for key in ("source", "compare"):
        if key in options and options[key] != "published":
            raise ValueError(f"Expect `{key}` to be `published`, actually: {options[key]}")
    if len(folders) + ("source" in options) != 1:
        raise ValueError(
            "Expect one folder of runs, or source=published, actually: "
            f"{' '.join(words) or 'neither'}"
        )
    folder = Path(folders[0]) if folders else None
    default = folder / "report" if folder else Path("reports/published")
    return Request(
        folder,
        compare="compare" in options,
        frames=_frames(options["frames"]) if "frames" in options else None,
        out=Path(options.get("out", default)),
    )


def report_published(request: Request) -> Report:
    """The published agents on the paper's 55 games.

    Raises:
        ValueError: The curves begin later than the frames asked for.
    """
    frames, notes = request.frames or TABLE_1_FRAMES, []
    curves = published.curves("atari-dreamerv2")
    first, last = curves["frames"].min(), curves["frames"].max()
    if frames > last:
        notes.append(
            f"No published run reaches frames={frames:,}, the longest ends at {last:,}: "
            f"scores are those at {TABLE_1_FRAMES:,}."
        )
        frames = TABLE_1_FRAMES
    if frames < first:
        raise ValueError(f"Expect `frames` from {first:,}, the first point, actually: {frames:,}")
    runs = tables.published_runs(frames)
    tidy = tables.score_table(runs, frames, np.random.default_rng(0))
    notes += _about_published(runs)
    return Report(
        title=f"Published agents, {len(published.games())} Atari games, {frames:,} frames",
        tidy=tidy,
        files={"table_k1.csv": tables.table_k1(tidy)},
        notes=notes,
    )


def show(report: Report) -> None:
    """Print the tables that have anything in them, then the notes."""
    print(f"{report.title}\n")
    for title, table in sections(report).items():
        print(f"{title}\n\n{table.to_string()}\n")
    for note in report.notes:
        print(f"- {note}")


def sections(report: Report) -> dict[str, pd.DataFrame]:
    """The tables for people, by their titles."""
    found = {
        "Over all games: value [95 % interval]": layout.aggregates(report.tidy),
        "Probability that a run of the row beats one of the column": layout.improvement(
            report.tidy
        ),
        "Score per task: mean [95 % interval] (runs)": layout.per_task(report.tidy),
    }
    return {title: table for title, table in found.items() if len(table)}


def write(report: Report, out: Path) -> None:
    """Write every number: one tidy table as CSV and JSON, the aggregates, and the other files."""
    out.mkdir(parents=True, exist_ok=True)
    report.tidy.to_csv(out / "scores.csv", index=False)
    report.tidy.to_json(out / "scores.json", orient="records", indent=1)
    aggregates = tables.table_1(report.tidy)
    if aggregates:
        (out / "aggregates.json").write_text(json.dumps(aggregates, indent=2) + "\n")
    for name, table in report.files.items():
        table.to_csv(out / name)
    print(f"\nWritten to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _about_published(runs: pd.DataFrame) -> list[str]:
    """What the published numbers rest on."""
    notes = []
    for variant, part in runs[runs["seed"] != ""].groupby("variant", sort=False):
        notes.append(
            f"{variant}: {part['seed'].nunique()} seeds per game; {part['short'].sum()} of "
            f"{len(part)} runs end earlier and count with their last score, as in the paper."
        )
    notes.append(
        f"{', '.join(tables.MODEL_FREE)}: one number per game, at 200,000,000 frames; the same "
        "whatever the frames above."
    )
    return notes


def _frames(text: str) -> int:
    """A frame count as people write it: 199000000, 199_000_000 or 199e6."""
    try:
        frames = float(text)
    except ValueError:
        frames = float("nan")
    if not (frames >= 1 and frames.is_integer()):
        raise ValueError(f"Expect `frames` as a whole number, such as 199e6, actually: {text}")
    return int(frames)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
