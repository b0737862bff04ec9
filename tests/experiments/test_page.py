"""The report's page: read back with a parser, as a browser would."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.page import Chart, ChartGroup, LegendEntry, Line, Video, write_page
from experiments.page.write import EMBEDDED_VIDEO_BYTES

# The smallest PNG and a file that only has the name of an MP4: the page does not look inside.
PNG = b"\x89PNG\r\n\x1a\n and so on"
MP4 = b"film"


class Reader(HTMLParser):
    """Collects what a reader sees: cells with their class, links, sources and texts."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[tuple[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.charts: list[dict] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [], "tags that nobody closes"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append(("", dict(attrs).get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            text, kind = self.cells[-1][-1]
            self.cells[-1][-1] = (text + data, kind)
        elif self.open and self.open[-1] == "script" and self.tags[-1][1].get("type"):
            self.charts.append(json.loads(data))
        elif self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data.strip())

    def attributes(self, tag: str, name: str) -> list[str | None]:
        return [attributes.get(name) for found, attributes in self.tags if found == tag]


def chart(**changes) -> Chart:
    line = {"name": "a", "label": "a", "color": "#0072B2", "dash": "", "x": [1, 2], "y": [3.0, 4.0]}
    return Chart("Return", "raw reward", [Line(**line | changes)])


@pytest.fixture
def png(tmp_path) -> Path:
    path = tmp_path / "a figure.png"
    path.write_bytes(PNG)
    return path


def test_page_needs_no_other_file_and_no_network(tmp_path, png):
    film = tmp_path / "film.mp4"
    film.write_bytes(MP4)
    page = write_page(
        tmp_path / "new" / "report.html",
        title="Report",
        tables={"Runs": pd.DataFrame({"task": ["pong"]})},
        figures=[(png, "A caption")],
        videos=[Video(film, "A film")],
    )
    sources = Reader(page).attributes("img", "src") + Reader(page).attributes("video", "src")
    assert [source.split(",")[0] for source in sources if source] == [
        "data:image/png;base64",
        "data:video/mp4;base64",
    ]
    addresses = set(re.findall(r"https?://[^\"\s]*", page.read_text(encoding="utf-8")))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name; nothing is loaded from there


def test_large_videos_are_linked_from_where_the_page_is(tmp_path):
    film = tmp_path / "runs" / "seed 0" / "film#1.mp4"
    film.parent.mkdir(parents=True)
    film.write_bytes(bytes(EMBEDDED_VIDEO_BYTES + 1))
    page = write_page(
        tmp_path / "report" / "a.html", title="", tables={}, videos=[Video(film, "A film")]
    )
    assert Reader(page).attributes("video", "src") == ["../runs/seed%200/film%231.mp4"]


def test_numbers_stand_right_and_texts_left(tmp_path):
    table = pd.DataFrame(
        {
            "task": ["pong", "alien"],
            "frames": [200_000_000, 1_000],
            "score": [20.25, np.nan],
            "interval": ["0.28 (0.27 to 0.29)", None],
            "finished": [True, False],
        }
    )
    page = write_page(tmp_path / "a.html", title="", tables={"Runs": table})
    number = "number"
    assert Reader(page).cells == [
        [("task", None), ("frames", number), ("score", number), ("interval", number)]
        + [("finished", None)],
        [("pong", None), ("200,000,000", number), ("20.25", number)]
        + [("0.28 (0.27 to 0.29)", number), ("True", None)],
        [("alien", None), ("1,000", number), ("–", number), ("–", number), ("False", None)],
    ]


def test_one_column_has_one_number_of_decimals(tmp_path):
    table = pd.DataFrame(
        {
            "small": [0.27959, 0.5, 1.0],
            "printed": [2.15, 0.5, 1.0],
            "large": [41820.5, 20.4, 1006430.0],
        }
    )
    page = write_page(tmp_path / "a.html", title="", tables={"Scores": table})
    columns = list(zip(*Reader(page).cells[1:], strict=True))
    assert [text for text, _ in columns[0]] == ["0.2796", "0.5000", "1.0000"]
    assert [text for text, _ in columns[1]] == ["2.15", "0.50", "1.00"]
    assert [text for text, _ in columns[2]] == ["41,820", "20", "1,006,430"]


def test_an_index_with_names_is_shown(tmp_path):
    table = pd.DataFrame({"score": [1, 2]}, pd.Index(["pong", "alien"], name="task"))
    page = write_page(tmp_path / "a.html", title="", tables={"Scores": table})
    assert [row[0][0] for row in Reader(page).cells] == ["task", "pong", "alien"]


def test_whatever_comes_in_is_text(tmp_path, png):
    evil = "<script>alert('&')</script>\"'"
    page = write_page(
        tmp_path / "a.html",
        title=evil,
        tables={evil: pd.DataFrame({evil: [evil]})},
        charts=[ChartGroup(evil, [chart(name=evil)], [LegendEntry(evil, evil, "red", "")])],
        figures=[(png, evil)],
        notes=[evil],
        problems=[evil],
    )
    reader = Reader(page)
    scripts = [dict(a).get("type") for tag, a in reader.tags if tag == "script"]
    assert scripts == ["application/json", None]  # the chart's numbers, and the page's own script
    assert reader.cells == [[(evil, None)], [(evil, None)]]
    # Title and heading, problem, note, contents, heading of the table, caption; of the charts:
    # contents, summary, entry of the legend.
    assert sum(evil in text for text in reader.texts) == 10
    assert reader.attributes("img", "alt") == [evil]
    assert reader.charts[0]["lines"][0]["name"] == evil


