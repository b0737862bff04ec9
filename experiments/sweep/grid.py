"""What a grid is: named variants x tasks x seeds, and the jobs that they make.

`sweep.py` reads grids with it, from conf/grid or from a user's own file. It knows which words go to
`train.py`, but neither what they mean to the agent nor where a run lies.
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
# Keys of train.py that a grid sets for every job, with what to say instead.
SET_BY_GRID = {
    "task": "tasks (task= on the command line)",
    "seed": "seeds",
    "variant": "variants (variant= on the command line)",
    "root": "root= on the command line",
    "run_dir": "root= on the command line",
    "env": "tasks with their env, as in dummy/memory",  # may stand among the overrides of all jobs
}


class Job(NamedTuple):
    """One run: what it is called, and the words after `python train.py`."""

    env: str
    task: str
    variant: str
    seed: int
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """As the run's folder is called, below the root."""
        return f"{self.env}/{self.task}/{self.variant}/seed{self.seed}"


class Choice(NamedTuple):
    """What the command line says of a grid; None leaves what the file says."""

    tasks: list[str] | None = None
    variants: list[str] | None = None
    seeds: int | list[int] | None = None
    words: tuple[str, ...] = ()  # for every job


class Grid(NamedTuple):
    """Variants x tasks x seeds, each variant and task with words of its own for train.py."""

    variants: dict[str, tuple[str, ...]]
    tasks: dict[tuple[str, str], tuple[str, ...]]  # by env and task
    seeds: list[int]
    common: tuple[str, ...]  # for every job, from the file
    words: tuple[str, ...]  # for every job, from the command line

    @classmethod
    def read(cls, name: str, choice: Choice) -> "Grid":
        """Read a grid, and take from it what the command line asks for.

        Args:
            name: of a file in conf/grid, or the path of any other, ending in .yaml.
            choice: what the command line says.

        Raises:
            ValueError: there is no such grid, variant or key; or nothing is left of it; or a task,
                a variant or a seed comes twice.
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
            raise ValueError(f"{path} names no tasks: say which. For example: task=pong,boxing")
        if choice.variants is not None:
            variants = {
                v: variants[find(v, variants, f"variant of {path}")] for v in choice.variants
            }
        if env is not None and all("/" in task for task in chosen):
            raise ValueError(f"`env={env}` would go unheard: every task names its own.")
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
        """All jobs; of a task all variants, of a variant all seeds, in the order of the file.

        A variant's words win over those of the command line, these over those of a task, and these
        over those that the file has for every job.
        """
        return [
            Job(env, task, variant, seed, self._words(root, env, task, variant, seed))
            for env, task in self.tasks
            for variant in self.variants
            for seed in self.seeds
        ]

    def _words(self, root: Path, env: str, task: str, variant: str, seed: int) -> tuple[str, ...]:
        words = (*self.common, *self.tasks[env, task], *self.words, *self.variants[variant])
        last = {_key(word): word for word in words}  # the last one wins, in its first one's place
        experiments = [_value(word) for word in words if _key(word) == "experiment"]
        if experiments:
            value = experiments[0] if len(experiments) == 1 else f"[{','.join(experiments)}]"
            last["experiment"] = f"experiment={value}"
        fixed = {"env": env, "task": task, "variant": variant, "seed": seed, "root": str(root)}
        return (*(f"{key}={_quoted(value)}" for key, value in fixed.items()), *last.values())


def find(name: str, known: Iterable[str], what: str) -> str:
    """Return the name, if it is known.

    Raises:
        ValueError: it is not; the message offers the nearest ones.
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
        find(name, known, "grid (or say the path of a file that ends in .yaml)")
    path = Path(name) if own else CONF / "grid" / f"{name}.yaml"
    if not path.exists():
        raise ValueError(f"There is no grid {path}.")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expect {path} to hold {', '.join(KEYS)}, actually: {content}")
    for key in content:
        find(str(key), KEYS, f"key in {path}")
    return path, {str(key): value for key, value in content.items()}


def _read_variants(entries: Any, path: Path) -> dict[str, tuple[str, ...]]:
    """A variant's words: its experiment's name, if there is such a file, and its overrides."""
    experiments = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
    variants = _read_named(entries, path, "variants")
    if not variants:
        raise ValueError(f"{path} names no variants, for example: dreamerv2")
    for name, words in variants.items():
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"Expect a variant of {path} to be a folder's name, actually: {name}")
        if name in experiments:
            variants[name] = (f"experiment={name}", *words)
        elif not words:
            find(name, experiments, f"variant without overrides in {path}")
    return variants


def _read_named(entries: Any, path: Path, what: str) -> dict[str, tuple[str, ...]]:
    """Names, each with overrides or without: a list of both, or a mapping."""
    if isinstance(entries, Mapping):
        entries = [{name: overrides} for name, overrides in entries.items()]
    named: dict[str, tuple[str, ...]] = {}
    for entry in entries or []:
        pairs = entry.items() if isinstance(entry, Mapping) else [(entry, None)]
        for name, overrides in pairs:
            if str(name) in named:
                raise ValueError(f"`{name}` comes twice among the {what} of {path}.")
            named[str(name)] = _as_words(overrides or {}, f"`{name}` of {path}")
    return named


def _read_seeds(seeds: Any, path: Path) -> list[int]:
    """A number of seeds, counted from 0, or a list of them."""
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ValueError(f"Expect `seeds` to be at least 1, actually: {seeds}")
        return list(range(seeds))
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not isinstance(seeds, list) or not seeds or not whole:
        raise ValueError(
            f"Expect `seeds` to be a number of seeds or a list of whole numbers, as in seeds=3 or "
            f"seeds=[0,5], actually: {seeds}"
        )
    _check_unique("seed", seeds)
    return seeds


def _as_words(overrides: Any, where: str, but: str = "") -> tuple[str, ...]:
    """A mapping of train.py's keys, dotted or nested, as words of a command line."""
    if not isinstance(overrides, Mapping):
        raise ValueError(f"Expect {where} to be a mapping of keys to values, actually: {overrides}")

    def leaves(node: Mapping, prefix: str) -> Iterable[str]:
        for key, value in node.items():
            if isinstance(value, Mapping) and value:
                yield from leaves(value, f"{prefix}{key}.")
            else:
                _check_free(f"{prefix}{key}", where, but)
                yield f"{prefix}{key}={_quoted(value)}"

    return tuple(leaves(overrides, ""))


def _quoted(value: Any) -> str:
    """A value as Hydra's command line reads it back."""
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
        raise ValueError(f"`{key}` in {where} would go unheard: a grid has {SET_BY_GRID[key]}.")


def _check_unique(what: str, values: Collection[Any]) -> None:
    twice = sorted({value for value in values if list(values).count(value) > 1})
    if twice:
        raise ValueError(f"{what.capitalize()} {twice[0]} comes twice.")


def _with_env(task: str, env: str | None) -> tuple[str, str]:
    head, slash, tail = task.partition("/")
    return (head, tail) if slash else (env or "atari", task)


def _letters(name: str) -> str:
    """What counts of a task's name: `MsPacman` and `ms_pacman` are the same game."""
    return "".join(filter(str.isalnum, name)).lower()


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _value(word: str) -> str:
    return word.partition("=")[2]
