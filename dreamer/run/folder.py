"""The folder of a run: where it lies, what it holds, and whether it is that of this run.

The runner asks it; `sweep.py` and `experiments/` need nothing but what it leaves behind:
config.yaml, spaces.json (what is observed and done), metrics.jsonl, summary.json (its presence
means finished), failure.txt (the traceback of a run that failed), lock (held while a process works
here), checkpoints/, replay/ and videos/.
"""

import json
import os
import pickle
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
from dreamer.run.choices import choice_of
from dreamer.run.migrate import FORMAT, migrate
from dreamer.run.paths import CONF, expanded

# A run stays the same run when these change.
FREE = (
    *("root", "run_dir", "variant", "total_frames"),
    *("logger", "callbacks", "trainer", "precision", "collect", "switches"),
    *("kernels", "cuda_graphs", "replay.device"),
    *("env.processes", "env.hang_seconds", "env.max_restarts"),
)
MARKS = ("env_name", "task", "seed", "total_frames", "prefill_policy_steps", "env")  # of a config
OURS = ("replay", "wandb", "wandb_id", "tensorboard")  # may be made before a run begins
LOCK_PATIENCE = 0.3  # seconds: others hold the lock for a moment, to see whether it is free


class FolderInUse(ValueError):  # noqa: N818 -- nothing went wrong
    """Another process has the run; nothing is wrong with this one."""


class ResumePoint(NamedTuple):
    """The last checkpoint of an unfinished run."""

    path: Path
    frames: int
    updates: int


