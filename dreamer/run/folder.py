"""The folder of a run: its path, its files, and whether a configuration may continue it.

`train.py`, `load.py` and `evaluate.py` use it. `sweep.py` and `experiments/` read its files only:
config.yaml, spaces.json (observations and actions), metrics.jsonl, summary.json (exists if the run
is finished), failure.txt (the traceback of a failed run), lock (held while a process uses the
folder), copied.json (the stored experience that was copied), checkpoints/ (with copies of the first
two), replay/, stored/ (the data of data.mix, or of several sources) and videos/.
"""

import io
import json
import os
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import yaml
from filelock import lock_descriptor
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamer.checkpoint_file import PREVIOUS, read_checkpoint
from dreamer.envs.codecs import codec_from_dict
from dreamer.files import (
    DamagedFile,
    check_no_link,
    move_aside,
    read_json,
    read_text,
    warn_once,
    write_text,
)
from dreamer.replay.buffer import Replay
from dreamer.run.migrate import FORMAT, migrate
from dreamer.run.offline import counter_of
from dreamer.run.paths import expanded
from dreamer.run.variant import variant_of
from dreamer.schema.words import format_value

# Keys that may change when a run is resumed.
MUTABLE_KEYS = (
    *("root", "run_dir", "variant", "total_frames", "total_updates"),
    *("logger", "callbacks", "trainer", "precision", "collect", "switches"),
    *("kernels", "cuda_graphs", "replay.device", "replay.store"),
    *("env.processes", "env.hang_seconds", "env.max_restarts"),
)
REQUIRED_KEYS = {"env_name", "task", "seed", "total_frames", "prefill_policy_steps", "env"}
# What is not needed to continue a run. A folder in the place of a file, or a file in that of a
# folder, is moved out of the way.
OPTIONAL_FILES = (
    *("summary.json", "failure.txt", "copied.json", "metrics.jsonl", "spaces.json", "config.yaml"),
    *("evaluation.json", "wandb_id", "log.txt", "mlflow.json", "metrics.csv"),
)
OPTIONAL_FOLDERS = ("videos", "tensorboard", "wandb")
EARLY_FILES = (  # may exist before `begin`
    *("replay", "stored", "wandb", "wandb_id", "tensorboard"),
    "mlflow.json",
)
MISSING = object()
NO_NODES = (TypeError, KeyError, AttributeError)  # of values where mappings are expected
SHOWN = 60  # characters of a value in a message
COUNTS = ("frames", "policy_steps", "updates")  # in summary.json
LOCK_PATIENCE = 0.3  # seconds: others hold the lock for a moment, to see whether it is free


class FolderInUse(ValueError):  # noqa: N818 -- the name states the problem
    """Another process is using the run folder; try again later."""


class ResumePoint(NamedTuple):
    """The last checkpoint of an unfinished run."""

    path: Path
    frames: int
    updates: int
    steps: tuple[int, ...]  # per environment, that each of its replays had

    def count(self, counter: str) -> int:
        """Return the count that the run goes by: frames or updates."""
        return getattr(self, counter)


