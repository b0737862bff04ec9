"""Training from a program, without Hydra: `dreamer.train(env, overrides={...})`.

It composes the configuration, trains in the program's environment, and returns the results. It
reads no command line and does not change Hydra's state.
"""

import io
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
from omegaconf import DictConfig, OmegaConf

from dreamer.callbacks.interrupt import Interrupted
from dreamer.envs.base import VectorEnvs
from dreamer.envs.user import (
    BorrowedEnv,
    BorrowedEnvs,
    Factory,
    import_path,
    is_group,
    make_group_with,
    task_name,
)
from dreamer.exploration import ACTOR
from dreamer.files import read_lines, warn_once
from dreamer.inference import TrainedAgent
from dreamer.run.build import make_envs
from dreamer.run.compose import compose
from dreamer.run.folder import RunFolder
from dreamer.run.load import load_from
from dreamer.run.permission import code_of
from dreamer.run.train import EnvsMaker, Summary
from dreamer.run.train import train as run

if TYPE_CHECKING:
    import pandas

DEFAULTS = {"logger": ["jsonl", "tensorboard"]}  # no W&B unless requested
NO_EVALUATION = (
    "No evaluation: it needs an environment of its own. Pass a function that makes one, such as "
    "`lambda: MyEnv()`, instead of an environment."
)


class Run:
    """The results of `train`."""

    def __init__(self, summary: Summary, allow: Sequence[str] = (), maker: EnvsMaker | None = None):
        """Keep what the agent needs.

        Args:
            summary: Of the run.
            allow: The code that the program's own configuration named, see `load`.
            maker: Makes environments; None: those of the configuration.
        """
        self.summary = summary
        self.run_dir = Path(summary.run_dir)
        self._allow, self._maker = allow, maker

    @property
    def metrics(self) -> "pandas.DataFrame":
        """The lines of metrics.jsonl, over `frames`, or `updates` of a run that collects nothing.

        docs/logs.md explains the columns.

        Raises:
            FileNotFoundError: The run had no `jsonl` logger.
        """
        import pandas

        path = self.run_dir / "metrics.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}: `logger` must include jsonl.")
        lines, damaged = read_lines(path)
        if damaged:
            warn_once(f"{path}: {damaged} damaged lines are left out.")
        return pandas.read_json(io.StringIO("\n".join(lines)), lines=True)

    @cached_property
    def agent(self) -> TrainedAgent:
        """The trained agent, as `dreamer.load` returns it."""
        options: Any = {"policy": ACTOR, "sample_actions": False}
        folder = RunFolder(self.run_dir)
        return load_from(folder, "best", **options, allow=self._allow, maker=self._maker).agent

    def __repr__(self) -> str:
        return f"Run({str(self.run_dir)!r}, {self.summary.frames} frames)"


def train(
    env: Any = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    run_dir: str | Path | None = None,
) -> Run:
    """Train an agent in your environment, or resume its training.

    The same call resumes an interrupted run. A finished run is left alone unless `total_frames`
    grew. The global seeds of torch, NumPy and Python are set. Ctrl-C saves the run first.

    Args:
        env: A function that makes a new `gymnasium.Env` at each call, such as the class itself; or
            one environment, which is not closed and allows no evaluation; or a `VectorEnvs` (see
            `dreamer.envs.base`), or a function of `seed` and `count` that makes one. None:
            `overrides` choose an environment of conf/env.
        overrides: Keys of the configuration and their values, nested or dotted, as in
            `{"model": "tiny", "batch.size": 8, "replay": {"sampling": "steps"}}`. Defaults are
            those of conf/env/own.yaml, without W&B.
        run_dir: Folder of the run; None: runs/own/<task>/<variant>/seed<seed>.

    Raises:
        ValueError: An argument or a setting is not allowed; the message names it.
        FolderInUse: Another process is using the run folder.
        KeyboardInterrupt: On Ctrl-C; the run is saved and can be resumed.
        SystemExit: On SIGTERM; the run is saved and can be resumed.
        EnvironmentFault: The environment failed too often; the run is saved and can be resumed.
        NonFiniteError: A loss is not finite; the run is saved as it was before the update.
    """
    changes = dict(overrides or {})
    if run_dir is not None:
        changes["run_dir"] = str(run_dir)
    if env is None:
        cfg, maker = compose(DEFAULTS, changes), make_envs
    elif isinstance(changes.get("env"), str):
        raise ValueError(
            f"`env` must be given once, got an argument and the override {changes['env']}"
        )
    else:
        cfg = compose(DEFAULTS, {"env": "own"}, changes)
        maker = _maker_of(env, cfg)
    try:
        return Run(run(cfg, maker), code_of(cfg), None if env is None else maker)
    except Interrupted as stop:
        print(
            f"\nStopped by {stop}; everything is saved. Repeat the call to resume.", file=sys.stderr
        )
        if stop.signal_number == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + stop.signal_number) from None


def _maker_of(env: Any, cfg: DictConfig) -> EnvsMaker:
    """Enter the user's environment into the configuration; return a maker of groups of it."""
    if isinstance(env, gymnasium.Env):
        return _maker_of_instance(cfg, env, lambda: BorrowedEnv(env))
    if is_group(env) and not isinstance(env, type):
        return _maker_of_instance(cfg, env, lambda seed, count: BorrowedEnvs(env))
    if not callable(env):
        raise ValueError(
            "`env` must be a gymnasium.Env, a function that makes one, or a `VectorEnvs`, "
            f"got {env!r}"
        )
    cfg.env.factory = import_path(env)
    _set_task(cfg, env)
    return _maker(env)


def _maker_of_instance(cfg: DictConfig, env: Any, factory: Factory) -> EnvsMaker:
    """Use one existing environment; disable evaluation, which needs a second one."""
    if cfg.env.count != 1:
        raise ValueError(
            f"`env` must be a function that makes environments, because `env.count` is "
            f"{cfg.env.count}, got one environment: {env!r}"
        )
    if cfg.callbacks.evaluate:
        cfg.callbacks.evaluate = None
        print(NO_EVALUATION)
    _set_task(cfg, env)
    return _maker(factory)


def _maker(factory: Factory) -> EnvsMaker:
    def make(cfg: DictConfig, *, seed: int, count: int | None = None) -> VectorEnvs:
        options: Any = OmegaConf.to_container(cfg.env)
        for key in ("_target_", "_convert_", "task", "factory"):
            del options[key]
        return make_group_with(factory, **options | {"seed": seed, "count": count or cfg.env.count})

    return make


def _set_task(cfg: DictConfig, env: Any) -> None:
    if OmegaConf.is_missing(cfg, "task"):
        cfg.task = task_name(env, dict(cfg.env.kwargs))