class RunFolder:
    """One run's folder on disk."""

    def __init__(self, path: Path, variant: str = ""):
        """`variant` tells the run from others of its task: experiment and changed switches."""
        self.path = path
        self.variant = variant
        self.checkpoints = path / "checkpoints"
        self.last, self.best = (self.checkpoints / f"{x}.ckpt" for x in ("last", "best"))
        self.replay = path / "replay"
        self.begun = False  # whether a run has, since this process claimed the folder

    @classmethod
    def of(cls, cfg: DictConfig) -> "RunFolder":
        """Where a configuration's run lies: <root>/<env>/<task>/<variant>/seed<seed>."""
        variant = cfg.variant or _variant(cfg)
        default = Path(cfg.root) / cfg.env_name / cfg.task / variant / f"seed{cfg.seed}"
        path = Path(cfg.run_dir) if cfg.run_dir else default
        return cls(expanded(path), variant)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Claim the folder until this process is done with it, or dies.

        The file holds the host and the process, for people and for `sweep.py`. Unless the run has
        begun by the end, the folder is left as it was found.

        Raises:
            FolderInUse: another process has it.
        """
        self.begun = False
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        has_lock = (self.path / "lock").exists()
        with self._claim() as file:
            absent = {name for name in OURS if not (self.path / name).exists()}
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
        """Remove what this process made, and nobody else can have since the folder was claimed."""
        for name in names:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for path in folders:  # the innermost first
            with suppress(OSError):  # somebody uses it
                path.rmdir()

    def begin(self, cfg: DictConfig, spaces: Mapping[str, Any]) -> None:
        """Write the configuration, and what is observed and done, in plain types.

        How the run ended before no longer holds.
        """
        self.begun = True
        self.path.mkdir(parents=True, exist_ok=True)
        for name in ("summary.json", "failure.txt"):
            (self.path / name).unlink(missing_ok=True)
        text = f"format: {FORMAT}\n{OmegaConf.to_yaml(cfg)}"
        _write(self.path / "config.yaml", text)  # first: it says whose folder
        _write(self.path / "spaces.json", json.dumps(spaces, indent=2) + "\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, last of all."""
        _write(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def fail(self, traceback: str) -> None:
        """Leave word of what went wrong; the next attempt removes it.

        A prefill without a checkpoint goes: nothing can go on from it, and another configuration
        may begin anew.
        """
        _write(self.path / "failure.txt", traceback)
        cfg = self._own_config()
        if cfg is not None and not self.last.exists() and not self._found(cfg):
            shutil.rmtree(self.replay, ignore_errors=True)

    def summary(self) -> dict[str, Any] | None:
        """What a finished run wrote; None for any other, and where it cannot be read."""
        path = self.path / "summary.json"
        try:
            summary = json.loads(path.read_text()) if path.exists() else None
        except ValueError:
            return None
        known = isinstance(summary, dict) and isinstance(summary.get("frames"), int)
        return summary if known else None

    def finished(self, cfg: DictConfig) -> dict[str, Any] | None:
        """The summary of a run that has made the frames that are asked for; None for any other."""
        summary = self.summary()
        return summary if summary and summary["frames"] >= cfg.total_frames else None

    def config(self) -> DictConfig:
        """The run's configuration, in the keys of this version.

        Raises:
            FileNotFoundError: no run lies here.
            ValueError: a later version of this program made it.
        """
        path = self.path / "config.yaml"
        if not path.exists():
            raise FileNotFoundError(f"No run in {self.path}: there is no config.yaml in it.")
        cfg = OmegaConf.load(path)
        assert isinstance(cfg, DictConfig)
        plain: Any = OmegaConf.to_container(cfg)
        return OmegaConf.create(migrate(plain))

    def spaces(self) -> dict[str, Any] | None:
        """What `begin` wrote of observations and actions; None where an older program did not."""
        path = self.path / "spaces.json"
        return json.loads(path.read_text()) if path.exists() else None

    def check_same_run(self, cfg: DictConfig) -> None:
        """Refuse to go on with a run of another configuration.

        Without a checkpoint there is nothing to go on with: see `check_may_begin`.

        Raises:
            ValueError: naming the keys that differ.
        """
        if not self.last.exists() and self.summary() is None:
            return
        differences = _differences(self.config(), cfg)
        if differences:
            raise ValueError(
                f"{self.path} holds a run of another configuration, different in "
                f"{', '.join(differences)}. Choose another run_dir=, or delete that folder."
            )

    def check_may_begin(self, cfg: DictConfig) -> None:
        """Refuse to begin a run where that would cost somebody something.

        Of what is there, a run that begins replaces only what a start of its own has left that
        never came to its first checkpoint: the prefill, and files that say what run it is. So a
        run that was killed in its prefill begins anew, and one that has lost its checkpoint does
        not. Files of other names are nobody's business.

        Raises:
            ValueError: saying what is there and which commands go on.
        """
        found = self._found(cfg)
        if not found or self.last.exists():  # of a process that saved it meanwhile
            return
        raise ValueError(
            f"{self.path} has no checkpoints/last.ckpt to go on from, but holds "
            f"{', '.join(found)}. {self._ways_out()}"
        )

    def _ways_out(self) -> str:
        """What to do where there is no checkpoint to go on from."""
        path, last, best = (shlex.quote(str(x)) for x in (self.path, self.last, self.best))
        begin = f"To begin a new run, choose another run_dir=, or `mv {path} {path}.old`."
        if not self.best.exists():
            return begin
        return f"To go on from the best, `cp {best} {last}` and the same command again. {begin}"

    def _found(self, cfg: DictConfig) -> list[str]:
        """What no start of this run has left that never came to its first checkpoint, in words."""
        found = ["checkpoints/best.ckpt"] if self.best.exists() else []
        old = self._own_config()
        names = ["summary.json", "metrics.jsonl", "videos"]  # come after the first checkpoint
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
            return [*found, f"replay ({steps:,} policy steps, and no config.yaml of a run)"]
        if steps >= old.prefill_policy_steps + env_count:  # they step together
            return [*found, f"replay ({steps:,} policy steps, more than a prefill)"]
        differences = _differences(old, cfg)
        if differences:
            text = f"the prefill of another configuration, different in {', '.join(differences)}"
            return [*found, text]
        return found

    def _own_config(self) -> DictConfig | None:
        """What config.yaml says, if it is there and of this program."""
        try:
            cfg = self.config()
        except (OSError, ValueError, AssertionError, yaml.YAMLError):
            return None
        return cfg if cfg.keys() >= set(MARKS) else None

    def check_same_spaces(self, spaces: Mapping[str, Any]) -> None:
        """Refuse to go on with a run of other observations or actions.

        Raises:
            ValueError: naming what there was and what there is.
        """
        old = self.spaces()
        new = json.loads(json.dumps(spaces))
        if old not in (None, new) and self.last.exists():
            old, new = ((x["observations"], x["actions"]) for x in (old, new))
            raise ValueError(
                f"{self.path} holds a run of other observations or actions, there {old}, here "
                f"{new}. Choose another run_dir=, or delete that folder."
            )

    def resume_point(self) -> ResumePoint | None:
        """Where to go on from; None if there is no checkpoint.

        Raises:
            ValueError: the checkpoint is damaged or foreign, or the replay is gone.
        """
        path = self.last
        if not path.exists():
            return None
        counters = self.read_checkpoint(path)["counters"]
        if not self.replay.exists():
            raise ValueError(
                f"{self.replay} is gone, and with it the experience of the run. Put it back, or "
                f"delete {self.path} to begin anew."
            )
        return ResumePoint(path, counters["frames"], counters["updates"])

    def read_checkpoint(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint: tensors and plain types only.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or not one of ours.
        """
        if not path.exists():
            raise FileNotFoundError(f"No checkpoint {path}: the run has not saved one yet.")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            counters = state.get("counters") if isinstance(state, dict) else None
            if not isinstance(counters, dict) or not {"frames", "updates"} <= counters.keys():
                raise KeyError("counters")
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
            raise ValueError(
                f"{path} is damaged or not a checkpoint of this program "
                f"({type(error).__name__}). {self._ways_out() if path == self.last else ''}"
            ) from error
        return state


def _rewrite(file: TextIO, text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _differences(old: DictConfig, new: DictConfig) -> list[str]:
    """The keys in which two configurations are two runs, in words."""
    a, b = (dict(_leaves(_as_plain(cfg))) for cfg in (old, new))
    return [
        f"{key} (there {a.get(key)}, here {b.get(key)})"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key) and not {key, key.split(".")[0]} & set(FREE)
    ]


def _has_content(path: Path) -> bool:
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() and path.stat().st_size > 0


def _is_failure(path: Path) -> bool:
    """Whether a run, or a sweep for it, has written this."""
    if not path.is_file():
        return not path.exists()
    lines = path.read_text(errors="replace").splitlines() or [""]
    return lines[0].startswith("Traceback (") or lines[-1].startswith("The process ")


def _variant(cfg: DictConfig) -> str:
    """The experiment's name, and after it the switches in which the run differs from it."""
    expected = _read(CONF / "train.yaml")
    experiment = CONF / "experiment" / f"{cfg.experiment_name}.yaml"
    if experiment.exists():
        expected |= _read(experiment)
    actual = {key: choice_of(cfg, key) for key in cfg.switches}
    parts = [
        f"{key}_{value}".lower() for key, value in actual.items() if value != expected.get(key)
    ]
    return "-".join([cfg.experiment_name, *parts])


def _read(path: Path) -> dict[str, Any]:
    """The values in a file of the configuration, and the names in its defaults list."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    choices = [entry for entry in content.pop("defaults", []) if isinstance(entry, dict)]
    return content | {
        key.removeprefix("override /"): name for entry in choices for key, name in entry.items()
    }


def _as_plain(cfg: DictConfig) -> Any:
    return OmegaConf.to_container(cfg, resolve=True)


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _write(path: Path, text: str) -> None:
    """Write whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    os.replace(temporary, path)
