"""What a value may be, from annotations: ours, and those of anybody's classes."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict, Unpack

import numpy as np
import pytest
from pydantic import AfterValidator, Field

from dreamer.schema.keys import keys_of
from dreamer.schema.types import (
    Count,
    Folder,
    Fraction,
    Node,
    OpenFraction,
    Pattern,
    Positive,
    PositiveCount,
    Section,
    doc,
)
from dreamer.schema.validation import (
    check,
    checked_call,
    validate,
    validate_value,
    validate_words,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("annotation", "value", "read"),
    [
        (int, 3, 3),
        (int, 1e5, 100_000),
        (int, "1e5", 100_000),
        (int, "100_000", 100_000),
        (int, "9007199254740993", 2**53 + 1),  # which no float holds
        (int, np.int64(3), 3),
        (float, 2, 2.0),
        (float, "3e-4", 3e-4),
        (float, np.float32(0.5), 0.5),
        (bool, True, True),
        (bool, "false", False),
        (str, "text", "text"),
        (str, 2024, "2024"),
        (Literal["auto", "plain"], "plain", "plain"),
        (bool | Literal["auto"], "auto", "auto"),
        (int | None, None, None),
        (int | None, "1e3", 1000),
        (bool | OpenFraction, True, True),
        (bool | OpenFraction, 0.3, 0.3),
        (Sequence[int], [1, "2e1"], [1, 20]),
        (dict[str, float], {"a": "1"}, {"a": 1.0}),
        (Mapping[str, float | Mapping[str, float]], {"a": {"b": "2"}}, {"a": {"b": 2.0}}),
        (Any, {"a": [1, "x"]}, {"a": [1, "x"]}),
        (Pattern, "a|b", "a|b"),
    ],
)
def test_a_value_is_read_however_it_is_written(annotation, value, read):
    found = validate_value(value, annotation, "key")
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, 2.5, "must be a whole number, got 2.5"),
        (int, "abc", "must be a whole number, got `abc`"),
        (int, True, "must be a whole number, got `true`"),
        (int, NAN, "must be a whole number, got nan"),
        (int, None, "must be a whole number, got `null`"),
        (float, "inf", "must be a number, got `inf`"),
        (float, NAN, "must be a number, got nan"),
        (float, False, "must be a number, got `false`"),
        (bool, "maybe", "must be true or false, got `maybe`"),
        (bool, 1, "must be true or false, got 1"),
        (str, None, "must be text, got `null`"),
        (str, 2.5, "must be text, got 2.5"),
        (PositiveCount, 0, "must be at least 1, got 0"),
        (Count, -1, "must be at least 0, got -1"),
        (Count, 1e30, "must be at most 9007199254740992, got 1e+30"),
        (Positive, 0.0, "must be greater than 0, got 0.0"),
        (Fraction, 2, "must be in [0, 1], got 2"),
        (PositiveCount | None, 0, "must be a whole number of at least 1 or null, got 0"),
        (bool | OpenFraction, 1.5, "must be true, false or a number in (0, 1), got 1.5"),
        (Literal["a", "b", "c"], "d", "must be a, b or c, got `d`"),
        (Folder, "", "must be the path of a folder"),
        (Folder | None, "", "must be the path of a folder"),
        (Pattern, "(", "must be a regular expression (missing ), unterminated subpattern"),
        (Node, None, "must be a node with a `_target_`, got `null`"),
        (Node, {"a": 1}, "must be a node with a `_target_`, got `{'a': 1}`"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_what_is_allowed(annotation, value, message):
    with pytest.raises(ValueError) as error:
        validate_value(value, annotation, "part.key")
    assert str(error.value).startswith(f"`part.key` {message}")


def test_a_value_within_another_is_named_by_its_place():
    with pytest.raises(ValueError, match=r"^`sizes\[1\]` must be at least 1, got 0$"):
        validate_value([3, 0], Sequence[PositiveCount], "sizes")
    with pytest.raises(ValueError, match=r"^`scales\.kl` must be a number, got `x`$"):
        validate_value({"kl": "x"}, Mapping[str, float], "scales")


# --------------------------------------------------------------------------------- anybody's own


def even(value: int) -> int:
    if value % 2:
        raise ValueError("odd numbers do not fly")
    return value


class Kite:
    """Not described at all."""

    def __init__(self, tails: int, colour: Literal["red", "blue"] = "red", *, mass: float = 1.0):
        self.parts = tails, colour, mass


@dataclass
class Plane:
    """Described, with a part that has a target of its own."""

    wings: Annotated[int, Field(ge=2), AfterValidator(even), doc("Wings.", unit="pieces")]
    kite: Kite | None = None


def make_balloon(gas: str, *, size: Annotated[Positive, doc("How large it is.")]):
    """A program gives the gas."""


class Options(TypedDict):
    knots: Annotated[Count, doc("In the rope.")]


def make_rope(**options: Unpack[Options]):
    pass


@dataclass
class Sky(Section):
    thing: Annotated[Node, doc("What flies.")]


def target(kind: Any, **keys: Any) -> dict[str, Any]:
    return {"thing": {"_target_": f"{__name__}.{kind.__name__}", **keys}}


@pytest.mark.parametrize(
    ("kind", "keys", "read"),
    [
        (Kite, {"tails": "1e1", "mass": "2"}, {"tails": 10, "mass": 2.0}),
        (Kite, {"_partial_": True}, {"_partial_": True}),
        (Plane, {"wings": "2"}, {"wings": 2}),
        (make_balloon, {"size": "3"}, {"size": 3.0}),
        (make_rope, {"knots": 2.0}, {"knots": 2}),
    ],
)
def test_a_target_says_what_its_keys_are(kind, keys, read):
    node = validate(target(kind, **keys), Sky)["thing"]
    assert {key: node[key] for key in read} == read


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        (Kite, {"tails": "many"}, "`thing.tails` must be a whole number, got `many`"),
        (Kite, {"color": "red"}, "Unknown key `thing.color`. The nearest: thing.colour"),
        (Kite, {"colour": "green"}, "`thing.colour` must be red or blue, got `green`"),
        (Plane, {"wings": 1}, "`thing.wings` must be at least 2, got 1"),
        (Plane, {"wings": 3}, "`thing.wings` is not allowed: odd numbers do not fly, got 3"),
        (Plane, {}, "`thing.wings` is missing: it must be a whole number of at least 2"),
        (
            Plane,
            {"wings": 2, **{"kite": target(Kite, tails=0.5)["thing"]}},
            "`thing.kite.tails` must be a whole number, got 0.5",
        ),
        (make_balloon, {"size": 0}, "`thing.size` must be greater than 0, got 0"),
        (make_balloon, {"size": 1, "gas": "air"}, "Unknown key `thing.gas`."),
        (make_rope, {"knots": -1}, "`thing.knots` must be at least 0, got -1"),
        (make_rope, {"knot": 1}, "Unknown key `thing.knot`. The nearest: thing.knots"),
    ],
)
def test_what_a_target_does_not_take_is_told(kind, keys, message):
    with pytest.raises(ValueError) as error:
        validate(target(kind, **keys), Sky)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", ["nowhere.Kite", "dreamer.nothing", "dreamer", "", 3])
def test_a_target_that_is_not_there_is_told(name):
    with pytest.raises(ValueError, match="^`thing._target_` must name a class or a function, got"):
        validate({"thing": {"_target_": name}}, Sky)


def test_a_target_whose_package_is_missing_says_which(tmp_path, monkeypatch):
    (tmp_path / "hungry.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        validate({"thing": {"_target_": "hungry.Kite"}}, Sky)


# ------------------------------------------------------------------------------------ from Python


@dataclass(frozen=True)
class Kettle:
    litres: Annotated[Positive, doc("How much it holds.", unit="litres", source="the kitchen")]
    lid: Annotated[bool, doc("Whether it closes.")] = True

    def __post_init__(self):
        check(self)


def test_a_dataclass_that_checks_itself_says_the_same():
    assert Kettle("1.5").litres == 1.5  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^`litres` must be greater than 0, got -1$"):
        Kettle(-1)
    with pytest.raises(ValueError, match="^`lid` must be true or false, got `ajar`$"):
        dataclasses.replace(Kettle(1), lid="ajar")  # type: ignore[arg-type]


def test_a_call_that_is_checked_says_the_same():
    @checked_call
    def boil(kettle: Kettle, *, minutes: Annotated[PositiveCount, doc("How long.")] = 3):
        return minutes

    assert boil(Kettle(1), minutes="1e1") == 10  # type: ignore[arg-type]
    assert boil(Kettle(1)) == 3
    with pytest.raises(ValueError, match="^`minutes` must be at least 1, got 0$"):
        boil(Kettle(1), minutes=0)


def test_keys_say_what_is_declared():
    litres, lid = keys_of(Kettle).named.values()
    assert (litres.text, litres.unit, litres.source) == (
        "How much it holds.",
        "litres",
        "the kitchen",
    )
    assert (lid.default, lid.unit) == (True, "")


@dataclass
class Words(Section):
    count: Annotated[PositiveCount | None, doc("How many.")] = None


def test_words_of_a_command_line_are_read():
    assert validate_words(["count=1e3"], Words) == {"count": 1000}
    assert validate_words(["count=null"], Words) == {"count": None}
    for word, message in (
        ("count", "^Arguments must be key=value, got `count`$"),
        ("cuont=3", "^Unknown key `cuont`. The nearest: count$"),
        ("count=0", "^`count` must be a whole number of at least 1 or null, got `0`$"),
    ):
        with pytest.raises(ValueError, match=message):
            validate_words([word], Words)
