"""The report's page: read back with a parser, as a browser would."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.html import EMBEDDED_VIDEO_BYTES, write_page

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
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [], "tags that nobody closes"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
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
        elif self.open and self.open[-1] != "style":
            self.texts.append(data.strip())

    def attributes(self, tag: str, name: str) -> list[str | None]:
        return [attributes.get(name) for found, attributes in self.tags if found == tag]


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
        videos=[film],
    )
    sources = Reader(page).attributes("img", "src") + Reader(page).attributes("video", "src")
    assert [source.split(",")[0] for source in sources if source] == [
        "data:image/png;base64",
        "data:video/mp4;base64",
    ]
    assert "http" not in page.read_text(encoding="utf-8")


def test_large_videos_are_linked_from_where_the_page_is(tmp_path):
    film = tmp_path / "runs" / "seed 0" / "film#1.mp4"
    film.parent.mkdir(parents=True)
    film.write_bytes(bytes(EMBEDDED_VIDEO_BYTES + 1))
    page = write_page(tmp_path / "report" / "a.html", title="", tables={}, videos=[film])
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
        figures=[(png, evil)],
        notes=[evil],
        problems=[evil],
    )
    reader = Reader(page)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert reader.cells == [[(evil, None)], [(evil, None)]]
    # Title and heading, problem, note, contents, heading of the table, caption.
    assert sum(evil in text for text in reader.texts) == 7
    assert reader.attributes("img", "alt") == [evil]


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
