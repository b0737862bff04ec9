"""The one way in which callbacks keep time."""

from dreamer.callbacks.every import Every


def test_it_is_due_once_for_every_multiple_passed():
    every = Every(10)
    asked = [0, 3, 9, 10, 11, 19, 20, 45, 49, 50]
    assert [now for now in asked if every.due(now)] == [10, 20, 45, 50]


def test_a_resumed_run_is_not_due_for_what_was_done_before():
    every = Every(10)
    every.start(34)
    assert [now for now in (34, 36, 40, 41) if every.due(now)] == [40]
