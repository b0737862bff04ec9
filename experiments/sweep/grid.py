"""Grids: named variants x tasks x seeds, and their jobs.

`sweep.py` reads grids with it, from conf/grid or a user's file. It knows the arguments of
`train.py`, but neither their meaning nor the folders of runs.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
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
        path, content = _load(name)
        common = _as_words(content.get("overrides") or {}, f"`overrides` of {path}", but="env")
        for word in choice.words:
            _check_free(_key(word), "the command line", but="env")
        envs = [_value(word) for word in (*common, *choice.words) if _key(word) == "env"]
        env = envs[-1] if envs else None
        variants = _read_variants(content.get("variants"), path)
        tasks = _read_named(content.get("tasks"), path, "tasks")
        chosen = tasks if choice.tasks is None else dict.fromkeys(choice.tasks, ())
        if not chosen:
            raise ValueError(f"`task` must be given, for example task=pong,boxing: {path} has none")
        if choice.variants is not None:
            variants = {
                v: variants[find(v, variants, f"variant of {path}")] for v in choice.variants
            }
        if env is not None and all("/" in task for task in chosen):
            raise ValueError(f"`env` must not be given, got {env}: every task has its own")
        own = {_with_env(task, env): extra for task, extra in tasks.items()}
        all_tasks = [_with_env(task, env) for task in chosen]
        seeds = content.get("seeds", 1) if choice.seeds is None else choice.seeds
        _check_unique("task", [f"{e}/{_letters(t)}" for e, t in all_tasks])
        _check_unique("variant", choice.variants or [])
        return cls(
            variants=variants,
            tasks={task: own.get(task, ()) for task in all_tasks},
            seeds=_read_seeds(seeds, path),
            common=tuple(word for word in common if _key(word) != "env"),
            words=tuple(word for word in choice.words if _key(word) != "env"),
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
        last = {_key(word): word for word in words}  # the last value, at the first position
        experiments = [_value(word) for word in words if _key(word) == "experiment"]
        if experiments:
            value = experiments[0] if len(experiments) == 1 else f"[{','.join(experiments)}]"
            last["experiment"] = f"experiment={value}"
        fixed = {"env": env, "task": task, "variant": variant, "seed": seed, "root": str(root)}
        return (*(f"{key}={_quoted(value)}" for key, value in fixed.items()), *last.values())


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


def _load(name: str) -> tuple[Path, dict[str, Any]]:
    """Find the file of a grid and read it."""
    own = name.endswith((".yaml", ".yml"))
    if not own:
        known = sorted(path.stem for path in (CONF / "grid").glob("*.yaml"))
        find(name, known, "grid (or give the path of a file that ends in .yaml)")
    path = Path(name) if own else CONF / "grid" / f"{name}.yaml"
    if not path.exists():
        raise ValueError(f"`grid` must name an existing file, got {path}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except YAMLError as error:
        raise ValueError(f"{path} must be YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must have the keys {', '.join(KEYS)}, got {content}")
    for key in content:
        find(str(key), KEYS, f"key in {path}")
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
            named[str(name)] = _as_words(overrides or {}, f"`{name}` of {path}")
    return named


def _read_seeds(seeds: Any, path: Path) -> list[int]:
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
    _check_unique("seed", seeds)
    return seeds


def _as_words(overrides: Any, where: str, but: str = "") -> tuple[str, ...]:
    """Convert a mapping of train.py's keys, dotted or nested, to command-line arguments."""
    if not isinstance(overrides, Mapping):
        raise ValueError(f"{where} must be a mapping of keys to values, got {overrides}")

    def leaves(node: Mapping, prefix: str) -> Iterable[str]:
        for key, value in node.items():
            if isinstance(value, Mapping) and value:
                yield from leaves(value, f"{prefix}{key}.")
            else:
                _check_free(f"{prefix}{key}", where, but)
                yield f"{prefix}{key}={_quoted(value)}"

    return tuple(leaves(overrides, ""))


def _quoted(value: Any) -> str:
    """Quote a value for Hydra's command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(_quoted(item) for item in value)}]"
    text = str(value)
    if not isinstance(value, str) or re.fullmatch(r"[\w./@%+-]+", text, re.ASCII):
        return text
    return "'" + text.replace("'", "\\'") + "'"


def _check_free(key: str, where: str, but: str = "") -> None:
    if key in SET_BY_GRID and key != but:
        raise ValueError(f"`{key}` must not be set in {where}: use {SET_BY_GRID[key]}")


def _check_unique(what: str, values: Collection[Any]) -> None:
    twice = sorted({value for value in values if list(values).count(value) > 1})
    if twice:
        raise ValueError(f"{what.capitalize()}s must be unique, got {twice[0]} twice")


def _with_env(task: str, env: str | None) -> tuple[str, str]:
    head, slash, tail = task.partition("/")
    return (head, tail) if slash else (env or "atari", task)


def _letters(name: str) -> str:
    """Normalise the name of a task: `MsPacman` and `ms_pacman` are the same game."""
    return "".join(filter(str.isalnum, name)).lower()


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _value(word: str) -> str:
    return word.partition("=")[2]