class RunFolder:
    """One run's folder on disk."""

    def __init__(self, path: Path | str, variant: str = ""):
        """`variant` names the experiment and the changed switches."""
        self.path = path = Path(os.path.abspath(expanded(path)))  # the current folder may change
        self.variant = variant
        self.checkpoints = path / "checkpoints"
        self.last, self.best = (self.checkpoints / f"{x}.ckpt" for x in ("last", "best"))
        self.previous = self.checkpoints / PREVIOUS
        self.replay, self.stored = path / "replay", path / "stored"
        self.begun = False  # whether `begin` was called since this process claimed the folder

    @classmethod
    def of(cls, cfg: DictConfig) -> "RunFolder":
        """Return the folder of a configuration: <root>/<env>/<task>/<variant>/seed<seed>.

        Raises:
            ValueError: A name leads out of `root`.
        """
        variant = cfg.variant or variant_of(cfg)
        if cfg.run_dir:
            return cls(cfg.run_dir, variant)
        return cls(expanded(cfg.root) / relative_path(cfg, variant), variant)

    @property
    def is_saved(self) -> bool:
        """Whether there is a checkpoint to resume from; it may be damaged."""
        return self.last.exists() or self.previous.exists()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Claim the folder until the context ends or this process dies.

        The lock file names the host and the process, for users and `sweep.py`. If `begin` was not
        called, the folder is restored at the end.

        Raises:
            FolderInUse: Another process holds the lock.
        """
        self.begun = False
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        has_lock = (self.path / "lock").exists()
        with self._claim() as file:
            absent = {name for name in EARLY_FILES if not (self.path / name).exists()}
            absent |= set() if has_lock else {"lock"}
            file.seek(0)
            holder = file.read()
            _rewrite(file, f"{socket.gethostname()} {os.getpid()}")
            try:
                yield
            finally:
                if not self.begun:
                    self._leave(missing, absent)
                    _rewrite(file, holder)

    def check_no_links(self) -> None:
        """Check that a run in this folder writes nowhere else; the folder itself may be a link.

        Raises:
            ValueError: There is a link; the message names it.
        """
        replays = [self.replay, self.stored]
        replays += self.stored.iterdir() if self.stored.is_dir() else ()
        within = [file for path in replays if path.is_dir() for file in path.iterdir()]
        for path in (self.path / "lock", self.checkpoints, *replays, *within):
            check_no_link(path)
        for name in OPTIONAL_FOLDERS:
            check_no_link(self.path / name)

    @contextmanager
    def _claim(self) -> Iterator[TextIO]:
        """Open the lock file and hold it; one that its holder removes meanwhile is none.

        We open it ourselves: `filelock.FileLock` empties the file in some of its releases, and a
        start that is refused must leave there what it found.
        """
        path = self.path / "lock"
        if path.is_dir():
            text = shlex.quote(str(path))
            raise ValueError(
                f"{path} must be a file, got a folder. Repeat the command after `mv {text} "
                f"{text}.damaged`."
            )
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            with path.open("a+", errors="replace") as file:
                if lock_descriptor(file.fileno(), blocking=False):
                    if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                        yield file
                        return
                elif time.monotonic() > deadline:
                    file.seek(0)
                    raise FolderInUse(
                        f"{self.path} is in use by another process ({file.read() or 'unknown'}). "
                        "Wait for it, or choose another run_dir=."
                    )
            time.sleep(0.05)

    def _leave(self, folders: list[Path], names: set[str]) -> None:
        """Remove the files and folders that this process made since it claimed the folder."""
        for name in names:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for path in folders:  # the innermost first
            with suppress(OSError):  # not empty: another process uses it
                path.rmdir()

    def begin(self, cfg: DictConfig, spaces: Mapping[str, Any]) -> None:
        """Write the configuration and the spaces (in JSON types).

        This removes the summary or failure of an earlier attempt.
        """
        self.begun = True
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._clear_the_way()
        for name in ("summary.json", "failure.txt"):
            (self.path / name).unlink(missing_ok=True)
        named = {**cfg, "variant": self.variant}  # the folder may move: the file names the run
        text = f"format: {FORMAT}\n{OmegaConf.to_yaml(OmegaConf.create(named))}"
        for place in (self.path, self.checkpoints):  # a copy, in case that the first is damaged
            write_text(place / "config.yaml", text)  # first: it identifies the run
            write_text(place / "spaces.json", json.dumps(spaces, indent=2) + "\n")

    def _clear_the_way(self) -> None:
        """Rename what is not needed and cannot be replaced; the run writes these files anew."""
        copies = [self.checkpoints / name for name in ("config.yaml", "spaces.json")]
        files = [*(self.path / name for name in OPTIONAL_FILES), *copies]
        paths = [x for x in files if x.is_dir() or x.is_symlink()]
        paths += [
            x
            for name in OPTIONAL_FOLDERS
            if os.path.lexists(x := self.path / name)
            if not x.is_dir()
        ]
        for path in paths:
            kind = "a folder" if path.is_dir() else "no folder"
            kind = "a link" if path.is_symlink() else kind
            warn_once(f"{path} is {kind}; it is now {move_aside(path).name}.")

    def note_copy(self, copied: Mapping[str, Any] | None) -> None:
        """Write how much experience is about to be copied into the empty replay; None: nothing.

        Its `policy_steps` distinguish an interrupted start from a run that lost its checkpoint.
        """
        path = self.path / "copied.json"
        if copied is None:
            path.unlink(missing_ok=True)
        else:
            write_text(path, json.dumps(copied, indent=2) + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, as the last file."""
        write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def fail(self, traceback: str) -> None:
        """Write the traceback of a failure; the next attempt removes it.

        A prefill without a checkpoint is deleted, because no run can resume from it. Then another
        configuration can use the folder.
        """
        write_text(self.path / "failure.txt", traceback)
        cfg = self._own_config()
        if cfg is not None and not self.is_saved and not self._found(cfg):
            for replay in (self.replay, self.stored):
                shutil.rmtree(replay, ignore_errors=True)

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a finished run; None if there is none or it cannot be read."""
        try:
            summary = read_json(self.path / "summary.json")
        except (OSError, DamagedFile):
            return None
        counts = all(isinstance(summary.get(key), int) for key in COUNTS)
        known = counts and isinstance(summary.get("metrics"), dict)
        return summary if known else None

    def finished(self, cfg: DictConfig) -> dict[str, Any] | None:
        """Return the summary if the run has reached its budget of frames or updates, else None."""
        summary, counter = self.summary(), counter_of(cfg)
        return summary if summary and summary[counter] >= cfg[f"total_{counter}"] else None

    def config(self) -> DictConfig:
        """Return the run's configuration, in the current format.

        If config.yaml is damaged or missing, the copy in checkpoints/ takes its place.

        Raises:
            FileNotFoundError: The folder contains no run.
            DamagedFile: Neither file can be read.
            ValueError: A later version of this program wrote it.
        """
        path, copy = (place / "config.yaml" for place in (self.path, self.checkpoints))
        try:
            return _read_config(path)
        except (OSError, DamagedFile) as error:
            missing = isinstance(error, FileNotFoundError)
            try:
                cfg = _read_config(copy)
            except (OSError, DamagedFile):
                if missing:
                    message = f"No run in {self.path}: it contains no config.yaml."
                    raise FileNotFoundError(message) from None
                raise DamagedFile(
                    f"{error} {self._begin_anew('Restore it from a copy.')}"
                ) from None
            reason = f"{path} is missing." if missing else str(error)
            warn_once(f"{reason} Its copy {copy} is used.")
            return cfg

    def spaces(self) -> dict[str, Any] | None:
        """Return the spaces that `begin` wrote; None for runs of older versions.

        If spaces.json is damaged or missing, the copy in checkpoints/ takes its place.

        Raises:
            DamagedFile: The file cannot be read, and there is no copy.
        """
        path, copy = (place / "spaces.json" for place in (self.path, self.checkpoints))
        try:
            return _read_spaces(path)
        except (OSError, DamagedFile) as error:
            missing = isinstance(error, FileNotFoundError)
            try:
                spaces = _read_spaces(copy)
            except (OSError, DamagedFile):
                if missing:
                    return None
                raise DamagedFile(
                    f"{error} Repeat the command after `mv {shlex.quote(str(path))} "
                    f"{shlex.quote(str(path))}.damaged`; the environment is then asked."
                ) from None
            reason = f"{path} is missing." if missing else str(error)
            warn_once(f"{reason} Its copy {copy} is used.")
            return spaces

    def check_same_run(self, cfg: DictConfig) -> None:
        """Check that the folder does not contain a run with another configuration.

        A folder without a checkpoint passes; see `check_may_begin`.

        Raises:
            ValueError: The configurations differ; the message names the keys.
        """
        if not self.is_saved and self.summary() is None:
            return
        different = differences(self.config(), cfg)
        if different:
            raise ValueError(
                f"{self.path} holds a run of another configuration, different in "
                f"{', '.join(different)}. Choose another run_dir=, or delete the folder."
            )

    def check_may_begin(self, cfg: DictConfig) -> None:
        """Check that a new run would not overwrite results.

        A new run may replace only the files of an earlier start of the same run that saved no
        checkpoint: its prefill, with copied experience, and its descriptions. So a run that was
        killed during its prefill starts again, but a run whose checkpoint is missing does not.
        Unknown files are ignored.

        Raises:
            ValueError: The folder contains results; the message lists them and the commands that
                continue.
        """
        found = self._found(cfg)
        if not found or self.is_saved:  # another process saved it meanwhile
            return
        raise ValueError(
            f"{self.path} has no checkpoints/last.ckpt to resume from, but holds "
            f"{', '.join(found)}. {self.remedies()}"
        )

    def remedies(self) -> str:
        """Return the commands to use if there is no checkpoint to resume from."""
        last, best = (shlex.quote(str(x)) for x in (self.last, self.best))
        if not self.best.exists():
            return self._begin_anew()
        return self._begin_anew(
            f"To resume from the best, `cp {best} {last}` and repeat the command."
        )

    def _begin_anew(self, before: str = "") -> str:
        path = shlex.quote(str(self.path))
        begin = f"To start a new run, choose another run_dir=, or `mv {path} {path}.old`."
        return f"{before} {begin}".strip()

    def _found(self, cfg: DictConfig) -> list[str]:
        """Describe all files that are not of an earlier start of this run without a checkpoint."""
        found = ["checkpoints/best.ckpt"] if self.best.exists() else []
        old = self._own_config()
        # written after the first checkpoint
        names = ["summary.json", "metrics.jsonl", "metrics.csv", "videos"]
        if old is None:
            names += ["config.yaml", "spaces.json"]
            failure = self.path / "failure.txt"
            names += [] if _is_failure(failure) else [failure.name]
        found += [name for name in names if _has_content(self.path / name)]
        try:
            steps, env_count = Replay.count_stored(self.replay)
        except (ValueError, OSError) as error:
            return [*found, f"replay ({error})"]
        if not steps:
            return found
        if old is None:
            return [*found, f"replay ({steps:,} policy steps, but no valid config.yaml)"]
        allowed = old.prefill_policy_steps + self._copied_policy_steps()
        if steps >= allowed + env_count:  # they step together
            return [*found, f"replay ({steps:,} policy steps, more than a prefill)"]
        different = differences(old, cfg)
        if different:
            text = f"the prefill of another configuration, different in {', '.join(different)}"
            return [*found, text]
        return found

    def _copied_policy_steps(self) -> int:
        """Return the policy steps of `note_copy`; 0 without a readable note."""
        try:
            return int(json.loads((self.path / "copied.json").read_text())["policy_steps"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _own_config(self) -> DictConfig | None:
        """Return the configuration if config.yaml exists and is of this program, else None."""
        try:
            cfg = self.config()
        except (OSError, ValueError):
            return None
        return cfg

    def check_same_spaces(self, spaces: Mapping[str, Any]) -> None:
        """Check that the folder does not contain a run with other observations or actions.

        Raises:
            ValueError: The spaces differ; the message shows the differences.
        """
        if not self.is_saved:
            return
        try:
            old = self.spaces()
        except DamagedFile as error:
            warn_once(f"{error} It is written anew.")
            return
        new = json.loads(json.dumps(spaces))
        if old not in (None, new):
            copy = self.checkpoints / "spaces.json"
            with suppress(OSError, DamagedFile):
                if _read_spaces(copy) == new:
                    warn_once(f"{self.path / 'spaces.json'} is of another run. It is written anew.")
                    return
            raise ValueError(
                f"{self.path} holds a run of other observations or actions, different in "
                f"{', '.join(_unequal(old, new))}. Choose another run_dir=, or delete the folder."
            )

    def resume_point(self, *, has_store: bool = False, collects: bool = True) -> ResumePoint | None:
        """Return the point from which to resume; None if there is no checkpoint.

        If the last checkpoint is damaged, it is the newest one that is not.

        Args:
            has_store: The run has a store with its episodes, so the replay may be missing.
            collects: If not, the replay may be missing, too: it can be copied from the data again.

        Raises:
            DamagedFile: All checkpoints are damaged or of another program.
            ValueError: The replay is missing.
        """
        if not self.is_saved:
            return None
        path, state = self.read_intact(self.last)
        may_refill = not collects or (has_store and "Store" in state["callbacks"])
        if not self.replay.is_dir() and not self.stored.is_dir() and not may_refill:
            raise ValueError(
                f"{self.replay} is missing, which holds the experience of the run. Restore it. "
                f"{self._begin_anew()}"
            )
        counters, replay = state["counters"], state.get("ReplayDataModule", {})
        steps = tuple(part.get("steps", 0) for part in replay.get("parts", [replay]))
        return ResumePoint(path, counters["frames"], counters["updates"], steps)

    def read_intact(self, path: Path) -> tuple[Path, dict[str, Any]]:
        """Read a checkpoint or, if it is damaged, the newest one that is not.

        Returns:
            The file that was read, and its content; see `checkpoint_file.read_checkpoint`.

        Raises:
            FileNotFoundError: There is no checkpoint.
            DamagedFile: All are damaged, or not checkpoints of this program.
        """
        if not self.is_saved and not path.exists():
            raise FileNotFoundError(f"No checkpoint {path}: the run has not saved one yet.")
        try:
            if path.exists():
                return path, read_checkpoint(path)
            reason = f"{path} is missing."
        except DamagedFile as error:
            reason = str(error)
        found: list[tuple[Path, dict[str, Any]]] = []
        for other in (self.last, self.previous, self.best):
            with suppress(DamagedFile):
                if other != path and other.exists():
                    found.append((other, read_checkpoint(other)))
        if not found:
            raise DamagedFile(f"{reason} {self._begin_anew()}")
        other, state = max(found, key=lambda one: one[1]["counters"]["updates"])
        counts = state["counters"]
        where = (
            f"frame {counts['frames']:,}" if counts["frames"] else f"update {counts['updates']:,}"
        )
        warn_once(f"{reason} {other}, of {where}, is used.")
        return other, state


def relative_path(cfg: DictConfig, variant: str) -> str:
    """Return the path of a run's folder below `root`: <env>/<task>/<variant>/seed<seed>.

    Raises:
        ValueError: A name leads elsewhere.
    """
    names = {"env_name": cfg.env_name, "task": cfg.task, "variant": variant}
    for key, name in names.items():
        _check_name(key, str(name))
    return "/".join(map(str, [*names.values(), f"seed{cfg.seed}"]))


def _check_name(key: str, name: str) -> None:
    """Check that a name is that of a folder in another one; a task may have slashes.

    Raises:
        ValueError: It leads elsewhere.
    """
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\0" in name:
        raise ValueError(
            f"`{key}` must name a folder within `root`, got {format_value(name)}. To choose the "
            "whole path, set run_dir=."
        )


def _read_config(path: Path) -> DictConfig:
    """Read a configuration, in the current format.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFile: It is not the configuration of a run.
        ValueError: A later version of this program wrote it.
    """
    text = read_text(path)
    try:
        cfg = OmegaConf.load(io.StringIO(text))
        plain: Any = OmegaConf.to_container(cfg)
        keys = sorted(REQUIRED_KEYS - set(plain)) if isinstance(cfg, DictConfig) else ["keys"]
        if keys or not isinstance(plain["env"], dict):
            raise DamagedFile(f"{path} is damaged: it has no {', '.join(keys) or 'node `env`'}.")
        if not isinstance(plain.get("format", 1), int):
            raise DamagedFile(f"{path} is damaged: `format` is {plain['format']}.")
        return OmegaConf.create(migrate(plain))
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, *NO_NODES, OSError) as error:
        reason = " ".join(str(error).split())[:80]
        raise DamagedFile(f"{path} is damaged: it is no YAML ({reason}).") from error


def _read_spaces(path: Path) -> dict[str, Any]:
    """Read spaces.json, and check that a codec can be made of it."""
    spaces = read_json(path)
    try:
        codec_from_dict(spaces)
        return {"observations": spaces["observations"], **spaces}
    except Exception as error:  # of any content: a KeyError, a TypeError, one of Gymnasium's
        raise DamagedFile(
            f"{path} is damaged: it does not describe spaces ({error!r:.60})."
        ) from error


def _unequal(old: Any, new: Any) -> list[str]:
    """Describe the values in which two nested descriptions differ."""
    there, here = (dict(_parts(one)) for one in (old, new))
    return [
        f"{key} (there {_shown(there, key)}, here {_shown(here, key)})"
        for key in sorted(there.keys() | here.keys())
        if there.get(key, MISSING) != here.get(key, MISSING)
    ]


def _parts(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a description with their paths; a list of numbers is a leaf."""
    if isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, child in value.items():
        yield from _parts(child, f"{prefix}.{key}" if prefix else str(key))


