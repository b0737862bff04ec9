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
import time
from contextlib import contextmanager, redirect_stderr, suppress

import pytest

from dreamer.callbacks.metrics import Metrics
from dreamer.callbacks.progress import Progress

COUNT = re.compile(r"\rlearning .*?\| *([\d.]+k?)/")


def open_terminal(columns=120):
    """A pseudo-terminal: the descriptors of who looks at it and of who writes to it."""
    main, side = os.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    return main, side


class Run:
    """Moves a bar as a run does, by a clock of its own."""

    def __init__(self, replay, agent, trainer, monkeypatch, *, total_frames, every_seconds):
        self.now = 1e9
        monkeypatch.setattr("time.time", lambda: self.now)
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)
        metrics = Metrics(replay, every_frames=1)
        self.bar = Progress(metrics, total_frames=total_frames, every_seconds=every_seconds)
        self.agent, self.trainer = agent, trainer

    def prefill(self, *steps, seconds):
        self.bar.advance(0)
        for frames in steps:
            self.now += seconds
            self.agent.frames += frames
            self.bar.advance(self.agent.frames)

    def learn(self, updates, *, frames, seconds):
        self.now += seconds  # the first batch is fetched
        self.bar.on_train_start(self.trainer, self.agent)
        for batch in range(updates):
            self.now += seconds
            self.agent.frames += frames
            self.agent.updates += 1
            self.bar.advance(self.agent.frames)
            self.bar.on_train_batch_end(self.trainer, self.agent, {}, None, batch)


@pytest.fixture
def make_run(replay, agent, trainer, monkeypatch):
    return lambda **options: Run(
        replay, agent, trainer, monkeypatch, **{"total_frames": 2000, "every_seconds": 60} | options
    )


@contextmanager
def in_terminal():
    """Let stderr be a terminal; gives a function that reads what was written to it."""
    main, side = open_terminal()
    os.set_blocking(main, False)
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


def test_after_a_large_prefill_a_terminal_shows_two_frame_counts_a_second(make_run):
    with in_terminal() as terminal:
        run = make_run()
        run.prefill(1000, seconds=5)
        assert "prefill  50%" in terminal()
        run.learn(100, frames=4, seconds=0.1)
        assert 18 <= len(set(COUNT.findall(terminal()))) <= 21


def test_updates_without_new_frames_are_seen_in_a_terminal(make_run):
    with in_terminal() as terminal:
        run = make_run()
        run.prefill(1000, seconds=5)
        run.learn(40, frames=0, seconds=0.25)
        assert 9 <= terminal().count("\rlearning") <= 20


@pytest.mark.parametrize("updates", [0, 1, 30])
def test_the_bar_ends_with_its_line(make_run, updates):
    with in_terminal() as terminal:
        run = make_run()
        run.prefill(1000, seconds=5)
        run.learn(updates, frames=4, seconds=0.1)
        run.bar.close()
        run.bar.close()
        assert re.search(r"\] *\r\n$", terminal())
        last = terminal().split("\r")[-2]
        assert (
            last.startswith("learning") and f"{1000 + 4 * updates:,}"[:4].replace(",", ".") in last
        )


def test_the_bar_of_a_run_that_breaks_off_in_the_prefill_ends_with_its_line(make_run):
    with in_terminal() as terminal:
        run = make_run()
        run.prefill(1000, seconds=5)
        run.bar.close()
        assert re.search(r"\] *\r\n$", terminal())


def test_without_a_terminal_there_is_a_line_every_so_many_seconds_and_at_the_end(make_run, capsys):
    run = make_run(every_seconds=20)
    run.prefill(400, 400, 200, seconds=10)
    run.learn(100, frames=4, seconds=1)
    run.bar.close()
    text = capsys.readouterr().err
    assert "\r" not in text and text.endswith("]\n")
    lines = text.splitlines()
    assert [line.split()[0] for line in lines] == ["prefill"] + 6 * ["learning"]
    counts = [line.split("| ")[1].split("/")[0] for line in lines]
    assert counts == ["800", "1.08k", "1.16k", "1.24k", "1.32k", "1.40k", "1.40k"]


COMMAND = [
    "train.py",
    *("debug=fast", "env=dummy", "task=memory", "logger=jsonl"),
    *("callbacks.video=null", "callbacks.evaluate=null"),
]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["finished", "interrupted", "failed"])
def test_a_run_in_a_terminal_shows_how_it_goes_on_and_ends_the_line(repository, tmp_path, ending):
    main, side = open_terminal()
    more = ["model.world_model_optimizer.learning_rate=1e30"] if ending == "failed" else []
    process = subprocess.Popen(
        [sys.executable, *COMMAND, f"root={tmp_path}", *more],
        cwd=repository,
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    text, times = "", []
    while True:
        try:
            piece = os.read(main, 65536).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        text += piece
        if "learning" in piece:
            times.append(time.monotonic())
            if ending == "interrupted" and len(times) == 4:
                process.send_signal(signal.SIGINT)
    os.close(main)
    code = process.wait()
    expected, words = {
        "finished": (0, "Finished after"),
        "interrupted": (130, "\r\nStopped by SIGINT"),
        "failed": (2, "error: "),
    }[ending]
    assert code == expected, text
    end = text[text.rindex("\rlearning") :]
    assert re.match(rf"\r[^\n]*\r\n{words}", end), end
    if ending == "finished":
        assert len(set(COUNT.findall(text))) >= max(3, times[-1] - times[0])
