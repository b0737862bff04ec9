"""The streams of `replay.sampling=sequential`, with the draws of PyDreamer's."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from golden import Case, golden
from hydra import compose, initialize_config_dir

from dreamer.replay.buffer import Replay, ReplayConfig
from dreamer.run.build import make_replay_config
from dreamer.types import TimeStep

CONF = str(Path(__file__).parents[2] / "conf")
WHOLE = 10**6  # more steps than there are: what an environment holds is one piece


class Recorded:
    """The draws of one stream, in the order of the file; they must be possible here, too."""

    def __init__(self, arrays: dict[str, np.ndarray], files: int):
        self._left = {name: iter(x.tolist()) for name, x in arrays.items()}
        self._files = files

    def piece(self, count: int) -> int:
        assert count == self._files
        return next(self._left["file"])

    def offset(self, count: int) -> int:
        return self._below(count, "skip")

    def intervals(self, most: int) -> int:
        return 1 + self._below(most, "n_intervals", shift=-1)

    def cuts(self, stop: int, count: int) -> np.ndarray:
        return np.array([self._below(stop, "boundaries") for _ in range(count)])

    def _below(self, stop: int, name: str, shift: int = 0) -> int:
        drawn = next(self._left[name]) + shift
        assert 0 <= drawn < stop
        return drawn


def config_of(case: Case, capacity: int) -> ReplayConfig:
    """The replay as a run would configure it."""
    keys = case.parameters
    settings = {
        "capacity_policy_steps": capacity,
        "sampling.skip_first": keys["skip_first"],
        "sampling.allow_mid_reset": keys["allow_mid_reset"],
        "sampling.reset_interval": keys["reset_interval"],
        "sampling.newest_policy_steps": keys["buffer_size"],
        "sampling.piece_policy_steps": WHOLE,
    }
    words = ["task=pong", "replay/sampling=sequential"]
    words += [f"replay.{key}={value}" for key, value in settings.items()]
    with initialize_config_dir(CONF, version_base="1.3"):
        return make_replay_config(compose("train", words))


def fill(replay: Replay, files: list[dict[str, np.ndarray]]) -> None:
    """Store each file in an environment of its own, the oldest (last) first.

    All environments step together. So there is an episode before each file and one after it. The
    ring drops the start of the former, and the latter goes on; neither is complete.
    """
    action, vecobs = (np.zeros_like(files[0][name][0]) for name in ("action", "vecobs"))
    padding = {"action": action, "vecobs": vecobs, "reward": 0.0, "reset": False, "terminal": False}
    owners = [(None, 0)]  # of every step: the file and the row
    for number in reversed(range(len(files))):
        owners += [(number, row) for row in range(len(files[number]["reset"]))]
    ended = [True] * len(files)
    for owner, row in owners:
        rows = [padding] * len(files)
        is_last = [False] * len(files)
        if owner is not None:
            file = files[owner]
            rows[owner] = {name: x[row] for name, x in file.items()}
            is_last[owner] = row + 1 == len(file["reset"]) or bool(file["reset"][row + 1])
            ended[owner] |= row == 0
        column = {name: np.stack([x[name] for x in rows]) for name in padding}
        step = TimeStep(
            {"vecobs": column["vecobs"]},
            column["reward"].astype(np.float32),
            column["reset"] | ended,
            np.array(is_last),
            column["terminal"],
        )
        replay.add(step, column["action"].astype(np.float32))
        ended = is_last


@golden("28_*")
def test_streams_give_the_batches_of_pydreamer(case: Case):
    names = case.golden.meta["files"]
    files = [case.under(f"in/file{number}") for number in range(len(names))]
    rows = [len(file["reset"]) for file in files]
    used = case.parameters["files_used"]
    assert used == [file["name"] for file in names[: len(used)]]
    with TemporaryDirectory() as folder:
        replay = Replay(
            Path(folder, "replay"),
            obs_shapes={"vecobs": files[0]["vecobs"].shape[1:]},
            action_size=files[0]["action"].shape[1],
            env_count=len(files),
            config=config_of(case, len(files) * sum(rows)),
            seed=0,
        )
        fill(replay, files)
        batches = sample(case, replay, len(used))

        ends = 1 + np.cumsum(rows[::-1])[::-1]  # step after each file; the oldest is the last
        actions = replay._files.columns["prev_action"]  # the ring has not wrapped at these steps
        for batch, (env, step) in batches:
            following = step + 1
            inside = following < ends[env]
            action_next = actions[env, np.where(inside, following % replay._files.slots, 0)]
            batch["action_next"] = torch.from_numpy(action_next * inside[..., None])
    case.check_all("out", {k: torch.stack([x[k] for x, _ in batches]) for k in batches[0][0]})


def sample(case: Case, replay: Replay, files: int):
    """Sample all batches: their arrays by PyDreamer's names, and where they come from."""
    length, size = case.parameters["batch_length"], case.parameters["batch_size"]
    streams = [Recorded(case.under(f"draw/stream{n}"), files) for n in range(size)]
    order = iter(range(10**9))
    sampler: Any = replay._sampler
    sampler.make_draws = lambda generator: streams[next(order) % size]
    found = []
    next_batch = sampler.next_batch

    def keep(*args):
        found.append(next_batch(*args))
        return found[-1]

    sampler.next_batch = keep
    batches = []
    for _ in range(case.parameters["batches"]):
        batch = replay.sample(size, length)
        arrays = {
            "action": batch.prev_action,
            "reset": batch.is_first,
            "reward": batch.reward,
            "terminal": batch.is_terminal,
            "vecobs": batch.obs["vecobs"],
        }
        batches.append((arrays, (found[-1].env, found[-1].step)))
    return batches