def _shown(values: Mapping[str, Any], key: str) -> str:
    """Format a value so that different ones look different: 1 is a number, '1' is text."""
    if key not in values:
        return "nothing"
    text = repr(values[key])
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _rewrite(file: TextIO, text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def differences(old: DictConfig, new: DictConfig) -> list[str]:
    """Describe the differences that make two configurations two runs.

    Of a node with another target, only the target: its other keys cannot be compared.
    """
    a, b = (dict(_leaves(_as_plain(cfg))) for cfg in (old, new))
    different = [
        key
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and not {key, key.split(".")[0]} & set(MUTABLE_KEYS)
    ]
    targets = [key for key in different if key.endswith("._target_")]
    nodes = tuple(key.removesuffix("_target_") for key in targets)
    return [
        f"{key} (there {_told(a.get(key), b.get(key))}, here {_told(b.get(key), a.get(key))})"
        for key in different
        if not any(key.startswith(node) and key != f"{node}_target_" for node in nodes)
    ]


def _told(value: Any, other: Any) -> str:
    """Format a value; as code if it would look like the other: 3 and '3'."""
    return repr(value) if str(value) == str(other) else str(value)


def _has_content(path: Path) -> bool:
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() and path.stat().st_size > 0


def _is_failure(path: Path) -> bool:
    """Whether a run, or a sweep on its behalf, wrote this failure.txt, or it does not exist."""
    if not path.is_file():
        return not path.exists()
    lines = path.read_text(errors="replace").splitlines() or [""]
    return lines[0].startswith("Traceback (") or lines[-1].startswith("The process ")


def _as_plain(cfg: DictConfig) -> Any:
    return OmegaConf.to_container(cfg, resolve=True)


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
