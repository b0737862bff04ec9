"""Grids: named variants x tasks x seeds, and their jobs.

`sweep.py` reads grids with it, from conf/grid or a user's file. It knows the arguments of
`train.py`, but neither their meaning nor the folders of runs.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from yaml import YAMLError

from dreamer.run.paths import CONF

KEYS = ("variants", "tasks", "seeds", "overrides")
# Keys of train.py that a grid sets for every job, and what to use instead.
SET_BY_GRID = {
    "task": "tasks (task= on the command line)",
    "seed": "seeds",
    "variant": "variants (variant= on the command line)",
    "root": "root= on the command line",
    "run_dir": "root= on the command line",
    "env": "tasks with their env, as in dummy/memory",  # allowed in the overrides of all jobs
}


class Job(NamedTuple):
    """One run: its name, and the arguments after `python train.py`."""

    env: str
    task: str
    variant: str
    seed: int
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's folder below the root."""
        return f"{self.env}/{self.task}/{self.variant}/seed{self.seed}"


class Choice(NamedTuple):
    """The part of the command line about a grid; None keeps what the file has."""

    tasks: list[str] | None = None
    variants: list[str] | None = None
    seeds: int | list[int] | None = None
    words: tuple[str, ...] = ()  # for every job


class Grid(NamedTuple):
    """Variants x tasks x seeds; each variant and task may have arguments for train.py."""

    variants: dict[str, tuple[str, ...]]
    tasks: dict[tuple[str, str], tuple[str, ...]]  # by env and task
    seeds: list[int]
    common: tuple[str, ...]  # for every job, from the file
    words: tuple[str, ...]  # for every job, from the command line

    @classmethod
    def read(cls, name: str, choice: Choice) -> "Grid":
        """Read a grid, and apply the command line.

        Args:
            name: of a file in conf/grid, or the path of another, ending in .yaml.
            choice: the part of the command line about the grid.

        Raises:
            ValueError: A grid, variant or key is unknown; nothing is left; or a task, a variant or
                a seed is given twice.
        """
        path, content = load_file("grid", name, KEYS)
        variants = _read_variants(content.get("variants"), path)
        if choice.variants is not None:
            check_unique("variant", choice.variants)
            variants = {
                v: variants[find(v, variants, f"variant of {path}")] for v in choice.variants
            }
        return cls.of(content, variants, path, choice)

    @classmethod
    def of(
        cls,
        content: Mapping[str, Any],
        variants: dict[str, tuple[str, ...]],
        path: Path,
        choice: Choice,
    ) -> "Grid":
        """Make a grid of variants from a file's tasks, seeds and overrides, and the command line.

        Args:
            content: of the file: tasks, seeds and overrides.
            variants: arguments for train.py by name.
            path: of the file, for messages.
            choice: the part of the command line about the grid.

        Raises:
            ValueError: See `read`.
        """
        common = as_words(content.get("overrides") or {}, f"`overrides` of {path}", but="env")
        for word in choice.words:
            check_free(key_of(word), "the command line", but="env")
        envs = [value_of(word) for word in (*common, *choice.words) if key_of(word) == "env"]
        env = envs[-1] if envs else None
        tasks = _read_named(content.get("tasks"), path, "tasks")
        chosen = tasks if choice.tasks is None else dict.fromkeys(choice.tasks, ())
        if not chosen:
            raise ValueError(f"`task` must be given, for example task=pong,boxing: {path} has none")
        if env is not None and all("/" in task for task in chosen):
            raise ValueError(f"`env` must not be given, got {env}: every task has its own")
        own = {with_env(task, env): extra for task, extra in tasks.items()}
        all_tasks = [with_env(task, env) for task in chosen]
        seeds = content.get("seeds", 1) if choice.seeds is None else choice.seeds
        check_unique("task", [f"{e}/{_letters(t)}" for e, t in all_tasks])
        return cls(
            variants=variants,
            tasks={task: own.get(task, ()) for task in all_tasks},
            seeds=read_seeds(seeds, path),
            common=tuple(word for word in common if key_of(word) != "env"),
            words=tuple(word for word in choice.words if key_of(word) != "env"),
        )

    def jobs(self, root: Path) -> list[Job]:
        """Return all jobs in the order of the file: for each task all variants, for each all seeds.

        Arguments of a variant override those of the command line, these override those of a task,
        and these override those of the file for every job.
        """
        return [
            Job(env, task, variant, seed, self._words(root, env, task, variant, seed))
            for env, task in self.tasks
            for variant in self.variants
            for seed in self.seeds
        ]

    def _words(self, root: Path, env: str, task: str, variant: str, seed: int) -> tuple[str, ...]:
        words = (*self.common, *self.tasks[env, task], *self.words, *self.variants[variant])
        last = {key_of(word): word for word in words}  # the last value, at the first position
        experiments = [value_of(word) for word in words if key_of(word) == "experiment"]
        if experiments:
            value = experiments[0] if len(experiments) == 1 else f"[{','.join(experiments)}]"
            last["experiment"] = f"experiment={value}"
        fixed = {"env": env, "task": task, "variant": variant, "seed": seed, "root": str(root)}
        return (*(f"{key}={quoted(value)}" for key, value in fixed.items()), *last.values())


