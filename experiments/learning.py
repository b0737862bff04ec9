"""Charts of what runs have logged: returns, losses, KL, entropies, value errors and speed.

Reports and comparisons use it. It knows tables of numbers, no files; `experiments/page/` draws.

A table of numbers has a row per point: env, task, variant, seed, frames, key, score (the value of
the key) and episodes (its weight).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from experiments.measures import MEASURES, RETURN, Measure
from experiments.page import Chart, ChartGroup, LegendEntry, Line
from experiments.plots import style
from experiments.plots.curves import (
    BINS,
    MAX_FRAME_RATIO,
    REFERENCE_STYLES,
    Band,
    band,
    bin_width,
    binned,
)
from experiments.plots.style import Style, plural, readable, short_number
from experiments.tables import RUN

POINTS = 60_000  # of all charts of a page; each takes about 25 bytes
FEWEST_BINS = 15
DASHES = {"-": "", "-.": "7 3 2 3", ":": "2 3"}  # of matplotlib, in pixels
SECOND, THIRD = "5 4", "2 3"  # dashes of further lines of a variant in one chart


def chart_groups(
    numbers: pd.DataFrame,
    published: Mapping[str, pd.DataFrame] | None = None,
    *,
    names_seeds: bool = True,
) -> list[ChartGroup]:
    """Make a group of charts per task: a line per variant, the mean over its seeds.

    Runs that collect nothing have a group of their own, over updates.

    Args:
        numbers: a table of numbers; may be empty.
        published: tables of published curves by the name of their line (`published` for the
            authors', `published_pydreamer`), for the charts of returns.
        names_seeds: whether legends have the number of seeds of each variant.

    Returns:
        Groups by env and task; charts without a number are left out.
    """
    numbers = numbers.dropna(subset=["score"])
    counters = numbers["counter"].fillna("frames") if "counter" in numbers else "frames"
    numbers = numbers.assign(counter=counters)  # only runs that collect have returns of episodes
    bins = _bins(numbers)
    groups = []
    for env, of_env in numbers.groupby("env"):
        looks = style.variant_styles(of_env["variant"])
        widths = {str(name): bin_width(x, bins) for name, x in of_env.groupby("counter")}
        for (task, counter), of_task in of_env.groupby(["task", "counter"]):
            references = _references(published or {}, str(env), str(task), of_task)
            title = f"{env}: {readable(str(task))}" + ", stored data" * (counter == "updates")
            group = _group(
                title, of_task, looks, references, widths[str(counter)], names_seeds=names_seeds
            )
            groups.append(replace(group, counter=str(counter)))
    return groups


def _bins(numbers: pd.DataFrame) -> int:
    """Choose how many points a line may have, so that the page stays small."""
    lines = len(numbers[["env", "task", "variant", "key"]].drop_duplicates())
    return int(np.clip(POINTS // max(1, 3 * lines), FEWEST_BINS, BINS))


def _group(
    title: str,
    of_task: pd.DataFrame,
    looks: Mapping[str, Style],
    references: Mapping[str, pd.DataFrame],
    width: int,
    *,
    names_seeds: bool,
) -> ChartGroup:
    known = set(of_task["key"])
    end = int(of_task["frames"].max())
    points = binned(of_task, width, by=[*RUN, "key"])
    bands = {
        (str(key), str(variant)): band(x)
        for (key, variant), x in points.groupby(["key", "variant"])
    }
    beside = {name: x for name, x in references.items() if _begins(x) <= MAX_FRAME_RATIO * end}
    charts = []
    for measure in MEASURES:
        if not known & {key for keys in measure.lines.values() for key in keys}:
            continue
        lines = list(_lines(measure, bands, looks))
        note = measure.note
        if RETURN in measure.lines.get("", ()):
            lines = [_published(name, x, end) for name, x in beside.items()] + lines
            note = " ".join([note, *_too_late(references, end)])
        if len(measure.lines) > 1:
            note = f"{_dashes(measure)} {note}".strip()
        charts.append(Chart(measure.title, measure.unit, lines, note))
    entries = [
        LegendEntry(name, _label(name, of_task, names_seeds), look.color, _dash(look))
        for name, look in looks.items()
        if name in set(of_task["variant"])
    ]
    entries += [
        LegendEntry(name, readable(name), look.color, _dash(look))
        for name, look in REFERENCE_STYLES.items()
        if name in beside
    ]
    return ChartGroup(title, charts, entries)


def _lines(
    measure: Measure, bands: Mapping[tuple[str, str], Band], looks: Mapping[str, Style]
) -> Iterator[Line]:
    """Make a line per variant and part of a measure."""
    for variant, look in looks.items():
        for part, dash in zip(measure.lines, (_dash(look), SECOND, THIRD), strict=False):
            found = [bands[key, variant] for key in measure.lines[part] if (key, variant) in bands]
            if found:
                yield _line(variant, f"{variant} {part}".strip(), look.color, dash, found[0])


def _line(name: str, label: str, color: str, dash: str, points: Band) -> Line:
    has_band = points.seeds > 1
    return Line(
        name,
        label,
        color,
        dash,
        points.frames.tolist(),
        points.mean.tolist(),
        points.low.tolist() if has_band else (),
        points.high.tolist() if has_band else (),
        points.stops,
    )


def _published(name: str, curves: pd.DataFrame, end: int) -> Line:
    """Make the line of a published agent, up to the last frame of the runs."""
    points = band(curves)
    count = max(1, int((points.frames <= end).sum()))
    look = REFERENCE_STYLES[name]
    shown = Band(*(x[:count] for x in points[:4]), seeds=points.seeds, stops=[])
    return _line(name, readable(name), look.color, _dash(look), shown)


def _references(
    published: Mapping[str, pd.DataFrame], env: str, task: str, of_task: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    found = {
        name: x[(x["env"] == env) & (x["task"] == task)]
        for name, x in published.items()
        if RETURN in set(of_task["key"])
    }
    return {name: x for name, x in found.items() if len(x)}


def _too_late(references: Mapping[str, pd.DataFrame], end: int) -> Iterator[str]:
    for name, curves in references.items():
        if _begins(curves) > MAX_FRAME_RATIO * end:
            first = band(curves)
            yield (
                f"{readable(name)} begins at {short_number(first.frames[0])} frames, with "
                f"{first.mean[0]:.4g}."
            )


def _begins(curves: pd.DataFrame) -> int:
    return int(curves["frames"].min())


def _dashes(measure: Measure) -> str:
    """Explain the lines of a chart with several per variant."""
    looks = ("Solid", "dashed", "dotted")
    parts = [f"{look}: {part}" for look, part in zip(looks, measure.lines, strict=False)]
    return ", ".join(parts) + "."


def _label(variant: str, of_task: pd.DataFrame, names_seeds: bool) -> str:
    seeds = of_task.loc[of_task["variant"] == variant, "seed"].nunique()
    return f"{variant}, {plural(seeds, 'seed')}" if names_seeds else variant


def _dash(look: Style) -> str:
    if isinstance(look.linestyle, str):
        return DASHES[look.linestyle]
    return " ".join(f"{1.8 * length:g}" for length in look.linestyle[1])
