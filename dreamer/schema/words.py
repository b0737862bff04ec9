"""Descriptions of allowed values, for error messages and help."""

import inspect
import typing
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import ValidationError

from dreamer.schema.keys import bare_type, is_union, keys_of, notes_of
from dreamer.schema.types import MAX_COUNT, Node, Section, Words

_FEW = 12  # so many keys still fit into a message


class UnknownKey(ValueError):  # noqa: N818 -- the name states the problem
    """A key that is not declared."""

    key = ""


def unknown_key(key: str, known: Iterable[str]) -> UnknownKey:
    """Make the error for an undeclared key, with the most similar known keys."""
    known = list(known)
    begun = [one for one in known if one.startswith(key)]  # similarity is low if much is missing
    nearest = begun[:3] or get_close_matches(key, known, n=3, cutoff=0.5)
    node = key.rpartition(".")[0]
    beside = [one for one in sorted(known) if not node or one.startswith(f"{node}.")]
    if nearest or len(known) <= _FEW or (node and beside):
        hint = f"The nearest: {', '.join(nearest or beside or sorted(known))}"
    else:
        hint = "None of the known keys is similar; --help lists them"
    error = UnknownKey(f"Unknown key `{key}`. {hint}")
    error.key = key
    return error


def format_value(value: Any) -> str:
    """Format a value for a message: numbers as they are, all else as typed, in backticks."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is None or isinstance(value, bool):
        return {None: "`null`", True: "`true`", False: "`false`"}[value]
    return f"`{value}`" if str(value) else "`''`"


def describe(annotation: Any) -> str:
    """Describe the allowed values: "a whole number of at least 1 or null"."""
    bare, notes = bare_type(annotation), notes_of(annotation)
    arguments = typing.get_args(bare)
    for note in notes:
        if isinstance(note, Words):
            return note
    if is_union(typing.get_origin(bare)) or bare is bool or typing.get_origin(bare) is Literal:
        options = _options(bare)
        return _either([x for x in options if x != "null"] + ["null"] * ("null" in options))
    if typing.get_origin(bare) in (list, tuple, Sequence):
        return f"a list, each {describe(arguments[0])}" if arguments else "a list"
    if typing.get_origin(bare) in (dict, Mapping):
        return f"names, each with {describe(arguments[1])}" if arguments else "names with values"
    words = {int: "a whole number", float: "a number", str: "text", Any: "anything"}
    words[type(None)] = "null"
    if bare in words:
        return words[bare] + _range(notes, bare)
    if bare is Node:
        return "a node with a `_target_`"
    name = getattr(bare, "__name__", str(bare))
    if inspect.isclass(bare) and issubclass(bare, Section):
        return f"a node with {', '.join(keys_of(bare).named)}"
    return f"a node with a `_target_` that makes `{name}`"


def must(error: ValidationError, annotation: Any) -> str:
    """Return "must be ..." for a failed validation, to follow the key."""
    first = error.errors()[0]
    bare, notes = bare_type(annotation), notes_of(annotation)
    if first["type"] == "allowed":
        return f"must be {first['msg']}"
    if first["type"] == "value_error":  # from a user's validator
        return f"is not allowed: {first['msg'].removeprefix('Value error, ')}"
    if bare not in (int, float):
        return f"must be {describe(annotation)}"
    low, high = _bounds(notes)
    if bare is float and low and high and first["type"].startswith(("greater", "less")):
        return f"must be {_range(notes, bare).strip()}"
    match first["type"]:
        case "greater_than_equal":
            return f"must be at least {low[1]}"
        case "greater_than":
            return f"must be greater than {low[1]}"
        case "less_than_equal":
            return f"must be at most {high[1]}"
        case "less_than":
            return f"must be less than {high[1]}"
    return f"must be {'a whole number' if bare is int else 'a number'}"


def _bounds(notes: Sequence[Any]) -> tuple[Any, Any]:
    """Return the lower and upper bound, each as a bracket and a number, or None."""
    low = high = None
    for note in notes:
        for sign, bracket in (("ge", "["), ("gt", "(")):
            low = (bracket, getattr(note, sign)) if hasattr(note, sign) else low
        for sign, bracket in (("le", "]"), ("lt", ")")):
            high = (bracket, getattr(note, sign)) if hasattr(note, sign) else high
    return low, high


def _range(notes: Sequence[Any], kind: type) -> str:
    low, high = _bounds(notes)
    if high and high[1] == MAX_COUNT:
        high = None
    if low and high and kind is int:
        return f" from {low[1]} to {high[1]}"
    if low and high:
        return f" in {low[0]}{low[1]}, {high[1]}{high[0]}"
    if low:
        return f" of at least {low[1]}" if low[0] == "[" else f" greater than {low[1]}"
    if high:
        return f" of at most {high[1]}" if high[0] == "]" else f" less than {high[1]}"
    return ""


def _options(annotation: Any) -> list[str]:
    bare = bare_type(annotation)
    if any(isinstance(note, Words) for note in notes_of(annotation)):
        return [describe(annotation)]
    if is_union(typing.get_origin(bare)):
        return [option for one in typing.get_args(bare) for option in _options(one)]
    if typing.get_origin(bare) is Literal:
        return [str(one) for one in typing.get_args(bare)]
    return ["true", "false"] if bare is bool else [describe(annotation)]


def _either(options: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(options[:-1]), options[-1]]))
