"""Training from a program, without knowing Hydra: `dreamer.train(env, overrides={...})`.

It composes the configuration, hands the program's environment to the runner, and gives back what
the run left behind. It reads no command line and leaves no state of Hydra's.
"""

import signal
import sys
from collections.abc import Mapping
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
    address_of,
    group_of,
    is_group,
    task_of,
)
from dreamer.inference import TrainedAgent
from dreamer.run.build import make_envs
from dreamer.run.compose import compose
from dreamer.run.load import load
from dreamer.run.train import EnvsMaker, Summary
from dreamer.run.train import train as run

if TYPE_CHECKING:
    import pandas

DEFAULTS = {"logger": ["jsonl", "tensorboard"]}  # W&B is for whoever asks for it
NO_EVALUATION = (
    "no evaluation: it plays in environments of its own. Give a function that makes one, such as "
    "`lambda: MyEnv()`, in place of an environment."
)


class Run:
    """What `train` left behind."""

    def __init__(self, summary: Summary):
        self.summary = summary
        self.run_dir = Path(summary.run_dir)

    @property
    def metrics(self) -> "pandas.DataFrame":
        """Every line of metrics.jsonl; `frames` is the clock, docs/logs.md explains the others.

        Raises:
            FileNotFoundError: the run was told to write none.
        """
        import pandas

        path = self.run_dir / "metrics.jsonl"
        if not path.exists():
            raise FileNotFoundError(f"There is no {path}: it takes `jsonl` among the `logger`s.")
        return pandas.read_json(path, lines=True)

    @cached_property
    def agent(self) -> TrainedAgent:
        """The trained agent, as `dreamer.load` gives it."""
        return load(self.run_dir)

    def __repr__(self) -> str:
        return f"Run({str(self.run_dir)!r}, {self.summary.frames} frames)"


def train(
    env: Any = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    run_dir: str | Path | None = None,
) -> Run:
    """Train an agent in an environment of yours, or go on with it.

    The same call again goes on with a run that was stopped, and leaves a finished one alone, unless
    `total_frames` grew. Torch's, NumPy's and Python's global seeds are set. Ctrl-C saves first.

    Args:
        env: A function that makes a `gymnasium.Env` each time it is called, such as the class
            itself; or one environment, which is then not closed, and leaves nothing to evaluate
            in. Or what follows the protocol `dreamer.envs.base.VectorEnvs`: such a group, or a
            function of `seed` and `count` that makes one. None: `overrides` name one of ours.
        overrides: Keys of the configuration and their values, nested or dotted, as in
            `{"model": "tiny", "batch.size": 8, "replay": {"sampling": "steps"}}`. Defaults are
            those of conf/env/own.yaml, without W&B.
        run_dir: Where the run lies; None: runs/own/<task>/<variant>/seed<seed>.

    Raises:
        ValueError: something cannot be; the message names it.
        FolderInUse: another process has the run.
        KeyboardInterrupt: Ctrl-C; the run is saved and can go on.
        SystemExit: SIGTERM; the same.
        EnvironmentFault: the environment failed too often; the run is saved and can go on.
        NonFiniteError: a loss is no longer a number; the run is saved as it was before.
    """
    changes = dict(overrides or {})
    if run_dir is not None:
        changes["run_dir"] = str(run_dir)
    if env is None:
        cfg, maker = compose(DEFAULTS, changes), make_envs
    elif isinstance(changes.get("env"), str):
        raise ValueError(f"Expect one environment, actually `env` and env={changes['env']}")
    else:
        cfg = compose(DEFAULTS, {"env": "own"}, changes)
        maker = _adopt(env, cfg)
    try:
        return Run(run(cfg, maker))
    except Interrupted as stop:
        print(f"\nStopped by {stop}; everything is saved. The same call goes on.", file=sys.stderr)
        if stop.signal_number == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + stop.signal_number) from None


def _adopt(env: Any, cfg: DictConfig) -> EnvsMaker:
    """Put the user's environment into the configuration; returns what makes groups of it."""
    if isinstance(env, gymnasium.Env):
        return _lend(cfg, env, lambda: BorrowedEnv(env))
    if is_group(env) and not isinstance(env, type):
        return _lend(cfg, env, lambda seed, count: BorrowedEnvs(env))
    if not callable(env):
        raise ValueError(
            "Expect `env` to be a function that makes a gymnasium.Env, such an environment, or an "
            f"`VectorEnvs`, actually: {env!r}"
        )
    cfg.env.factory = address_of(env)
    _name(cfg, env)
    return _maker(env)


def _lend(cfg: DictConfig, env: Any, factory: Factory) -> EnvsMaker:
    """One environment is all there is: a second one, to evaluate in, cannot be made."""
    if cfg.env.count != 1:
        raise ValueError(
            f"Expect a function that makes environments, for there are to be `env.count` "
            f"{cfg.env.count}, actually one environment: {env!r}"
        )
    if cfg.callbacks.evaluate:
        cfg.callbacks.evaluate = None
        print(NO_EVALUATION)
    _name(cfg, env)
    return _maker(factory)


def _maker(factory: Factory) -> EnvsMaker:
    def make(cfg: DictConfig, *, seed: int, count: int | None = None) -> VectorEnvs:
        options: Any = OmegaConf.to_container(cfg.env)
        for key in ("_target_", "_convert_", "task", "factory"):
            del options[key]
        return group_of(factory, **options | {"seed": seed, "count": count or cfg.env.count})

    return make


def _name(cfg: DictConfig, env: Any) -> None:
    if OmegaConf.is_missing(cfg, "task"):
        cfg.task = task_of(env, dict(cfg.env.kwargs))
