"""The folder of a run: its path, its files, and whether a configuration may continue it.

`train.py`, `load.py` and `evaluate.py` use it. `sweep.py` and `experiments/` read its files only:
config.yaml, spaces.json (observations and actions), metrics.jsonl, summary.json (exists if the run
is finished), failure.txt (the traceback of a failed run), lock (held while a process uses the
folder), copied.json (the experience copied by data.prefill), checkpoints/, replay/ and videos/.
"""

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

import torch
import yaml
from filelock import lock_descriptor
from omegaconf import DictConfig, OmegaConf

from dreamer.replay.buffer import Replay
from dreamer.run.migrate import FORMAT, migrate
from dreamer.run.paths import expanded
from dreamer.run.variant import variant_of

# Keys that may change when a run is resumed.
MUTABLE_KEYS = (
    *("root", "run_dir", "variant", "total_frames"),
    *("logger", "callbacks", "trainer", "precision", "collect", "switches"),
    *("kernels", "cuda_graphs", "replay.device"),
    *("env.processes", "env.hang_seconds", "env.max_restarts"),
)
REQUIRED_KEYS = {"env_name", "task", "seed", "total_frames", "prefill_policy_steps", "env"}
EARLY_FILES = (  # may exist before `begin`
    *("replay", "wandb", "wandb_id", "tensorboard"),
    *("mlflow.json", "mlflow.tmp"),
)
LOCK_PATIENCE = 0.3  # seconds: others hold the lock for a moment, to see whether it is free


class FolderInUse(ValueError):  # noqa: N818 -- the name states the problem
    """Another process is using the run folder; try again later."""


class ResumePoint(NamedTuple):
    """The last checkpoint of an unfinished run."""

    path: Path
    frames: int
    updates: int


