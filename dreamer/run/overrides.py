"""The words of a command line: made ready for Hydra, and explained where Hydra refuses them.

The entry points (`train.py`, `dreamer/cli/evaluate.py`, ...) use it. It knows Hydra's grammar and
sentences, but not Hydra.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Sequence

from dreamer.run.paths import GROUPS
from dreamer.schema.words import unknown_key

_MODEL = "model.world_model"
# Keys of earlier versions, and what to write instead.
REPLACED = {
    "compile": "`compile` was replaced by `kernels`: kernels=auto computes faster, kernels=plain "
    "runs the models as they are written, and nothing is compiled.",
    **{
        f"{_MODEL}.{old}": f"`{_MODEL}.{old}` was replaced by `{_MODEL}.{new}`."
        for name in ("reward", "discount")
        for old, new in (
            (f"{name}_head", f"heads.{name}"),
            (f"{name}_gradients", f"heads.{name}.gradients"),
            (f"loss_scales.{name}", f"heads.{name}.scale"),
        )
    },
}
PATHS = ("root", "run_dir")  # keys whose values are paths, which may hold any character
OPTIONAL = ("experiment", "debug")  # groups of which no file need be chosen


def prepared(words: Sequence[str]) -> list[str]:
    """Write the words of a command line as Hydra reads them.

    Paths are quoted where they need it. `logger=null` is `logger=none`. `+experiment=` and
    `+debug=` need no plus: these groups stand, empty, in the defaults list.

    Raises:
        ValueError: a group is to be null.
    """
    several = bool({"-m", "--multirun"} & set(words))  # then a comma separates values
    return [_prepared(word, several) for word in words]


def _prepared(word: str, several: bool) -> str:
    key, equals, value = word.partition("=")
    if not equals or key.startswith("-"):
        return word
    key = re.sub(r"^\+(experiment|debug)$", r"\1", key)
    if key in PATHS and not (several and "," in value):
        value = quoted(value)
    if key in GROUPS and key not in OPTIONAL and value == "null":
        if key != "logger":
            raise ValueError(f"`{key}` must be the name of a file in conf/{key}, got `null`")
        value = "none"
    return f"{key}={value}"


def quoted(value: str) -> str:
    """Quote a value for Hydra, unless it is quoted or Hydra reads it as it stands."""
    if re.fullmatch(r"[\w./@%+:-]*|(['\"]).*\1", value, flags=re.ASCII | re.DOTALL):
        return value
    text = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + end[2].replace("'", "\\'"), value)
    return f"'{text}'"


def explain(error: BaseException, known: Callable[[], Iterable[str]] = tuple) -> str:
    """Say in one line what Hydra refuses of a command line.

    Args:
        error: Hydra's.
        known: Gives the keys that there are; the nearest are offered.
    """
    text = str(error).split("Config search path:")[0]
    if unknown := re.match(r"Could not override '([^']+)'", text):
        return replacement(unknown[1]) or str(unknown_key(unknown[1], known()))
    if several := re.match(r"Ambiguous value for argument '(.*)'\n", text):
        return f"A comma in `{several[1]}` needs quotes: {_with_quotes(several[1])}"
    word = getattr(error, "override", None)  # of those that Hydra cannot read
    if word is not None and "=" not in word:
        return f"Words must be key=value, got `{word}`"
    if word is not None:
        return f"Hydra cannot read `{word}`. Quote the value: {_with_quotes(word)}"
    return " ".join(text.split())


def replacement(key: str) -> str | None:
    """What to write instead of a key of an earlier version, or of one below it."""
    return next((x for old, x in REPLACED.items() if f"{key}.".startswith(f"{old}.")), None)


def _with_quotes(word: str) -> str:
    """A word as a person types it in a shell for Hydra to take its value as text."""
    key, _, value = word.partition("=")
    if not set(value) & set("'\"\\$`!"):
        return f"\"{key}='{value}'\""
    return shlex.quote(f"{key}='{value}'" if "'" not in value else f'{key}="{value}"')
