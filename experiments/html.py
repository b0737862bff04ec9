"""One static page for a report: notes, tables, figures and videos in a single HTML file.

`experiments/report.py` fills it. It knows neither runs nor scores: it lays out what it is given.
The page loads nothing from the network, so that it still opens from a disk in ten years.
"""

import os
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

# Up to this size a video travels inside the page, a larger one stays beside it. Base64 makes a
# third more of it, and browsers become slow at some hundred megabytes.
EMBEDDED_VIDEO_BYTES = 2_000_000

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 4rem;
  background: #fff; color: #1c1c1c;
  font: 16px/1.5 system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .8rem; padding-top: .6rem; border-top: 1px solid #ddd; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
a { color: #005a94; }
.written { color: #595959; margin: 0 0 1.5rem; }
nav { margin: 1.5rem 0; } nav ul { margin: .2rem 0; padding-left: 1.2rem; }
.problems { border-left: 4px solid #d55e00; background: #fdf3ec; padding: .6rem 1rem; }
.notes { border-left: 4px solid #0072b2; background: #eff6fb; padding: .6rem 1rem; }
.problems + .notes { margin-top: 1rem; }
.problems ul, .notes ul { margin: .2rem 0; padding-left: 1.2rem; }
.problems li, .notes li { overflow-wrap: anywhere; white-space: pre-wrap; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .6rem; text-align: left; white-space: nowrap;
  border-bottom: 1px solid #e6e6e6; }
thead th { border-bottom: 2px solid #888; }
tbody tr:hover { background: #f5f5f5; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0 2.2rem; }
figure img { max-width: 100%; height: auto; }
figcaption { color: #444; font-size: .92rem; max-width: 52rem; }
.videos { display: flex; flex-wrap: wrap; gap: 1.5rem; }
.videos figure { margin: 0; width: 20rem; max-width: 100%; } .videos video { width: 100%; }
.videos figcaption { overflow-wrap: anywhere; }
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
"""


def write_page(
    out: Path,
    *,
    title: str,
    tables: Mapping[str, pd.DataFrame],
    figures: Sequence[tuple[Path, str]] = (),
    videos: Sequence[Path] = (),
    notes: Sequence[str] = (),
    problems: Sequence[str] = (),
) -> Path:
    """Write a report that a browser opens from disk, without any other file and any network.

    Whatever comes in is shown as text, not as HTML. Figures travel inside the page, and so do
    videos up to EMBEDDED_VIDEO_BYTES; larger ones are linked, relative to the page.

    Args:
        out: the HTML file; its folder is made.
        title: heading of the page.
        tables: by heading. The index is shown unless it is a plain count of rows; numbers are
            aligned to the right, missing ones are a dash.
        figures: PNG files with their captions.
        videos: MP4 files; each is named by its path, seen from the page.
        notes: what to know before reading on, one line each.
        problems: what went wrong or is missing, shown first.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: if a figure or a video is not there; nothing is written then.
    """
    _expect_files([*(path for path, _ in figures), *videos])
    sections = [("Tables", _tables(tables), list(tables))] if tables else []
    if figures:
        sections.append(("Figures", "\n".join(_figure(*x) for x in figures), []))
    if videos:
        shown = "\n".join(_video(path, out.parent) for path in videos)
        sections.append(("Videos", f'<div class="videos">{shown}</div>', []))
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    body = [
        f'<h1>{escape(title)}</h1>\n<p class="written">Written {written}.</p>',
        _list("Problems", problems) + _list("Notes", notes),
        _contents([(heading, below) for heading, _, below in sections]),
        *(f'<h2 id="{_anchor(name)}">{name}</h2>\n{content}' for name, content, _ in sections),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(_document(title, "\n".join(body)), encoding="utf-8")
    return out


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _expect_files(paths: Iterable[Path]) -> None:
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"Expect files for the page, not found: {', '.join(missing)}")


def _list(heading: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    kind = heading.lower()
    return f'<div class="{kind}"><strong>{heading}</strong>\n<ul>\n{items}\n</ul></div>'


def _contents(sections: Sequence[tuple[str, Sequence[str]]]) -> str:
    def entry(name: str, below: Sequence[str]) -> str:
        inner = "".join(entry(x, ()) for x in below)
        return f'<li><a href="#{_anchor(name)}">{escape(name)}</a>' + (
            f"<ul>{inner}</ul></li>" if inner else "</li>"
        )

    return f"<nav><ul>{''.join(entry(*section) for section in sections)}</ul></nav>"


def _anchor(name: str) -> str:
    """An id for a heading: any text, made safe for an attribute and for a link."""
    return quote("-".join(name.lower().split()), safe="").replace("%", "_")


def _tables(tables: Mapping[str, pd.DataFrame]) -> str:
    return "\n".join(
        f'<h3 id="{_anchor(name)}">{escape(name)}</h3>\n<div class="table">{_table(x)}</div>'
        for name, x in tables.items()
    )


def _table(table: pd.DataFrame) -> str:
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()
    heads, cells = [], []
    for name, column in table.items():
        mark = ' class="number"' if _reads_as_numbers(column) else ""
        heads.append(f'<th scope="col"{mark}>{escape(str(name))}</th>')
        cells.append([f"<td{mark}>{escape(text)}</td>" for text in _spell(column)])
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
    return f"<table>\n<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _reads_as_numbers(column: pd.Series) -> bool:
    """Whether it holds numbers, or texts that begin with one, such as `0.28 (0.27 to 0.29)`."""
    if pd.api.types.is_bool_dtype(column):
        return False
    texts = column.dropna().astype(str)
    return len(texts) > 0 and bool(texts.str.match(r"[-−+]?[0-9.]+(\s|$|[(,%±])").all())


def _spell(column: pd.Series) -> list[str]:
    """Texts of a column: counts as 1,234,567, measures with decimals for four digits, – if none."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return ["–" if x else str(value) for value, x in zip(column, column.isna(), strict=True)]
    sizes = column.abs().replace([0, np.inf], np.nan).dropna()
    decimals = 0
    if (sizes % 1 != 0).any():
        most = int(np.clip(4 - np.ceil(np.log10(sizes.median())), 0, 4))
        decimals = next(
            d for d in range(most + 1) if np.allclose(sizes.round(d), sizes.round(most))
        )
    return ["–" if pd.isna(value) else f"{value:,.{decimals}f}" for value in column]


def _figure(path: Path, caption: str) -> str:
    source = f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}"
    text = escape(caption, quote=True)
    return f'<figure><img src="{source}" alt="{text}">\n<figcaption>{text}</figcaption></figure>'


def _video(path: Path, base: Path) -> str:
    relative = Path(os.path.relpath(path, base)).as_posix()
    source = quote(relative)
    if path.stat().st_size <= EMBEDDED_VIDEO_BYTES:
        source = f"data:video/mp4;base64,{b64encode(path.read_bytes()).decode()}"
    return (
        f'<figure><video src="{source}" controls loop muted preload="metadata"></video>\n'
        f"<figcaption>{escape(relative)}</figcaption></figure>"
    )
