"""Writes a page from its template, with styles, script, figures and small videos inside."""

import os
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.page.cells import cells
from experiments.page.charts import ChartGroup

# All embedded videos together; the others are linked. Base64 adds a third.
EMBEDDED_VIDEO_BYTES = 2_000_000
HERE = Path(__file__).parent


class Video(NamedTuple):
    """An MP4 file, and what it shows."""

    path: Path
    caption: str


def write_page(
    out: Path,
    *,
    title: str,
    tables: Mapping[str, pd.DataFrame],
    charts: Sequence[ChartGroup] = (),
    figures: Sequence[tuple[Path, str]] = (),
    videos: Sequence[Video] = (),
    debug: Mapping[str, pd.DataFrame] | None = None,
    notes: Sequence[str] = (),
    problems: Sequence[str] = (),
    refresh_seconds: int | None = None,
) -> Path:
    """Write a report that a browser opens from disk, without a network.

    All texts are escaped. Figures are embedded, and so are the first videos, together up to
    EMBEDDED_VIDEO_BYTES; the others are linked, relative to the page.

    Args:
        out: the HTML file; its folder is created.
        title: heading of the page.
        tables: by heading. The index is shown unless it numbers the rows. Numbers are aligned to
            the right; missing ones are a dash.
        charts: drawn in the browser, with values under the pointer, a legend and a zoom.
        figures: PNG files with their captions.
        videos: with their captions.
        debug: tables of a separate section, last.
        notes: remarks on the data, one line each.
        problems: errors and missing data, shown first.
        refresh_seconds: a page from a server loads its newer version at this interval, and no
            video is embedded; None for a page on disk.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: A figure or a video is missing; nothing is written then.
    """
    _require_files([*(path for path, _ in figures), *(video.path for video in videos)])
    budget = 0 if refresh_seconds else EMBEDDED_VIDEO_BYTES
    text = _template().render(
        title=title,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        refresh=refresh_seconds,
        problems=problems,
        notes=notes,
        sections=[("Tables", tables), ("Debug runs", debug or {})],
        charts=charts,
        figures=[(_embedded(path, "image/png"), caption) for path, caption in figures],
        videos=_sources(videos, out.parent, budget),
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    # A server may read the page while it is written.
    unfinished = out.with_name(out.name + ".new")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(out)
    return out


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"anchor": _anchor, "cells": cells}
    return environment.get_template("report.html.jinja")


def _require_files(paths: Iterable[Path]) -> None:
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"Files for the page must exist, got missing: {', '.join(missing)}")


def _anchor(name: str) -> str:
    """Make an id for a heading that is safe in attributes and links."""
    return quote("-".join(name.lower().split()), safe="").replace("%", "_")


def _sources(videos: Iterable[Video], base: Path, budget: int) -> list[tuple[str, str]]:
    """Return sources, embedded while the budget of bytes lasts, with captions."""
    found = []
    for path, caption in videos:
        size = path.stat().st_size
        embeds = size <= budget
        budget -= size * embeds
        link = quote(Path(os.path.relpath(path, base)).as_posix())
        found.append((_embedded(path, "video/mp4") if embeds else link, caption))
    return found


def _embedded(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(path.read_bytes()).decode()}"
