"""The addresses of a run: where its episodes and its checkpoints are copied, and the way back.

`train.py` uses it: before anything is built it finds the places, and fetches a run folder whose
machine is lost; later it fills the replay. It knows run folders and names, but no file formats.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from dreamer.callbacks.mirror import CHECKPOINTS, FILES
from dreamer.checkpoint_file import PREVIOUS
from dreamer.data.address import Place, Unreachable, find
from dreamer.data.store import FoundEpisodes, find_episodes
from dreamer.data.uploads import check_place
from dreamer.replay.buffer import Replay
from dreamer.replay.storage import peek
from dreamer.replay.stored import copy_episodes, count_too_old
from dreamer.run.folder import ResumePoint, RunFolder, differences, relative_path

STORE, MIRROR = "replay.store", "callbacks.checkpoint.mirror"
STATES = ("best.ckpt", "last.ckpt", PREVIOUS)  # in the order in which they are fetched


class Places(NamedTuple):
    """Where a run is copied; each is a folder of this run below the address that is configured."""

    store: Place | None
    mirror: Place | None
    mirror_answers: bool = True


class Refill(NamedTuple):
    """The episodes with which the replay of a resumed run is filled anew."""

    place: Place
    found: FoundEpisodes
    steps: int  # per environment at the checkpoint
    held: int  # of these, those that the replay held
    env_count: int


def find_places(cfg: DictConfig, folder: RunFolder) -> Places:
    """Find the places of a run, and check before work starts that they can be used.

    Raises:
        ValueError: An address is not valid, or refuses this program.
        ImportError: A package for an address is missing; the error names the requirements.
    """
    addresses = {
        STORE: cfg.replay.get("store"),
        MIRROR: cfg.callbacks.checkpoint.get("mirror"),
    }
    found = {key: _find(key, address) for key, address in addresses.items() if address is not None}
    answers = {}
    for address in dict.fromkeys(addresses[key] for key in found):  # each is asked once
        keys = [key for key in found if addresses[key] == address]
        answers[address] = check_place("` and `".join(keys), found[keys[0]])
    part = relative_path(cfg, folder.variant)
    folders = {key: place.folder(part) for key, place in found.items()}
    return Places(folders.get(STORE), folders.get(MIRROR), answers.get(addresses[MIRROR], True))


def _find(key: str, address: str) -> Place:
    try:
        return find(address)
    except ValueError as error:
        raise ValueError(f"`{key}`: {error}") from error
    except ImportError as error:
        raise ImportError(f"`{key}`: {error}") from error


def restore(cfg: DictConfig, folder: RunFolder, places: Places) -> None:
    """Fetch a run folder from its mirror if it has no checkpoint, and the mirror has.

    Raises:
        ValueError: The mirror holds a run of another configuration.
        OSError: The mirror cannot be read, and the folder has no checkpoint.
    """
    mirror = places.mirror
    has_run = folder.is_saved
    if mirror is None or (has_run and not places.mirror_answers):
        return
    try:
        there = _config_at(mirror)
    except FileNotFoundError:
        return
    except Unreachable as error:
        if has_run:
            return
        raise Unreachable(
            f"{error}. `{MIRROR}` must be reachable at the start of a run whose folder has no "
            "checkpoint: the run may be there. Repeat the command later."
        ) from error
    if different := differences(there, cfg):
        raise ValueError(
            f"`{MIRROR}` must be an address of this run or of none, got {mirror.address}, which "
            f"holds a run that is different in {', '.join(different)}"
        )
    if not has_run:
        _fetch(folder, mirror)


def _config_at(place: Place) -> DictConfig:
    with tempfile.TemporaryDirectory() as there:
        place.download(FILES[0], Path(there, FILES[0]))
        return RunFolder(there).config()


def _fetch(folder: RunFolder, mirror: Place) -> None:
    """Download everything; a fetch that is interrupted begins again."""
    present = [name for name in STATES if mirror.exists(f"{CHECKPOINTS}/{name}")]
    if not set(present) - {"best.ckpt"}:
        return
    with folder.lock():
        if folder.is_saved:
            return  # another process has fetched it
        print(f"Fetching the run from {mirror.address}", flush=True)
        folder.begun = True  # what is fetched stays
        for name in FILES:
            if mirror.exists(name):
                mirror.download(name, folder.path / name)
        for name in present:
            mirror.download(f"{CHECKPOINTS}/{name}", folder.checkpoints / name)


def find_refill(
    store: Place, folder: RunFolder, resume: ResumePoint, *, env_count: int, capacity: int
) -> Refill | None:
    """Find the episodes that the replay of a resumed run lacks; None if it has its steps.

    Args:
        store: Of the run.
        folder: Of the run; its replay may be missing.
        resume: The checkpoint.
        env_count: Environments of the replay.
        capacity: Of the replay, in steps of all environments together.

    Raises:
        ValueError: There are no episodes, or fewer than environments.
        OSError: The store cannot be read.
    """
    state: dict[str, Any] = folder.read_intact(resume.path)[1]
    replay = state["ReplayDataModule"]
    replay = replay.get("parts", [replay])[0]  # its own, with data.mix
    stored = peek(folder.replay)
    if stored is not None and stored.steps >= replay["steps"]:
        return None
    written = state["callbacks"].get("Store")
    if written is None:  # the run had no store
        return None
    steps, held = replay["steps"], replay["steps"] - replay["oldest"]
    found = find_episodes(store, written["run"], steps + written["offset"])
    lengths = [episode.length for episode in found.episodes]
    episodes = found.episodes[count_too_old(lengths, capacity // env_count * env_count) :]
    if len(episodes) < env_count:
        raise ValueError(
            f"`{STORE}` must hold the episodes of the run, because {folder.replay} does not, got "
            f"{len(found.episodes)} in {store.address}"
        )
    return Refill(store, found._replace(episodes=episodes), steps, held, env_count)


def refill(plan: Refill, replay: Replay, check: Callable[[], None]) -> str:
    """Fill an empty replay, and return a line of the start-up summary.

    Args:
        plan: From `find_refill`.
        replay: Of the run.
        check: May raise to stop. The next start begins again.
    """
    print(f"Filling the replay from {plan.place.address}", flush=True)
    copied = copy_episodes(plan.found.episodes, replay, env_count=plan.env_count, check=check)
    rows, expected = replay.steps * plan.env_count, plan.held * plan.env_count
    # With one environment all steps have the numbers that they had; its streams go on.
    replay.is_refilled = plan.env_count > 1 or replay.steps != plan.steps
    line = (
        f"{rows:,} of {expected:,} steps of the checkpoint, in {copied.episodes:,} episodes from "
        f"{plan.place.address}"
    )
    if plan.found.broken:
        name, reason = next(iter(plan.found.broken.items()))
        line += f"; {len(plan.found.broken):,} files are broken, {name}: {reason}"
    if rows < expected:
        warnings.warn(
            f"The store has {rows:,} of the {expected:,} steps that the replay held at the "
            "checkpoint. The run continues with these.",
            stacklevel=2,
        )
    return line