def find(name: str, known: Iterable[str], what: str) -> str:
    """Return the name if it is known.

    Raises:
        ValueError: It is unknown; the message names similar ones.
    """
    known = list(known)
    if name in known:
        return name
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
    raise ValueError(f"Unknown {what}: `{name}`. The nearest: {', '.join(nearest)}")


def load_file(group: str, name: str, keys: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Find a file of a group of conf/, or a user's, and read it.

    Args:
        group: such as grid.
        name: of a file in conf/<group>, or the path of another, ending in .yaml.
        keys: that it may have.

    Raises:
        ValueError: There is no such file, or it has other keys.
    """
    own = name.endswith((".yaml", ".yml"))
    if not own:
        known = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        find(name, known, f"{group} (or give the path of a file that ends in .yaml)")
    path = Path(name) if own else CONF / group / f"{name}.yaml"
    if not path.exists():
        raise ValueError(f"`{group}` must name an existing file, got {path}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} must be YAML: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must have the keys {', '.join(keys)}, got {content}")
    for key in content:
        find(str(key), keys, f"key in {path}")
    return path, {str(key): value for key, value in content.items()}


def _read_variants(entries: Any, path: Path) -> dict[str, tuple[str, ...]]:
    """Read the arguments of each variant: its experiment, if there is one, and its overrides."""
    experiments = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
    variants = _read_named(entries, path, "variants")
    if not variants:
        raise ValueError(f"{path} must have variants, for example dreamerv2, got none")
    for name, words in variants.items():
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"A variant of {path} must be a valid folder name, got {name}")
        if name in experiments:
            variants[name] = (f"experiment={name}", *words)
        elif not words:
            find(name, experiments, f"variant without overrides in {path}")
    return variants


def _read_named(entries: Any, path: Path, what: str) -> dict[str, tuple[str, ...]]:
    """Read names with or without overrides, from a list or a mapping."""
    if isinstance(entries, Mapping):
        entries = [{name: overrides} for name, overrides in entries.items()]
    named: dict[str, tuple[str, ...]] = {}
    for entry in entries or []:
        pairs = entry.items() if isinstance(entry, Mapping) else [(entry, None)]
        for name, overrides in pairs:
            if str(name) in named:
                raise ValueError(f"The {what} of {path} must be unique, got `{name}` twice")
            named[str(name)] = as_words(overrides or {}, f"`{name}` of {path}")
    return named


def read_seeds(seeds: Any, path: Path) -> list[int]:
    """Read a number of seeds, counted from 0, or a list of seeds."""
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ValueError(f"`seeds` must be at least 1, got {seeds}")
        return list(range(seeds))
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not isinstance(seeds, list) or not seeds or not whole:
        raise ValueError(
            f"`seeds` must be a number of seeds or a list of whole numbers, as in seeds=3 or "
            f"seeds=[0,5], got {seeds}"
        )
    check_unique("seed", seeds)
    return seeds


def as_words(overrides: Any, where: str, but: str = "") -> tuple[str, ...]:
    """Convert a mapping of train.py's keys, dotted or nested, to command-line arguments."""
    if not isinstance(overrides, Mapping):
        raise ValueError(f"{where} must be a mapping of keys to values, got {overrides}")

    def leaves(node: Mapping, prefix: str) -> Iterable[str]:
        for key, value in node.items():
            if isinstance(value, Mapping) and value:
                yield from leaves(value, f"{prefix}{key}.")
            else:
                check_free(f"{prefix}{key}", where, but)
                yield f"{prefix}{key}={quoted(value)}"

    return tuple(leaves(overrides, ""))


def quoted(value: Any) -> str:
    """Quote a value for Hydra's command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(quoted(item) for item in value)}]"
    text = str(value)
    if not isinstance(value, str) or re.fullmatch(r"[\w./@%+-]+", text, re.ASCII):
        return text
    return "'" + text.replace("'", "\\'") + "'"


def check_free(key: str, where: str, but: str = "") -> None:
    """Check that a key is not one that the grid sets.

    Raises:
        ValueError: It is; the message says what to use instead.
    """
    if key in SET_BY_GRID and key != but:
        raise ValueError(f"`{key}` must not be set in {where}: use {SET_BY_GRID[key]}")


def check_unique(what: str, values: Collection[Any]) -> None:
    """Check that no value is given twice.

    Raises:
        ValueError: One is.
    """
    twice = sorted({value for value in values if list(values).count(value) > 1})
    if twice:
        raise ValueError(f"{what.capitalize()}s must be unique, got {twice[0]} twice")


def with_env(task: str, env: str | None) -> tuple[str, str]:
    """Split a task such as dummy/memory into env and task; without an env, it is of `env`."""
    head, slash, tail = task.partition("/")
    return (head, tail) if slash else (env or "atari", task)


def _letters(name: str) -> str:
    """Normalise the name of a task: `MsPacman` and `ms_pacman` are the same game."""
    return "".join(filter(str.isalnum, name)).lower()


def key_of(word: str) -> str:
    """Return the key of a command-line argument, without a plus."""
    return word.partition("=")[0].lstrip("+~")


def value_of(word: str) -> str:
    """Return the value of a command-line argument."""
    return word.partition("=")[2]
