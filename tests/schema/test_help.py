"""Help: every key in a group, with its default, its sentence and what it may be."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from dreamer.schema import help as help_page
from dreamer.schema.types import Fraction, Node, PositiveCount, Section, doc


@dataclass
class Engine:
    power: Annotated[PositiveCount, doc("What it can do.", unit="watts", source="the manual")]
    fuel: Annotated[Literal["wind", "sun"] | None, doc("What drives it; null: nothing.")] = None


@dataclass
class Lights(Section):
    bright: Annotated[Fraction, doc("How bright they are.")]


@dataclass
class Ship(Section):
    name: Annotated[str, doc("What it is called.")]
    crew: Annotated[PositiveCount, doc("Who sails it.")]
    lit: Annotated[bool, doc("Whether it shines.")]
    lights: Annotated[Lights, doc("What shines.")]
    engine: Annotated[Node, doc("What moves it.")]


SHIP = {
    "crew": 3,
    "name": "???",
    "lit": False,
    "engine": {"_target_": f"{__name__}.Engine", "power": "${crew}"},
    "lights": {"bright": 0.5},
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")


def test_keys_stand_in_groups_in_the_order_of_their_declaration():
    lines = list(help_page.keys(SHIP, Ship, title="Hull:", headings={"crew": "People:"}))
    assert (
        "\n".join(lines)
        == """
Hull:
  name=...                          What it is called.

People:
  crew=3                            Who sails it. [whole number >= 1]
  lit=false                         Whether it shines.

lights: What shines.
  lights.bright=0.5                 How bright they are. [number in
                                    [0, 1]]

engine: What moves it.
  engine.power=${crew}              What it can do. [watts >= 1; the
                                    manual]"""
    )


def test_the_head_says_how_to_call_it():
    usage = help_page.Usage("Sails.", "sail [key=value ...]", [("sail crew=3", "Three sail it.")])
    assert list(help_page.head(usage)) == [
        *("Sails.", "", "Usage: sail [key=value ...]", "", "Examples:"),
        *("  sail crew=3", "      Three sail it."),
    ]


def test_a_reader_who_has_seen_enough_is_no_error(repository):
    code = (
        "from dreamer.schema.help import print_lines\nprint_lines(str(n) for n in range(100_000))\n"
    )
    done = subprocess.run(
        f"{sys.executable} -c '{code}' | head -n 1",
        shell=True,
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