def test_contents_lead_to_every_section_and_table(tmp_path, png):
    tables = {"All runs": pd.DataFrame({"a": [1]}), "50 % better?": pd.DataFrame({"a": [1]})}
    page = write_page(tmp_path / "a.html", title="", tables=tables, figures=[(png, "")])
    reader = Reader(page)
    links = reader.attributes("a", "href")
    headings = reader.attributes("h2", "id") + reader.attributes("h3", "id")
    assert len(links) == 4
    assert sorted(links) == sorted(f"#{name}" for name in headings)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_F") for name in headings)


def test_problems_and_notes_stand_above_the_tables(tmp_path):
    tables = {"Runs": pd.DataFrame({"a": [1]})}
    page = write_page(
        tmp_path / "a.html", title="T", tables=tables, notes=["a note"], problems=["broken"]
    )
    texts = [text for text in Reader(page).texts if text]
    order = ["T", "Problems", "broken", "Notes", "a note", "Tables"]
    assert [text for text in texts if text in order][1:7] == order  # [0] is the window's title


def test_backticks_in_notes_mark_code(tmp_path):
    notes = ["scores `a=<b>` and `c`.", "an `odd note"]
    page = write_page(tmp_path / "a.html", title="T", tables={}, notes=notes)
    text = page.read_text()
    assert "scores <code>a=&lt;b&gt;</code> and <code>c</code>." in text
    assert "an `odd note" in text


def test_empty_tables_show_their_columns(tmp_path):
    table = pd.DataFrame({"task": [], "score": []})
    page = write_page(tmp_path / "a.html", title="", tables={"None yet": table})
    assert [[text for text, _ in row] for row in Reader(page).cells] == [["task", "score"]]


def test_a_missing_figure_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        write_page(
            tmp_path / "a.html", title="", tables={}, figures=[(tmp_path / "nowhere.png", "")]
        )
    assert not (tmp_path / "a.html").exists()


def test_charts_carry_their_numbers_and_missing_ones_are_null(tmp_path):
    line = chart(y=[1 / 3, np.nan], low=[0.0, 2.0], high=[1e9, 123456.7], stops=[2])
    group = ChartGroup("dummy: Memory", [line], [LegendEntry("a", "a, 2 seeds", "#0072B2", "5 4")])
    reader = Reader(write_page(tmp_path / "a.html", title="", tables={}, charts=[group]))
    (found,) = reader.charts
    (numbers,) = found["lines"]
    assert (found["title"], found["unit"]) == ("Return", "raw reward")
    assert (numbers["x"], numbers["y"]) == ([1, 2], [0.33333, None])
    assert (numbers["high"], numbers["stops"]) == ([1_000_000_000, 123460.0], [2])
    buttons = [a for tag, a in reader.tags if tag == "button" and "data-name" in a]
    assert [(a["data-name"], a["aria-pressed"]) for a in buttons] == [("a", "true")]
    assert reader.attributes("line", "stroke-dasharray") == ["5 4"]
    assert "a, 2 seeds" in reader.texts


def test_only_the_first_of_many_groups_are_open(tmp_path):
    groups = [ChartGroup(f"task {i}", [chart()]) for i in range(6)]
    reader = Reader(write_page(tmp_path / "a.html", title="", tables={}, charts=groups))
    assert ["open" in a for tag, a in reader.tags if tag == "details"] == [True] * 4 + [False] * 2


def test_videos_are_embedded_while_the_page_stays_small(tmp_path):
    sizes = (EMBEDDED_VIDEO_BYTES // 2, EMBEDDED_VIDEO_BYTES, EMBEDDED_VIDEO_BYTES // 2)
    films = [tmp_path / f"{i}.mp4" for i in range(3)]
    for film, size in zip(films, sizes, strict=True):
        film.write_bytes(bytes(size))
    videos = [Video(film, f"caption {film.stem}") for film in films]
    reader = Reader(write_page(tmp_path / "a.html", title="", tables={}, videos=videos))
    sources = reader.attributes("video", "src")
    assert [str(source)[:15] for source in sources] == [
        "data:video/mp4;",
        "1.mp4",
        "data:video/mp4;",
    ]
    assert {"caption 0", "caption 1", "caption 2"} <= set(reader.texts)


def test_a_page_of_a_server_embeds_no_video_and_says_how_often_it_updates(tmp_path):
    film = tmp_path / "film.mp4"
    film.write_bytes(MP4)
    page = write_page(
        tmp_path / "a.html", title="", tables={}, videos=[Video(film, "")], refresh_seconds=20
    )
    reader = Reader(page)
    assert reader.attributes("video", "src") == ["film.mp4"]
    assert reader.attributes("body", "data-refresh") == ["20"]
    assert [path.name for path in tmp_path.iterdir() if "a.html" in path.name] == ["a.html"]


def test_debug_runs_have_a_section_of_their_own_after_the_others(tmp_path):
    table = pd.DataFrame({"a": [1]})
    page = write_page(
        tmp_path / "a.html", title="", tables={"Runs": table}, debug={"Of debug=fast": table}
    )
    reader = Reader(page)
    assert reader.attributes("h2", "id") == ["tables", "debug-runs"]
    assert reader.attributes("h3", "id") == ["runs", "of-debug_3Dfast"]
