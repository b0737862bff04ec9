"""Prepares the words of a command line for Hydra, and explains Hydra's errors.

The commands use it. It knows Hydra's grammar and error messages, but does not import Hydra.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Sequence

from dreamer.run.choices import choices_with, in_hydras_words, names_in
from dreamer.run.paths import GROUPS, SOURCES
from dreamer.schema.words import unknown_key

_MODEL = "model.world_model"
# Keys of earlier versions, with their replacements.
REPLACED = {
    "compile": "`compile` was replaced by `kernels`: kernels=auto computes faster, kernels=plain "
    "runs the models as written. Nothing is compiled.",
    "search": "`search` is a key of sweep.py: python sweep.py search=paper_table_d1 env=gym "
    "task=CartPole-v1",
    f"{_MODEL}.rssm.layer_norm": f"`{_MODEL}.rssm.layer_norm` was replaced by `layer_norm`.",
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
PATHS = ("root", "run_dir", *SOURCES)  # keys whose values are paths, with any characters
OPTIONAL = ("experiment", "debug")  # groups without a default file


def prepared(words: Sequence[str]) -> list[str]:
    """Convert the words of a command line to Hydra's grammar.

    Paths are quoted if necessary. `logger=null` becomes `logger=none`, and `replay.sampling=steps`
    becomes `replay/sampling=steps`. The plus of `+experiment=` and `+debug=` is dropped: these
    groups are in the defaults list, as null. So is that of `+trainer.profiler=`, which earlier
    versions needed.

    Raises:
        ValueError: Another group is null.
    """
    multirun = bool({"-m", "--multirun"} & set(words))  # then a comma separates values
    return [_prepared(word, multirun) for word in words]


def _prepared(word: str, multirun: bool) -> str:
    key, equals, value = word.partition("=")
    if not equals or key.startswith("-"):
        return word
    key = re.sub(r"^\+(experiment|debug|trainer\.profiler)$", r"\1", key)
    is_list = key == "data.train" and value.startswith("[")
    if key in PATHS and not is_list and not (multirun and "," in value):
        value = quoted(value)
    if key in GROUPS and key not in OPTIONAL and value == "null":
        if key != "logger":
            raise ValueError(f"`{key}` must be the name of a file in conf/{key}, got `null`")
        value = "none"
    if key in GROUPS and value != "null" and not may_name_file(value):
        raise ValueError(f"`{key}` must be the name of a file in conf/{key}, got `{value}`")
    return f"{in_hydras_words(key, value)}={value}"


def may_name_file(value: object) -> bool:
    """Whether Hydra takes a value as the name of a file: a text that it reads as no number."""
    if not isinstance(value, str) or value.lower() in ("true", "false", "null"):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def quoted(value: str) -> str:
    """Quote a value for Hydra, unless it is quoted already or needs no quotes."""
    if re.fullmatch(r"[\w./@%+:-]*|(['\"]).*\1", value, flags=re.ASCII | re.DOTALL):
        return value
    text = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + end[2].replace("'", "\\'"), value)
    return f"'{text}'"


def explain(error: BaseException, known: Callable[[], Iterable[str]] = tuple) -> str:
    """Explain Hydra's error about a command line in one line.

    Args:
        error: Hydra's exception.
        known: Returns the known keys; the message suggests the most similar ones.
    """
    text = str(error).split("Config search path:")[0]
    if unknown := re.match(r"Could not override '([^']+)'", text):
        return replacement(unknown[1]) or _unknown(unknown[1], list(known()))
    if missing := re.match(r"In '.*': Could not (?:find|load) '([^']+)/([^'/]*)'", text):
        group, name = missing.groups()
        files = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE) or names_in(group)
        nearest = difflib.get_close_matches(name, files, cutoff=0.5) or files
        return (
            f"`{group}` must be the name of a file in conf/{group}, got `{name}`. The nearest: "
            f"{', '.join(nearest)}"
        )
    if several := re.match(r"Ambiguous value for argument '(.*)'\n", text):
        return (
            f"`{several[1]}` has several values, which need -m, a run for each. If the comma is "
            f"part of the value, quote it: {_with_quotes(several[1])}"
        )
    word = getattr(error, "override", None)  # the word that Hydra cannot parse
    if word is not None and "=" not in word:
        return f"Arguments must be key=value, got `{word}`"
    if word is not None:
        return f"Hydra cannot parse `{word}`. Quote the value: {_with_quotes(word)}"
    return " ".join(text.split())


def explain_unknown(key: str, known: Iterable[str]) -> str:
    """Name the choices that have an unknown key, or the known keys that are most similar."""
    if choices := choices_with(key):
        return f"Unknown key `{key}`. Choices that have it: {', '.join(choices)}"
    return str(unknown_key(key, known))


def _unknown(key: str, known: list[str]) -> str:
    """Explain an unknown key; classes of a user's own may have more keys than conf/ knows."""
    message = explain_unknown(key, known)
    node = key.rpartition(".")[0]
    if f"{node}._target_" in known:
        message += f". If your own class has this parameter, add it with a plus: +{key}="
    return message


def replacement(key: str) -> str | None:
    """Return the message about a replaced key, or about one below it; None for other keys."""
    return next((x for old, x in REPLACED.items() if f"{key}.".startswith(f"{old}.")), None)


def _with_quotes(word: str) -> str:
    """Quote a word for a shell so that Hydra parses its value as text."""
    key, _, value = word.partition("=")
    if not set(value) & set("'\"\\$`!"):
        return f"\"{key}='{value}'\""
    return shlex.quote(f"{key}='{value}'" if "'" not in value else f'{key}="{value}"')
