"""Tables, charts and figures of runs, or of the published data.

`python -m experiments.report runs` reports on a folder, `python -m experiments.report RUN RUN`
compares runs. The live page writes the same report.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import pandas as pd

from dreamer.cli.command import interruptible, loaded, start
from dreamer.run.paths import PRETRAINED, expanded, pretrained_names
from dreamer.schema.help import Usage, head, keys, print_lines
from dreamer.schema.types import PositiveCount, Section, doc
from dreamer.schema.validation import validate_words
from experiments import plots, tables, text_tables
from experiments.comparison import of_pair
from experiments.page import write_page
from experiments.results import Compare, Results, of_published, of_runs
from experiments.search.report import is_search, of_search

PAGE = "report.html"
DEBUG = "Runs of debug=fast, in no other table"
USAGE = Usage(
    "Print tables of runs or of the published data, and write them with figures and a page.",
    "python -m experiments.report FOLDER [key=value ...], RUN RUN [...], source=published [...], "
    "or pretrained=NAME [...]",
    (
        ("python -m experiments.report runs", "Reports on all runs in a folder."),
        (
            "python -m experiments.report runs compare=published frames=1e6",
            "Reads scores at a million frames, beside the published ones.",
        ),
        (
            "python -m experiments.report runs/dummy/memory/a/seed0 runs/dummy/memory/b/seed0",
            "Compares two runs: their curves, and the keys in which they differ.",
        ),
        (
            "python -m experiments.report searches/cartpole",
            "Reports on a search: its best trial, and which keys matter.",
        ),
        ("python -m experiments.report source=published", "The paper's Tables 1 and K1."),
        (
            "python -m experiments.report pretrained=memory",
            "The scores of a trained agent, and how it learned.",
        ),
    ),
)


@dataclass
class ReportSettings(Section):
    """The arguments after the folder."""

    source: Annotated[
        Literal["published"] | None, doc("Report on the published data, without a folder.")
    ] = None
    pretrained: Annotated[
        str | None, doc("Report on a trained agent of this package, by its name.")
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
    out: Annotated[
        str | None,
        doc("Output folder; null: FOLDER/report, or one of the same meaning in `reports`."),
    ] = None


class Request(NamedTuple):
    """The parsed arguments; no folder: the published data; several: runs to compare."""

    folders: list[Path]
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
        results = results_of(request)
        show(results)
        write(results, request.out)
        _upload(request)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(words: Sequence[str]) -> Request:
    """Parse the command line.

    Raises:
        ValueError: An argument is not allowed; the message names it and the allowed ones.
    """
    folders = [expanded(word) for word in words if not is_option(word)]
    options = validate_words([word for word in words if is_option(word)], ReportSettings)
    if [bool(folders), "source" in options, "pretrained" in options].count(True) != 1:
        raise ValueError(
            "The input must be a folder of runs, two runs, source=published, or pretrained=NAME, "
            f"got {' '.join(words) or 'none of them'}"
        )
    default = Path("reports/comparison" if folders else "reports/published")
    if len(folders) == 1:
        default = folders[0] / "report"
    if "pretrained" in options:
        folders = [_trained_agent(options["pretrained"])]
        default = Path("reports/pretrained", folders[0].name)
    _check_options(folders, options)
    return Request(
        folders,
        compare=options.get("compare"),
        frames=options.get("frames"),
        out=expanded(options.get("out", default)),
    )


def _trained_agent(name: str) -> Path:
    """Return the folder of a trained agent of this package.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in pretrained_names():
        known = ", ".join(pretrained_names())
        raise ValueError(f"`pretrained` must be a trained agent ({known}), got {name}")
    return PRETRAINED / name


def is_option(word: str) -> bool:
    """Return whether a word is `key=value`; a folder's name may have an equals sign, too."""
    return "=" in word and not expanded(word).exists()


def _check_options(folders: Sequence[Path], options: Mapping[str, object]) -> None:
    for key in ("compare", "frames"):
        if key in options and (len(folders) > 1 or (key == "compare" and not folders)):
            given = "several runs" if folders else "source=published"
            raise ValueError(f"`{key}` must come with a folder of runs, got {given}")