class RunFolder:
    """One run's folder on disk."""

    def __init__(self, path: Path, variant: str = ""):
        """`variant` names the experiment and the changed switches."""
        self.path = path
        self.variant = variant
        self.checkpoints = path / "checkpoints"
        self.last, self.best = (self.checkpoints / f"{x}.ckpt" for x in ("last", "best"))
        self.replay = path / "replay"
        self.begun = False  # whether `begin` was called since this process claimed the folder

    @classmethod
    def of(cls, cfg: DictConfig) -> "RunFolder":
        """Return the folder of a configuration: <root>/<env>/<task>/<variant>/seed<seed>."""
        variant = cfg.variant or variant_of(cfg)
        default = Path(cfg.root) / cfg.env_name / cfg.task / variant / f"seed{cfg.seed}"
        path = Path(cfg.run_dir) if cfg.run_dir else default
        return cls(expanded(path), variant)

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

    @contextmanager
    def _claim(self) -> Iterator[TextIO]:
        """Open the lock file and hold it; one that its holder removes meanwhile is none.

        We open it ourselves: `filelock.FileLock` empties the file in some of its releases, and a
        start that is refused must leave there what it found.
        """
        path = self.path / "lock"
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            with path.open("a+") as file:
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
        self.path.mkdir(parents=True, exist_ok=True)
        for name in ("summary.json", "failure.txt"):
            (self.path / name).unlink(missing_ok=True)
        text = f"format: {FORMAT}\n{OmegaConf.to_yaml(cfg)}"
        _write(self.path / "config.yaml", text)  # first: it identifies the run
        _write(self.path / "spaces.json", json.dumps(spaces, indent=2) + "\n")

    def note_copy(self, copied: Mapping[str, Any] | None) -> None:
        """Write how much experience is about to be copied into the empty replay; None: nothing.

        Its `policy_steps` distinguish an interrupted start from a run that lost its checkpoint.
        """
        path = self.path / "copied.json"
        if copied is None:
            path.unlink(missing_ok=True)
        else:
            _write(path, json.dumps(copied, indent=2) + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, as the last file."""
        _write(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def fail(self, traceback: str) -> None:
        """Write the traceback of a failure; the next attempt removes it.

        A prefill without a checkpoint is deleted, because no run can resume from it. Then another
        configuration can use the folder.
        """
        _write(self.path / "failure.txt", traceback)
        cfg = self._own_config()
        if cfg is not None and not self.last.exists() and not self._found(cfg):
            shutil.rmtree(self.replay, ignore_errors=True)

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a finished run; None if there is none or it cannot be read."""
        path = self.path / "summary.json"
        try:
            summary = json.loads(path.read_text()) if path.exists() else None
        except ValueError:
            return None
        known = isinstance(summary, dict) and isinstance(summary.get("frames"), int)
        return summary if known else None

    def finished(self, cfg: DictConfig) -> dict[str, Any] | None:
        """Return the summary if the run has reached `cfg.total_frames`, else None."""
        summary = self.summary()
        return summary if summary and summary["frames"] >= cfg.total_frames else None

    def config(self) -> DictConfig:
        """Return the run's configuration, in the current format.

        Raises:
            FileNotFoundError: The folder contains no run.
            ValueError: A later version of this program wrote it.
        """
        path = self.path / "config.yaml"
        if not path.exists():
            raise FileNotFoundError(f"No run in {self.path}: it contains no config.yaml.")
        cfg = OmegaConf.load(path)
        assert isinstance(cfg, DictConfig)
        plain: Any = OmegaConf.to_container(cfg)
        return OmegaConf.create(migrate(plain))

    def spaces(self) -> dict[str, Any] | None:
        """Return the spaces that `begin` wrote; None for runs of older versions."""
        path = self.path / "spaces.json"
        return json.loads(path.read_text()) if path.exists() else None

    def check_same_run(self, cfg: DictConfig) -> None:
        """Check that the folder does not contain a run with another configuration.

        A folder without a checkpoint passes; see `check_may_begin`.

        Raises:
            ValueError: The configurations differ; the message names the keys.
        """
        if not self.last.exists() and self.summary() is None:
            return
        differences = _differences(self.config(), cfg)
        if differences:
            raise ValueError(
                f"{self.path} holds a run of another configuration, different in "
                f"{', '.join(differences)}. Choose another run_dir=, or delete the folder."
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
        if not found or self.last.exists():  # another process saved it meanwhile
            return
        raise ValueError(
            f"{self.path} has no checkpoints/last.ckpt to resume from, but holds "
            f"{', '.join(found)}. {self._remedies()}"
        )

    def _remedies(self) -> str:
        """Return the commands to use if there is no checkpoint to resume from."""
        path, last, best = (shlex.quote(str(x)) for x in (self.path, self.last, self.best))
        begin = f"To start a new run, choose another run_dir=, or `mv {path} {path}.old`."
        if not self.best.exists():
            return begin
        return f"To resume from the best, `cp {best} {last}` and repeat the command. {begin}"

    def _found(self, cfg: DictConfig) -> list[str]:
        """Describe all files that are not of an earlier start of this run without a checkpoint."""
        found = ["checkpoints/best.ckpt"] if self.best.exists() else []
        old = self._own_config()
        names = ["summary.json", "metrics.jsonl", "videos"]  # written after the first checkpoint
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
        differences = _differences(old, cfg)
        if differences:
            text = f"the prefill of another configuration, different in {', '.join(differences)}"
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
        except (OSError, ValueError, AssertionError, yaml.YAMLError):
            return None
        return cfg if cfg.keys() >= REQUIRED_KEYS else None

    def check_same_spaces(self, spaces: Mapping[str, Any]) -> None:
        """Check that the folder does not contain a run with other observations or actions.

        Raises:
            ValueError: The spaces differ; the message shows both.
        """
        old = self.spaces()
        new = json.loads(json.dumps(spaces))
        if old not in (None, new) and self.last.exists():
            old, new = ((x["observations"], x["actions"]) for x in (old, new))
            raise ValueError(
                f"{self.path} holds a run of other observations or actions: there {old}, here "
                f"{new}. Choose another run_dir=, or delete the folder."
            )

    def resume_point(self) -> ResumePoint | None:
        """Return the point from which to resume; None if there is no checkpoint.

        Raises:
            ValueError: The checkpoint is damaged or of another program, or the replay is missing.
        """
        path = self.last
        if not path.exists():
            return None
        counters = self.read_checkpoint(path)["counters"]
        if not self.replay.exists():
            raise ValueError(
                f"{self.replay} is missing, which holds the experience of the run. Restore it, or "
                f"delete {self.path} to start again."
            )
        return ResumePoint(path, counters["frames"], counters["updates"])

    def read_checkpoint(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint: tensors and plain types only.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or not a checkpoint of this program.
        """
        if not path.exists():
            raise FileNotFoundError(f"No checkpoint {path}: the run has not saved one yet.")
        try:
            return read_checkpoint(path)
        except ValueError as error:
            remedies = f" {self._remedies()}" if path == self.last else ""
            raise ValueError(f"{error}{remedies}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain types only.

    Raises:
        ValueError: The file is damaged, or not a checkpoint of this program.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        counters = state.get("counters") if isinstance(state, dict) else None
        if not isinstance(counters, dict) or not {"frames", "updates"} <= counters.keys():
            raise KeyError("counters")
    except Exception as error:  # a damaged file raises many kinds, an IndexError for instance
        raise ValueError(
            f"{path} is damaged or not a checkpoint of this program ({type(error).__name__})."
        ) from error
    return state


def _rewrite(file: TextIO, text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _differences(old: DictConfig, new: DictConfig) -> list[str]:
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
        f"{key} (there {a.get(key)}, here {b.get(key)})"
        for key in different
        if not any(key.startswith(node) and key != f"{node}_target_" for node in nodes)
    ]


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


def _write(path: Path, text: str) -> None:
    """Write a file atomically."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    os.replace(temporary, path)
