"""The text of `--help`: the keys of a configuration in groups, from their declarations.

The commands print it line by line. It knows no key.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dreamer.schema.keys import ANY, REQUIRED, Key, bare_type, keys_of
from dreamer.schema.usage import Usage
from dreamer.schema.validation import in_source, keys_of_node
from dreamer.schema.words import describe

COLUMN = 36  # at which descriptions begin
MAX_WIDTH = 100  # columns, even if the terminal has more
OMITTED = ("a node", "names", "anything", "text", "true or false")  # adds nothing to the sentence


def width() -> int:
    """Return the columns of the terminal, at most `MAX_WIDTH`."""
    return min(shutil.get_terminal_size((MAX_WIDTH, 24)).columns, MAX_WIDTH)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines one by one; stop silently when the reader closes the pipe."""
    try:
        for text in lines:
            print(text, flush=True)
    except BrokenPipeError:  # as in `--help | head`; discard what Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def head(usage: Usage) -> Iterator[str]:
    """Yield the lines above the keys."""
    yield from textwrap.wrap(usage.summary, width())
    yield from ("", f"Usage: {usage.usage}", "", "Examples:")
    for command, meaning in usage.examples:
        yield f"  {command}"
        yield from _wrapped(meaning, indent=6)


def keys(
    node: Mapping[str, Any],
    declared: type,
    *,
    title: str = "Keys:",
    headings: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Yield the lines of all keys of a node and of its child nodes.

    Args:
        node: With the defaults; interpolations as text.
        declared: The dataclass that declares the keys.
        title: Heading of the first group.
        headings: Headings of further groups, by the first key of each.
    """
    yield from _group(node, keys_of(declared).named, "", title, headings or {})


def _group(
    node: Mapping[str, Any],
    named: Mapping[str, Key],
    at: str,
    title: str,
    headings: Mapping[str, str] | None = None,
) -> Iterator[str]:
    nodes = []
    heading = title
    for name, key in named.items():
        heading = (headings or {}).get(name, heading)
        value = node.get(name, key.default)
        if isinstance(value, Mapping) and value:
            nodes.append((name, key, value))
            continue
        if heading:
            yield from ("", *textwrap.wrap(heading, width()))
            heading = ""
        yield from _line(f"{at}{name}", value, key)
    for name, key, value in nodes:
        yield from _node(f"{at}{name}", value, key)


def _node(at: str, node: Mapping[str, Any], key: Key) -> Iterator[str]:
    inner = keys_of_node(node, key.annotation, at, in_source)
    if inner == ANY:  # a class that is elsewhere
        inner = keys_of_node(node, key.annotation, at)
    if inner:
        named = {k: v for k, v in inner.named.items() if k in node or v.default is REQUIRED}
        named |= {k: Key() for k in node.keys() - inner.named.keys() if not k.startswith("_")}
        if any(k in node for k in named):
            yield from _group(node, named, f"{at}.", f"{at}: {key.text}".removesuffix(": "))
        return
    entry = Key(bare_type(key.annotation).__args__[-1], text=key.text)
    named = {name: entry for name in node}
    nodes = {name for name in node if isinstance(node[name], Mapping) and node[name]}
    if named.keys() - nodes:
        yield from ("", *textwrap.wrap(f"{at}: {key.text}".removesuffix(": "), width()))
    for name in node:
        if name in nodes:
            yield from _node(f"{at}.{name}", node[name], entry)
        else:
            yield from _line(f"{at}.{name}", node[name], Key(entry.annotation))


def _line(at: str, value: Any, key: Key) -> Iterator[str]:
    """Return `key=default` and its description."""
    allowed = describe(key.annotation)
    if not allowed.startswith(OMITTED):
        short = (
            *(("a whole number", key.unit or "whole number"), ("a number", key.unit or "number")),
            *((" of at least ", " >= "), (" greater than ", " > ")),
        )
        for long, brief in short:
            allowed = allowed.replace(long, brief)
    parts = [part for part in ("" if allowed.startswith(OMITTED) else allowed, key.source) if part]
    text = f"{key.text} [{'; '.join(parts)}]" if parts else key.text
    yield from line(f"{at}={as_typed(value)}", text.strip())


def line(word: str, text: str) -> list[str]:
    """Return a word and its description in two columns, on one or more lines."""
    word = f"  {word}"
    lines = _wrapped(text, indent=COLUMN)
    if len(word) < COLUMN - 1 and lines:
        lines[0] = word + lines[0][len(word) :]
    else:  # break a long list after its commas
        lines[:0] = textwrap.wrap(
            word if len(word) <= width() else word.replace(",", ", "),
            width(),
            subsequent_indent=" " * 6,
            break_long_words=False,
        )
    return lines


def _wrapped(text: str, *, indent: int) -> list[str]:
    gap = " " * indent
    return textwrap.wrap(
        text, width(), initial_indent=gap, subsequent_indent=gap, break_long_words=False
    )


def as_typed(value: Any) -> str:
    """Return a value as typed on the command line; `...` if it is required."""
    if value is REQUIRED or value == "???":
        return "..."
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_typed, value))}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
