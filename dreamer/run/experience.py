"""Experience of an earlier run that a new run begins with: `data.prefill`.

`train.py` copies it into the new replay. It knows run folders, but not how steps are stored.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from dreamer.envs.base import VectorEnvs
from dreamer.envs.codecs import codec_of
from dreamer.replay.buffer import Replay, columns_of
from dreamer.replay.storage import Column
from dreamer.replay.stored import Plan, copy_episodes, plan_copy, read_replay
from dreamer.run.folder import RunFolder
from dreamer.run.paths import absolute


class Experience(NamedTuple):
    """The episodes of an earlier run that are to be copied."""

    source: Path
    plan: Plan
    headless: int  # steps without the start of their episode

    @property
    def numbers(self) -> dict[str, Any]:
        """The source and the size, for the run folder."""
        return {
            "source": str(self.source),
            "episodes": len(self.plan.episodes),
            "policy_steps": self.plan.policy_steps,
        }


def find_experience(cfg: DictConfig, folder: RunFolder, envs: VectorEnvs) -> Experience | None:
    """Choose the episodes of `data.prefill` to copy; None if it is null. Nothing is written.

    The run that they come from may be active. If the new replay is smaller, the newest are chosen.

    Raises:
        ValueError: There is no such run; it has no experience, or that of other observations or
            actions; a later version wrote it; or it has fewer episodes than environments here.
    """
    if cfg.data.prefill is None:
        return None
    source = Path(cfg.data.prefill)
    must = f"`data.prefill` must be the folder of an earlier run, got {source}"
    if not source.is_dir():
        raise ValueError(f"{must}, which {'is a file' if source.exists() else 'does not exist'}")
    if source == absolute(folder.path):
        raise ValueError(f"{must}, which is that of this run")
    earlier = RunFolder(source)
    try:
        if not _is_converted(earlier):
            earlier.config()
        stored = read_replay(earlier.replay)
    except (ValueError, OSError) as error:
        raise ValueError(f"{must}: {error}") from error
    if stored is None:
        raise ValueError(f"{must}, which has no experience in {earlier.replay.name}/")
    _check_columns(source, stored.columns, columns_of(envs.obs_shapes, envs.action_space.size))
    _check_actions(source, earlier, codec_of(envs).to_dict())
    per_environment = cfg.replay.capacity_policy_steps // envs.count
    plan = plan_copy(stored.episodes, per_environment * envs.count)
    if len(plan.episodes) < envs.count:
        raise ValueError(
            f"`data.prefill` must have an episode for each of the {envs.count} environments "
            "(`env.count`) that fits into `replay.capacity_policy_steps`, got "
            f"{len(plan.episodes)} in {source}"
        )
    return Experience(source, plan, stored.headless)


def _is_converted(folder: RunFolder) -> bool:
    """Whether `dreamer.data` wrote a folder: with a replay and its spaces, but without a run."""
    there = (folder.replay.is_dir(), (folder.path / "spaces.json").exists())
    return all(there) and not any(
        path.exists() for path in (folder.path / "config.yaml", folder.checkpoints)
    )


def copy_experience(
    experience: Experience, replay: Replay, env_count: int, check: Callable[[], None]
) -> dict[str, str]:
    """Copy the episodes into an empty replay, and return a line of the start-up summary.

    Args:
        experience: From `find_experience`.
        replay: Of the new run; these steps do not count as its frames or policy steps.
        env_count: Environments of the replay.
        check: May raise to stop the copy. The next start copies from the beginning.
    """
    source, plan, headless = experience
    print(f"Copying {plan.policy_steps:,} policy steps from {source}", flush=True)
    copied = copy_episodes(plan.episodes, replay, env_count=env_count, check=check)
    left_out = [
        f"{plan.too_old:,} older episodes (replay.capacity_policy_steps)" * bool(plan.too_old),
        f"{copied.lost_steps:,} steps at the ends of episodes" * bool(copied.lost_steps),
        f"{headless:,} steps of episodes without a start" * bool(headless),
    ]
    line = f"{copied.episodes:,} episodes with {copied.policy_steps:,} policy steps from {source}"
    if any(left_out):
        line += f"; left out: {', '.join(filter(None, left_out))}"
    return {"experience": line}


def _check_columns(source: Path, there: dict[str, Column], here: dict[str, Column]) -> None:
    """Check that the stored observations and actions are those of the new run."""
    names = {name: name.removeprefix("obs_") for name in there | here if name.startswith("obs_")}
    names["prev_action"] = "the action"
    differences = [
        f"{shown} (there {_column(there.get(name))}, here {_column(here.get(name))})"
        for name, shown in names.items()
        if there.get(name) != here.get(name)
    ]
    if differences:
        raise ValueError(
            "`data.prefill` must have the observations and actions of this run, got "
            f"{', '.join(differences)} in {source}"
        )


def _check_actions(source: Path, earlier: RunFolder, here: dict[str, Any]) -> None:
    """Check that actions of the same size are of the same kind; older runs do not tell."""
    spaces = earlier.spaces() or here
    if spaces["actions"] != here["actions"]:
        raise ValueError(
            "`data.prefill` must have the actions of this run, got there "
            f"{spaces['actions']}, here {here['actions']} in {source}"
        )


def _column(column: Column | None) -> str:
    if column is None:
        return "none"
    return " x ".join(map(str, column.shape)) + f" {column.dtype}"