def results_of(request: Request) -> Results:
    """Compute what a request asks for.

    Raises:
        ValueError: There is no run, or one of those to compare cannot be read.
        FileNotFoundError: There is no such folder.
    """
    if not request.folders:
        return of_published(request.frames)
    if len(request.folders) > 1:
        return of_pair(request.folders)
    if is_search(request.folders[0]):
        return of_search(request.folders[0])
    return of_runs(request.folders[0], request.frames, compare=request.compare)


def show(results: Results) -> None:
    """Print the tables, then the notes and problems."""
    print(f"{results.title}\n")
    debug = {} if results.debug is None else {DEBUG: results.debug}
    for title, table in (_tables(results) | debug).items():
        numbered = isinstance(table.index, pd.RangeIndex)
        counts = [name for name, kind in table.dtypes.items() if kind == "Int64"]
        table = table.astype(dict.fromkeys(counts, object)).fillna(dict.fromkeys(counts, ""))
        text = table.to_string(index_names=False, na_rep="", index=not numbered)
        print(f"{title}\n\n{text}\n")
    for line in results.notes:
        print(f"- {line}")
    for line in results.problems:
        print(f"! {line}")


def sections(tidy: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Format the tables, by title; empty ones are left out."""
    found = {}
    for (env, count, counter), part in tidy.groupby(["env", "frames", "counter"], sort=False):
        data = ", stored data," * (counter == "updates")
        where = f"{env}{data} at {count:,} {counter}: "
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
    write_tables(results, out)
    write_report_page(results, out / PAGE, figures=draw(results, out / "figures"))
    print(f"\nWritten to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def write_tables(results: Results, out: Path) -> None:
    """Write all numbers as CSV and JSON."""
    results.tidy.to_csv(out / "scores.csv", index=False)
    results.tidy.to_json(out / "scores.json", orient="records", indent=1)
    aggregates = tables.table_1(results.tidy)
    (out / "aggregates.json").unlink(missing_ok=True)  # of an earlier report
    if aggregates:
        (out / "aggregates.json").write_text(json.dumps(aggregates, indent=2) + "\n")
    for name, table in results.extra.items():
        table.to_csv(out / name, index=False)


def draw(results: Results, folder: Path) -> list[plots.Captioned]:
    """Draw the figures as PNG and PDF files."""
    if results.search is not None:
        return plots.search_figures(results.search, folder)
    # By env, so that figures and tables show the same scores.
    played = results.tidy[results.tidy["counter"] == "frames"]
    frames = dict(zip(played["env"], played["frames"].astype(int), strict=True))
    if results.curves is None:
        return plots.published_figures(folder, frames=frames["atari"])
    return plots.figures(results.curves, results.published, folder, frames=frames)


def write_report_page(
    results: Results,
    path: Path,
    *,
    figures: Sequence[plots.Captioned],
    refresh_seconds: int | None = None,
) -> None:
    """Write the page; learning curves are charts there, and no figures."""
    debug = {} if results.debug is None else {DEBUG: results.debug}
    write_page(
        path,
        title=results.title,
        tables=_tables(results),
        charts=results.charts,
        figures=[x for x in figures if not (results.charts and plots.shows_curves(x[0]))],
        videos=results.videos,
        debug=debug,
        notes=results.notes,
        problems=results.problems,
        refresh_seconds=refresh_seconds,
    )


def _tables(results: Results) -> dict[str, pd.DataFrame]:
    return sections(results.tidy) | results.shown


def _upload(request: Request) -> None:
    """Upload the report to MLflow, if the folder has sweeps that are logged there."""
    for folder in request.folders:
        if (folder / "mlflow_sweeps.json").exists():
            from dreamer.loggers.mlflow import log_report  # slow

            try:
                log_report(folder, request.out)
            except Exception as error:  # the report itself is written
                print(f"MLflow does not take the report: {error}", file=sys.stderr)


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
