"""The line that people see while a run goes on: in a terminal, and where there is none."""

import fcntl
import io
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from contextlib import contextmanager, redirect_stderr, suppress

import pyte
import pytest
from rich.console import Console

from dreamer.callbacks.frame import during
from dreamer.callbacks.metrics import Metrics
from dreamer.callbacks.progress import Progress, Rate
from dreamer.callbacks.progress_line import ProgressLine, Snapshot, as_text, duration

WIDTHS = (80, 120, 200)


# ------------------------------------------------------------------------------------- the line

LONG = Snapshot(
    "evaluating",
    84_400_000,
    200_000_000,
    elapsed=100_000,
    last_return=-12_345.6,
    best_return=-9_876.5,
    evaluation=-11_111.1,
    updates_per_second=1.234,
    frames_per_second=78.94,
    seconds_left=360_000.0,
)
NEW = Snapshot("learning", 1260, 3000, elapsed=40)


def drawn(now, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(ProgressLine(lambda: now))
    return console.file.getvalue()


def parts_of(line):
    return {part.strip() for part in re.split(r"  +", line) if "━" not in part} - {""}


def test_the_widest_terminal_shows_everything_in_the_order_of_reading():
    words = [
        *("evaluating", "return -12,346", "eval -11,111", "best -9,876", "━" * 5, "42%"),
        *("84.4M of 200M frames", "1.23 updates/s", "78.9 frames/s", "1d 3h elapsed"),
        "4d 4h left",
    ]
    assert re.search(".*  ".join(map(re.escape, words)), drawn(LONG, 200))


@pytest.mark.parametrize("now", [LONG, NEW], ids=["long", "new"])
@pytest.mark.parametrize("width", [*WIDTHS, *range(80, 200, 7)])
def test_a_narrower_terminal_leaves_out_whole_parts_and_cuts_none(now, width):
    line = drawn(now, width)
    assert line.count("\n") == 1 and len(line.rstrip("\n")) <= width
    assert parts_of(line) <= parts_of(drawn(now, 250))


def test_eighty_columns_have_returns_progress_speed_and_remaining_time():
    line = drawn(LONG._replace(last_return=-20.7, evaluation=-19.3, seconds_left=4567), 80)
    for word in ("return -20.7", "eval -19.3", "━", "42%", "1.23 updates/s", "1h 16m left"):
        assert word in line


def test_a_line_of_a_file_has_everything_that_is_known():
    assert as_text(LONG) == (
        "evaluating: return -12,346, eval -11,111, best -9,876, 42%, 84.4M of 200M frames, "
        "1.23 updates/s, 78.9 frames/s, 1d 3h elapsed, 4d 4h left"
    )
    assert as_text(NEW) == "learning: 42%, 1.26k of 3k frames, 0:40 elapsed"


def test_a_share_is_100_percent_at_the_end_only():
    frames = [0, 1, 25, 2999, 3000, 3004]
    shares = [re.search(r"\S+%", as_text(NEW._replace(count=n)))[0] for n in frames]
    assert shares == ["0%", "0%", "0.8%", "99%", "100%", "100%"]


def test_times_have_two_units():
    assert [duration(x) for x in (0, 67.9, 3599, 3600, 90_000)] == [
        *("0:00", "1:07", "59:59", "1h 00m", "1d 1h")
    ]


# ------------------------------------------------------------------------------------- the rates


def test_a_rate_follows_a_change_within_its_window():
    rate = Rate()
    for second in range(100):
        rate.add(float(second), 5 * second)
    assert rate.value == pytest.approx(5)
    for second in range(100, 200):
        rate.add(float(second), 500 + 20 * (second - 100))
    assert rate.value == pytest.approx(20)


def test_a_rate_is_not_told_in_its_first_seconds_or_while_nothing_is_counted():
    rate = Rate()
    assert rate.value is None
    for second, count in ((10, 700), (12, 701)):
        rate.add(second, count)
        assert rate.value is None
    rate.add(14, 702)
    assert rate.value == 0.5
    still = Rate()
    for second in range(10):
        still.add(second, 7)
    assert still.value is None


class Run:
    """Moves a line as a run does, by a clock of its own."""

    def __init__(self, replay, agent, trainer, monkeypatch, *, frames=0, **options):
        self.now = 1e9
        monkeypatch.setattr("dreamer.callbacks.progress.monotonic", lambda: self.now)
        self.metrics = Metrics(replay, every_frames=1)
        options = {"total": 2000, "every_seconds": 60, "prefill_frames": 1000} | options
        self.bar = Progress(self.metrics, **options)
        self.agent, self.trainer = agent, trainer
        agent.frames = frames
        trainer.callbacks = [self.bar]
        self.bar.advance(frames)

    def prefill(self, *steps, seconds):
        for frames in steps:
            self.now += seconds
            self.agent.frames += frames
            self.bar.advance(self.agent.frames)

    def start(self):
        self.bar.on_train_start(self.trainer, self.agent)

    def learn(self, updates, *, frames, seconds):
        for batch in range(updates):
            self.now += seconds
            self.agent.frames += frames
            self.agent.updates += 1
            self.bar.advance(self.agent.frames)
            self.bar.on_train_batch_end(self.trainer, self.agent, {}, None, batch)

    def pause(self, phase, seconds, score=None):
        """Evaluate or save, and return the line that is shown meanwhile."""
        shown = []

        @during(phase)
        def act(callback, trainer):
            self.now += seconds
            shown.append(self.bar.read())

        act(self.bar, self.trainer)
        if score is not None:
            self.metrics.latest["eval/return_mean"] = score
        return shown[0]


@pytest.fixture
def make_run(replay, agent, trainer, monkeypatch):
    made = []

    def make(**options):
        made.append(Run(replay, agent, trainer, monkeypatch, **options))
        return made[-1]

    yield make
    for run in made:
        run.bar.close()


def test_the_prefill_is_shown_by_its_own_length_and_speed(make_run):
    run = make_run()
    run.prefill(100, 100, seconds=2)
    now = run.bar.read()
    assert (now.phase, now.count, now.total) == ("prefill", 200, 1000)
    assert now.frames_per_second == pytest.approx(50)
    assert now.seconds_left is None and now.updates_per_second is None


def test_neither_the_prefill_nor_the_first_update_counts_for_the_rates_of_learning(make_run):
    run = make_run()
    run.prefill(1000, seconds=5)
    run.start()
    run.learn(1, frames=4, seconds=30)  # compiles, allocates
    for _ in range(5):
        run.learn(1, frames=4, seconds=0.5)
        assert run.bar.read().updates_per_second is None
        assert run.bar.read().seconds_left is None
    run.learn(4, frames=4, seconds=0.5)
    now = run.bar.read()
    assert (now.phase, now.count, now.total) == ("learning", 1040, 2000)
    assert now.updates_per_second == pytest.approx(2)
    assert now.frames_per_second == pytest.approx(8)
    assert now.seconds_left == pytest.approx(960 / 8)
    assert now.elapsed == pytest.approx(5 + 30 + 9 * 0.5)


def test_updates_before_the_first_collection_tell_no_remaining_time(make_run):
    run = make_run()
    run.start()
    run.learn(50, frames=0, seconds=1)
    now = run.bar.read()
    assert now.updates_per_second == pytest.approx(1)
    assert now.frames_per_second is None and now.seconds_left is None
    run.learn(5, frames=10, seconds=2)
    assert run.bar.read().frames_per_second == pytest.approx(5)


def test_a_resumed_run_counts_what_this_process_does(make_run):
    run = make_run(frames=1500)
    run.agent.updates = 777
    assert run.bar.read().phase == "learning"
    run.start()
    assert run.bar.read().seconds_left is None
    run.learn(11, frames=4, seconds=0.5)
    now = run.bar.read()
    assert now.updates_per_second == pytest.approx(2)
    assert now.frames_per_second == pytest.approx(8)
    assert now.seconds_left == pytest.approx((2000 - 1544) / 8)


def test_phases_have_names_and_do_not_change_the_rates_of_learning(make_run):
    run = make_run()
    run.prefill(1000, seconds=5)
    assert run.pause("saving", seconds=9).phase == "saving"
    run.start()
    run.learn(11, frames=4, seconds=0.5)
    before = run.bar.read()
    assert run.pause("evaluating", seconds=1000, score=3.5).phase == "evaluating"
    run.learn(10, frames=4, seconds=0.5)
    now = run.bar.read()
    assert (before.phase, now.phase, now.evaluation) == ("learning", "learning", 3.5)
    assert now.updates_per_second == pytest.approx(before.updates_per_second) == pytest.approx(2)
    assert now.seconds_left == pytest.approx(before.seconds_left - 10 * 0.5)
    assert now.elapsed == pytest.approx(5 + 9 + 21 * 0.5 + 1000)


def test_a_phase_that_fails_is_over(make_run):
    run = make_run()
    run.start()

    @during("evaluating")
    def fail(callback, trainer):
        raise OSError

    with suppress(OSError):
        fail(run.bar, run.trainer)
    assert run.bar.read().phase == "learning"


# ------------------------------------------------------------------------------------- a file


def test_without_a_terminal_there_is_a_line_every_so_many_seconds_and_at_the_end(make_run, capsys):
    run = make_run(every_seconds=20)
    run.prefill(400, 400, 200, seconds=10)
    run.start()
    run.learn(100, frames=4, seconds=1)
    run.metrics.latest["collect/return"] = 1.5
    run.bar.close()
    text = capsys.readouterr().err
    assert "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert [line.split(":")[0] for line in lines] == ["prefill"] + 6 * ["learning"]
    counts = [re.search(r"(\S+) of", line)[1] for line in lines]
    assert counts == ["800", "1.04k", "1.12k", "1.2k", "1.28k", "1.36k", "1.4k"]
    assert lines[2].endswith("1.00 updates/s, 4.00 frames/s, 1:00 elapsed, 3:40 left")
    assert lines[-1].startswith("learning: return 1.50, 70%, 1.4k of 2k frames, 1.00 updates/s")


def test_long_phases_without_updates_are_printed_too(make_run, capsys):
    run = make_run(every_seconds=0.05)
    run.start()
    run.bar._display._done.wait(0.3)
    assert capsys.readouterr().err == "", "the clock of the run stands still"
    run.now += 1
    run.bar._display._done.wait(0.3)
    assert capsys.readouterr().err.startswith("learning: ")


# ------------------------------------------------------------------------------------- a terminal


def open_terminal(columns=120):
    """A pseudo-terminal: the descriptors of who looks at it and of who writes to it."""
    main, side = os.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    return main, side


def screen_of(text, columns):
    screen = pyte.Screen(columns, 40)
    pyte.Stream(screen).feed(text)
    return screen


def lines_of(screen):
    return [line.rstrip() for line in screen.display if line.strip()]


@contextmanager
def in_terminal(columns, monkeypatch):
    """Let stderr be a terminal; gives a function that reads what was written to it."""
    main, side = open_terminal(columns)
    os.set_blocking(main, False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    written = []

    def read():
        with suppress(BlockingIOError):
            while True:
                written.append(os.read(main, 4096))
        return b"".join(written).decode()

    class Terminal(io.TextIOWrapper):
        def write(self, text):
            super().write(text)
            self.flush()
            read()  # a terminal that nobody reads takes no more than a few lines

    with Terminal(open(side, "wb")) as stderr, redirect_stderr(stderr):
        yield read
    os.close(main)


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_line_stays_one_line_in_a_terminal_and_warnings_stand_above_it(
    make_run, monkeypatch, columns
):
    with in_terminal(columns, monkeypatch) as terminal:
        run = make_run()
        run.prefill(1000, seconds=5)
        run.start()
        run.metrics.latest |= {"collect/return": 3.25, "collect/best_return": 4}
        for _ in range(3):
            run.learn(20, frames=4, seconds=0.25)
            run.bar._display._live.refresh()
        assert screen_of(terminal(), columns).cursor.hidden
        print("UserWarning: something odd", file=sys.stderr)  # as Python writes a warning
        run.metrics.latest["eval/return_mean"] = 3.5
        run.bar.close()
        run.bar.close()
        screen = screen_of(terminal(), columns)
    *above, last = lines_of(screen)
    assert "UserWarning: something odd" in above[0]
    assert not any("return" in line for line in above)
    assert last.startswith("learning    return 3.25   eval 3.50   ") and len(last) <= columns
    for word in ("━", "62%", "4.00 updates/s", "0:47 left"):
        assert word in last
    assert ("1.24k of 2k frames" in last) == (columns > 80)
    assert ("16.0 frames/s" in last) == (columns > 120)
    assert not screen.cursor.hidden
    assert (screen.cursor.x, screen.display[screen.cursor.y].strip()) == (0, "")


def test_a_terminal_that_cannot_be_drawn_in_gets_lines(make_run, monkeypatch):
    with in_terminal(80, monkeypatch) as terminal:
        monkeypatch.setenv("TERM", "dumb")
        run = make_run()
        run.prefill(500, seconds=5)
        run.bar.close()
        assert "\x1b" not in terminal() and terminal().startswith("prefill: 50%")


COMMAND = [
    "train.py",
    *("debug=fast", "env=dummy", "task=memory", "logger=jsonl"),
    *("callbacks.video=null", "callbacks.evaluate.video_policy_steps=0"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "columns"), [("finished", 80), ("interrupted", 120), ("failed", 200)]
)
def test_a_run_in_a_terminal_shows_how_it_goes_on_and_leaves_it_clean(
    repository, tmp_path, ending, columns
):
    main, side = open_terminal(columns)
    more = ["model.world_model_optimizer.learning_rate=1e30"] if ending == "failed" else []
    process = subprocess.Popen(
        [sys.executable, *COMMAND, f"root={tmp_path}", *more],
        cwd=repository,
        env=os.environ | {"TERM": "xterm"},
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    text, seen, stopped = "", set(), False
    while True:
        try:
            text += os.read(main, 65536).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        seen |= set(re.findall(r"(prefill|learning|evaluating|saving)  ", text[-5000:]))
        if ending == "interrupted" and "updates/s" in text and not stopped:
            process.send_signal(signal.SIGINT)
            stopped = True
    os.close(main)
    code = process.wait()
    expected, words = {
        "finished": (0, "Finished after"),
        "interrupted": (130, "Stopped by SIGINT"),
        "failed": (2, "error: "),
    }[ending]
    assert code == expected, text
    screen = screen_of(text, columns)
    lines = lines_of(screen)
    drawn = [n for n, line in enumerate(lines) if re.match("prefill|learning|saving", line)]
    end = next(n for n, line in enumerate(lines) if line.startswith(words))
    assert drawn == [end - 1], lines
    assert len(lines[end - 1]) <= columns
    assert not screen.cursor.hidden and screen.cursor.x == 0
    if ending == "finished":
        assert {"prefill", "learning"} <= seen
        assert re.match(r"\w+ +return \d.* eval \d.* 100%", lines[end - 1]), lines
