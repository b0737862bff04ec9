"""Ctrl-C and SIGTERM between two steps."""

import os
import signal

import pytest

from dreamer.callbacks.interrupt import Interrupt, Interrupted


@pytest.fixture
def listening():
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    interrupt = Interrupt()
    with interrupt.listening():
        yield interrupt
    assert {s: signal.getsignal(s) for s in before} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_somebody_asks(listening, number):
    listening.check()
    os.kill(os.getpid(), number)
    for ask in (listening.check, listening.on_train_batch_end):
        with pytest.raises(Interrupted, match=number.name) as stop:
            ask("whatever", "a hook brings")
        assert stop.value.signal_number == number


def test_a_second_ctrl_c_does_not_wait(listening):
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted, match="SIGINT"):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_is_patient(listening):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"):
        listening.check()
