"""The table of a sweep: what is urgent is seen, and the times add up."""

import io
import json
import re
from functools import partial

import pytest
from rich.console import Console

from experiments.sweep.grid import Job
from experiments.sweep.jobs import Planned
from experiments.sweep.state import State
from experiments.sweep.status import (
    StatusDisplay,
    duration,
    one_line,
    read_states,
    summary_line,
    table,
    with_summary,
)


def planned(tmp_path, task: str, seed: int, frames: int) -> Planned:
    job = Job("dummy", task, "dreamerv2", seed, ())
    return Planned(job, tmp_path / job.name, frames, 0)


def shown(renderable) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture
def plan(tmp_path):
    return [planned(tmp_path, "memory", seed, 1000) for seed in range(5)]


STATES = [
    State("finished", 1000, 2.0, 10.0),
    State("empty"),
    State("running", 250, -1.5, 5.0, "host 42"),
    State("failed", 500, None, None, "ValueError: no"),
    State("empty"),
]


def test_every_job_is_a_line_with_state_frames_return_and_time(plan):
    lines = shown(table(plan, STATES)).splitlines()
    assert len(lines) == 6
    finished, missing = lines[1].split(), lines[2].split()
    assert finished[1:] == ["dreamerv2", "0", "finished", "1k", "100%", "2.00", "10"]
    assert missing == ["dummy/memory", "dreamerv2", "1", "missing", "1k"]
    # 750 frames at 5 frames a second
    expected = "dummy/memory dreamerv2 2 running 1k 25% -1.50 5 2.5 min host 42"
    assert lines[3].split() == expected.split()
    assert "ValueError: no" in lines[4]


def test_where_there_is_no_room_the_urgent_ones_are_shown_in_their_order(plan):
    lines = shown(table(plan, STATES, rows=3)).splitlines()
    assert [re.search(r"v2 +(\d)", line)[1] for line in lines[1:4]] == ["1", "2", "3"]
    assert "and 2 more" in lines[4]


def test_what_is_left_is_told_by_the_pace_of_the_same_task(tmp_path):
    plan = [
        planned(tmp_path, "memory", 0, 1000),
        planned(tmp_path, "memory", 1, 1000),
        planned(tmp_path, "point", 0, 9000),
    ]
    states = [State("finished", 1000, 1.0, 10.0), State("empty"), State("running", 4500, 1.0, 90.0)]
    line = summary_line(plan, states)
    assert line.startswith("3 jobs: 1 finished, 1 running, 1 missing; 5,500 of 11,000 frames")
    assert "about 2.5 min left" in line  # 100 s of memory and 50 s of point, one at a time


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.6, "60 s"), (150, "2.5 min"), (9000, "2.5 h"), (216000, "2.5 d")]
)
def test_times_are_told_in_the_unit_that_fits(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("terminal", [True, False])
def test_the_board_shows_how_it_ends(plan, terminal):
    console = Console(width=120, height=40, force_terminal=terminal, file=io.StringIO())
    with StatusDisplay(partial(with_summary, plan), partial(one_line, plan), console):
        for one in plan:
            one.folder.mkdir(parents=True)
            (one.folder / "summary.json").write_text(json.dumps({"frames": 1000}))
    assert {state.phase for state in read_states(plan)} == {"finished"}
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "5 jobs: 5 finished; 5,000 of 5,000 frames" in text
    assert ("dreamerv2" in text) == terminal
