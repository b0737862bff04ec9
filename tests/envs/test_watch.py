"""The time limit of calls in this process: what it interrupts, and what it leaves alone."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from dreamer.envs.faults import EnvironmentFault
from dreamer.envs.watch import Watchdog


@pytest.fixture
def watchdog():
    watchdog = Watchdog(0.2, "Toy-v0")
    yield watchdog
    watchdog.close()


def sleep():
    time.sleep(30)


def spin():
    while True:
        pass


def wait():
    threading.Event().wait(30)


def defy():
    for _ in range(3):
        try:
            time.sleep(30)
        except Exception:
            continue


@pytest.mark.parametrize("hang", [sleep, spin, wait, defy])
def test_a_call_that_hangs_is_interrupted(watchdog, hang):
    begin = time.monotonic()
    with pytest.raises(
        EnvironmentFault,
        match=rf"within `hang_seconds` 0\.2 \(.*test_watch\.py:\d+ in {hang.__name__}",
    ):
        watchdog.run(hang)
    assert time.monotonic() - begin < 5
    assert watchdog.run(lambda: 3) == 3


def test_a_call_in_another_thread_is_interrupted(watchdog):
    caught = []

    def call():
        with pytest.raises(EnvironmentFault, match="in spin") as fault:
            watchdog.run(spin)
        caught.append(fault)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    assert caught


def test_calls_in_time_are_left_alone(watchdog):
    assert [watchdog.run(lambda: time.sleep(0.1) or 5) for _ in range(4)] == [5] * 4
    time.sleep(0.3)  # between two calls, nobody waits


def test_exceptions_pass(watchdog):
    with pytest.raises(KeyError, match="mine"):
        watchdog.run(lambda: {}["mine"])


def test_alarms_of_others_reach_their_handler_which_is_restored():
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    handler = signal.getsignal(signal.SIGALRM)
    try:
        first, second = Watchdog(9, "a"), Watchdog(9, "b")
        first.run(lambda: None)
        second.run(lambda: signal.raise_signal(signal.SIGALRM))
        assert heard == [1]
        first.close()
        second.run(lambda: signal.raise_signal(signal.SIGALRM))
        second.close()
        assert heard == [1, 1]
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.signal(signal.SIGALRM, before)


SCRIPT = """
import sys, threading, time
from dreamer.envs import watch
watch.GRACE_SECONDS = 0.2
thread = threading.Thread(target=lambda: watch.Watchdog(0.2, "Toy-v0").run(lambda: time.sleep(60)))
thread.start()
thread.join()
"""


@pytest.mark.slow
def test_a_call_that_cannot_be_interrupted_ends_the_process(repository):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=repository, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "error: Toy-v0 did not answer within `hang_seconds` 0.2 and cannot be" in done.stderr
    assert "env.processes=true" in done.stderr
