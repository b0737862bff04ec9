"""Every form at points computed by hand, and every way to misspell one."""

import pytest

from dreamer.schedules import NonNegativeSchedule, PositiveSchedule, parse_schedule
from dreamer.schema.validation import validate_value
from dreamer.schema.words import describe


@pytest.mark.parametrize(
    ("text", "step", "value"),
    [
        ("3e-4", 10**9, 3e-4),
        ("-2", 0, -2.0),
        (0.1, 7, 0.1),
        (1, 7, 1.0),
        ("linear(1,5,100)", 0, 1.0),
        ("linear(1,5,100)", 25, 2.0),
        ("linear(1,5,100)", 100, 5.0),
        ("linear(1,5,100)", 10**9, 5.0),
        ("linear(5, -1, 1e2)", 50, 2.0),
        ("linear(+2.5e-3,1.5e-3,1e+6)", 500_000, 2e-3),
        ("warmup(100,8)", 0, 0.0),
        ("warmup(100,8)", 25, 2.0),
        ("warmup(100,8)", 200, 8.0),
        ("exp(9,1,10)", 0, 9.0),
        ("exp(9,1,10)", 10, 5.0),
        ("exp(9,1,10)", 20, 3.0),
        ("exp(9,1,10)", 10_000, 1.0),
        ("horizon(10,100,50)", 0, 0.9),
        ("horizon(10,100,50)", 25, 1 - 1 / 55),
        ("horizon(10,100,50)", 70, 0.99),
    ],
)
def test_schedule_has_the_value_computed_by_hand(text, step, value):
    assert parse_schedule(text)(step) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "nan",
        "inf",
        float("nan"),
        None,
        "1e-3x",
        "1,2",
        "(1)",
        "linear",
        "linear()",
        "linear(1,2)",
        "linear(1,2,3,4)",
        "linear(1,2,3",
        "linear 1,2,3)",
        "linear(1,2,3)x",
        "linear(1,,3)",
        "linear(1,2,3,)",
        "linear(a,b,c)",
        "linear(1.2.3,4,5)",
        "linear(.,4,5)",
        "linear(1,2,1e999)",
        "linear(1,2,0)",
        "linear(1,2,-3)",
        "warmup(1)",
        "warmup(0,1)",
        "exp(1,2,0)",
        "horizon(10,100,0)",
        "horizon(0.5,100,10)",
        "horizon(10,-5,10)",
        "cosine(1,2,3)",
        "Linear(1,2,3)",
    ],
)
def test_malformed_schedule_is_refused_with_what_was_written(text):
    with pytest.raises(ValueError, match="A schedule must be a number, linear") as error:
        parse_schedule(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (PositiveSchedule, 0, "`x` must be greater than 0, got 0"),
        (PositiveSchedule, "warmup(5,-1)", "`x` must be a schedule whose values are at least 0, g"),
        (NonNegativeSchedule, "-1e-9", "`x` must be at least 0, got `-1e-9`"),
        (NonNegativeSchedule, "linear(1,2)", r"`x` must be a number of at least 0, linear\(a,b,d"),
        (NonNegativeSchedule, True, "`x` must be a number of at least 0, linear"),
    ],
)
def test_schedule_out_of_range_is_refused(annotation, value, message):
    with pytest.raises(ValueError, match=message):
        validate_value(value, annotation, "x")


def test_numbers_of_schedules_are_floats_and_schedules_stay_as_written():
    assert repr(validate_value("3e-4", PositiveSchedule, "x")) == "0.0003"
    assert repr(validate_value(2, NonNegativeSchedule, "x")) == "2.0"
    for text in ("linear(1e-3, 0, 5)", "warmup(5,1)", "horizon(1,9,5)", "exp(1,0,5)"):
        assert validate_value(text, PositiveSchedule, "x") == text


def test_a_schedule_is_described_in_a_union_too():
    assert describe(NonNegativeSchedule | None).startswith("a number of at least 0, linear(a,b,d)")
