"""Tables and figures of runs, or of the published data: `python -m experiments.report runs`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import pandas as pd

from dreamer.cli.command import interruptible, loaded, start
from dreamer.run.paths import expanded
from dreamer.schema.help import Usage, head, keys, print_lines
from dreamer.schema.types import PositiveCount, Section, doc
from dreamer.schema.validation import validate_words
from experiments import plots, tables, text_tables
from experiments.html import write_page
from experiments.results import Compare, Results, of_published, of_runs

USAGE = Usage(
    "Print tables of runs or of the published data, and write them with figures and a page.",
    "python -m experiments.report FOLDER [key=value ...], or source=published [key=value ...]",
    (
        ("python -m experiments.report runs", "Reports on all runs in a folder."),
        (
            "python -m experiments.report runs compare=published frames=1e6",
            "Reads scores at a million frames, beside the published ones.",
        ),
        ("python -m experiments.report source=published", "The paper's Tables 1 and K1."),
    ),
)


@dataclass
class ReportSettings(Section):
    """The arguments after the folder."""

    source: Annotated[
        Literal["published"] | None, doc("Report on the published data, without a folder.")
    ] = None
    compare: Annotated[
        Compare | None,
        doc(
            "Show published scores beside those of the runs: the authors', and with pydreamer "
            "PyDreamer's, too."
        ),
    ] = None
    frames: Annotated[
        PositiveCount | None,
        doc("Where scores are read; null: the most that all runs have reached.", unit="frames"),
    ] = None
    out: Annotated[str | None, doc("Output folder; null: FOLDER/report, or reports/published.")] = (
        None
    )


class Request(NamedTuple):
    """The parsed arguments; a `folder` of None is the published data."""

    folder: Path | None
    compare: Compare | None
    frames: int | None
    out: Path


def main(words: Sequence[str]) -> int:
    """Print and write the report, and return the exit status: 2 on an error."""
    if {"-h", "--help", "help"} & set(words):
        print_lines([*head(USAGE), *keys({}, ReportSettings)])
        return 0
    try:
        request = parse(words)
        if request.folder:
            results = of_runs(request.folder, request.frames, compare=request.compare)
        else:
            results = of_published(request.frames)
        show(results)
        write(results, request.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(words: Sequence[str]) -> Request:
    """Parse the command line.

    Raises:
        ValueError: An argument is not allowed; the message names it and the allowed ones.
    """
    folders = [word for word in words if "=" not in word]
    options = validate_words([word for word in words if "=" in word], ReportSettings)
    if len(folders) + ("source" in options) != 1:
        raise ValueError(
            "The input must be one folder of runs, or source=published, got "
            f"{' '.join(words) or 'neither'}"
        )
    if "source" in options and "compare" in options:
        raise ValueError("`compare` must come with a folder of runs, got source=published")
    folder = expanded(folders[0]) if folders else None
    default = folder / "report" if folder else Path("reports/published")
    return Request(
        folder,
        compare=options.get("compare"),
        frames=options.get("frames"),
        out=expanded(options.get("out", default)),
    )


def show(results: Results) -> None:
    """Print the tables, then the notes and problems."""
    print(f"{results.title}\n")
    for title, table in sections(results.tidy).items():
        print(f"{title}\n\n{table.to_string(index_names=False, na_rep='')}\n")
    for line in results.notes:
        print(f"- {line}")
    for line in results.problems:
        print(f"! {line}")


def sections(tidy: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Format the tables, by title; empty ones are left out."""
    found = {}
    for (env, frames), part in tidy.groupby(["env", "frames"], sort=False):
        where = f"{env} at {frames:,} frames: "
        found[where + "aggregates over games, value [95 % interval]"] = text_tables.aggregates(part)
        found[where + "probability that a run of the row beats one of the column"] = (
            text_tables.improvement(part)
        )
        found[where + "mean score [95 % interval] (runs)"] = text_tables.per_task(part)
    return {title: table for title, table in found.items() if len(table)}


def write(results: Results, out: Path) -> None:
    """Write all numbers as CSV and JSON, the figures as PNG and PDF, and a page with everything."""
    _check_no_links(out)
    out.mkdir(parents=True, exist_ok=True)
    results.tidy.to_csv(out / "scores.csv", index=False)
    results.tidy.to_json(out / "scores.json", orient="records", indent=1)
    aggregates = tables.table_1(results.tidy)
    (out / "aggregates.json").unlink(missing_ok=True)  # of an earlier report
    if aggregates:
        (out / "aggregates.json").write_text(json.dumps(aggregates, indent=2) + "\n")
    for name, table in results.extra.items():
        table.to_csv(out / name, index=False)
    # By env, so that figures and tables show the same scores.
    frames = dict(zip(results.tidy["env"], results.tidy["frames"].astype(int), strict=True))
    folder = out / "figures"
    if results.curves is None:
        figures = plots.published_figures(folder, frames=frames["atari"])
    else:
        figures = plots.figures(results.curves, results.published, folder, frames=frames)
    titles = {"probes.csv": "Probes, latest means over seeds", "runs.csv": "Runs"}
    shown = {title: results.extra[x] for x, title in titles.items() if x in results.extra}
    write_page(
        out / "report.html",
        title=results.title,
        tables=sections(results.tidy) | shown,
        figures=figures,
        videos=results.videos,
        notes=results.notes,
        problems=results.problems,
    )
    print(f"\nWritten to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _check_no_links(out: Path) -> None:
    """Check that nothing is written elsewhere: somebody else may have made the folder.

    Raises:
        ValueError: There is a link.
    """
    for path in (out, *(out.rglob("*") if out.is_dir() else ())):
        if path.is_symlink():
            raise ValueError(
                f"`out` must be a folder without links, got {path}, a link to {path.readlink()}. "
                "Delete it, or choose another out=."
            )


def run() -> None:
    """Run the command line of this process, and exit."""
    words = sys.argv[1:]
    start("a report:", words)
    loaded()
    interruptible(main, words)


if __name__ == "__main__":
    run()
