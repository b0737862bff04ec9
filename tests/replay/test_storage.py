import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamer.replay.buffer import Replay, ReplayConfig
from dreamer.replay.storage import Column, RingFiles

ROOT = Path(__file__).parents[2]
Usage = namedtuple("Usage", "total used free")

WRITER = """
import sys
from pathlib import Path
import numpy as np
from dreamer.replay.buffer import Replay, ReplayConfig
from dreamer.types import TimeStep

replay = Replay(
    Path(sys.argv[1]), obs_shapes={"image": (1, 64, 64), "vector": (3,)}, action_size=2,
    env_count=1, config=ReplayConfig(500, "steps", False), seed=0,
)
n = 0
while True:
    flags = {name: np.array([n % 11 == at]) for name, at in (("is_first", 0), ("is_last", 10))}
    obs = {"image": np.full((1, 1, 64, 64), n % 256, np.uint8)}
    obs["vector"] = np.full((1, 3), n, np.float32)
    reward = np.full(1, n, np.float32)
    step = TimeStep(obs, reward, is_terminal=flags["is_last"], **flags)
    replay.add(step, np.full((1, 2), n, np.float32))
    n += 1
    print(n, flush=True)
"""


def disk_blocks(directory: Path) -> int:
    return sum(512 * path.stat().st_blocks for path in directory.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("committed", [3, 1777])
def test_kill_9_loses_nothing_committed(tmp_path, committed):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "replay")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == committed:
                break
        writer.send_signal(signal.SIGKILL)
    replay = Replay(
        tmp_path / "replay",
        obs_shapes={"image": (1, 64, 64), "vector": (3,)},
        action_size=2,
        env_count=1,
        config=ReplayConfig(500, "steps", False),
        seed=0,
    )
    written = replay.state_dict()["steps"]
    oldest = max(0, written - 500)
    assert written >= committed
    batch = replay.sample(8000, 1)
    number = batch.reward[0].int()
    assert set(number.tolist()) == set(range(oldest, written))
    assert (batch.obs["image"][0].flatten(1) == (number % 256)[:, None]).all()
    assert (batch.obs["vector"][0] == number[:, None]).all()
    assert (batch.prev_action[0] == number[:, None]).all()
    assert (batch.is_terminal[0] == (number % 11 == 10)).all()


def test_a_step_half_written_never_counts(make_replay, make_world, monkeypatch):
    replay, world = make_replay(2, 2 * 40, "steps"), make_world(2)
    world.play(replay, 100)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RingFiles, "commit", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        replay.add(*world.step())
    world.roll_back(100)
    reopened = make_replay(2, 2 * 40, "steps")
    batch = reopened.sample(4000, 1)
    world.check(batch, 60, across_episodes=False)
    assert set(batch.obs["vector"][0, :, 1].int().tolist()) == set(range(60, 100))
    for _ in range(100):
        world.play(reopened, 1)
        world.check(reopened.sample(4, 3), world.steps - 40, across_episodes=False)


@pytest.mark.parametrize("cut_after", [0, 1])
def test_a_roll_back_cut_between_its_writes_shows_no_foreign_step(
    make_replay, make_world, tmp_path, cut_after
):
    """The two writes of the journal, in order, for a roll-back to nothing."""
    replay, world = make_replay(2, 2 * 40), make_world(2)
    world.play(replay, 100)
    journal = np.memmap(tmp_path / "replay" / "journal", np.int64, mode="r+")
    journal[1] = 70  # as an earlier roll-back leaves it
    for _ in range(cut_after):
        journal[0] = 0
    reopened = make_replay(2, 2 * 40)
    assert (reopened.policy_steps == 0) == bool(cut_after)
    if not cut_after:
        world.check(reopened.sample(50, 2), 70, across_episodes=False)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"obs_shapes": {"image": (3, 64, 64)}}, "columns must be .*3, 64, 64"),
        ({"action_size": 5}, "columns must be"),
        ({"env_count": 3}, "env_count must be 3, got 2"),
        ({"config": ReplayConfig(70, "steps", False)}, "capacity must be 35, got 20"),
    ],
)
def test_a_replay_of_another_layout_is_refused(tmp_path, changed, named):
    kind: dict[str, Any] = {
        "obs_shapes": {"image": (1, 64, 64)},
        "action_size": 4,
        "env_count": 2,
        "config": ReplayConfig(40, "steps", False),
        "seed": 0,
    }
    Replay(tmp_path / "replay", **kind)
    Replay(tmp_path / "replay", **kind)
    kind |= changed
    with pytest.raises(ValueError, match="has another layout: .*" + named):
        Replay(tmp_path / "replay", **kind)


def test_a_damaged_replay_is_refused(make_replay, make_world, tmp_path):
    directory, spare = tmp_path / "replay", tmp_path / "spare"
    make_world(3).play(make_replay(), 20)
    shutil.copytree(directory, spare)

    def damage(name: str, content: bytes | None, message: str):
        shutil.rmtree(directory)
        shutil.copytree(spare, directory)
        if content is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            make_replay()

    damage("reward", None, "damaged: its file reward must have 1,248 bytes, got 0")
    damage("reward", b"1234", "damaged: its file reward must have .* got 4")
    damage("journal", np.array([-5, 0]).tobytes(), "damaged: its journal")
    damage("layout.json", None, "without a readable layout.json")
    damage("layout.json", b"{", "without a readable layout.json")
    damage("layout.json", json.dumps([1]).encode(), "without a readable layout.json")


def test_what_is_stored_is_counted_without_a_change(make_replay, make_world, tmp_path):
    assert Replay.count_stored(tmp_path / "nowhere") == (0, 0)
    replay, world = make_replay(3, 33), make_world(3)  # the ring wraps
    directory = next(path.parent for path in tmp_path.rglob("journal"))
    assert Replay.count_stored(directory) == (0, 0)
    world.play(replay, 40)
    before = {path: path.read_bytes() for path in directory.iterdir()}
    assert Replay.count_stored(directory) == (int((~world.is_first).sum()), 3)
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
    replay.clear()
    assert Replay.count_stored(directory) == (0, 0)
    assert replay.policy_steps == replay.total_policy_steps == replay.episodes == 0
    world.roll_back(0)
    world.play(replay, 5)
    assert replay.total_policy_steps == int((~world.is_first).sum())


def test_size_is_told_before_anything_is_created(tmp_path):
    kind = {"obs_shapes": {"image": (1, 64, 64), "vector": (3,)}, "action_size": 4, "env_count": 2}
    config = ReplayConfig(1000, "episodes", False)
    size = Replay.size_on_disk(**kind, config=config)
    assert not any(tmp_path.iterdir())
    replay = Replay(tmp_path / "replay", **kind, config=config, seed=0)
    files = [path.stat().st_size for path in (tmp_path / "replay").iterdir()]
    assert replay.size_bytes == size
    assert 0 < sum(files) - size < 2000  # the journal and the layout


def test_too_small_a_disk_is_refused_before_anything_is_created(
    make_replay, make_world, tmp_path, monkeypatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 1234))
    with pytest.raises(
        OSError,
        match=r"replay must fit on the disk with 1,234 free bytes, got [\d,]+ more bytes when full"
        r".* replay.capacity_policy_steps=.* run_dir=",
    ):
        make_replay()
    assert not any(tmp_path.iterdir())


def test_what_the_replay_holds_already_counts_as_free_for_it(make_replay, make_world, monkeypatch):
    replay = make_replay(3, 3 * 2000)
    make_world(3).play(replay, 2001)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 4096))
    assert make_replay(3, 3 * 2000).policy_steps > 0


def test_a_nested_name_is_one_file_of_the_directory(tmp_path):
    column = {"obs_arm/joints": Column((3,), "float32")}
    for _ in range(2):  # made, and opened again
        files = RingFiles(tmp_path / "replay", column, env_count=1, capacity=5)
        assert files.columns["obs_arm/joints"].shape == (1, 6, 3)
    assert len(list((tmp_path / "replay").iterdir())) == 3  # with layout and journal


def test_memory_and_disk_grow_with_the_steps_not_with_the_capacity(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 10**12))
    resident = Path("/proc/self/statm")

    def resident_bytes() -> int:
        return int(resident.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident_bytes() if resident.exists() else 0
    replay = Replay(
        tmp_path / "replay",
        obs_shapes={"image": (1, 64, 64)},
        action_size=18,
        env_count=4,
        config=ReplayConfig(2_000_000, "episodes", False),
        seed=0,
    )
    assert replay.size_bytes > 8e9
    assert disk_blocks(tmp_path / "replay") < 1e6
    if resident.exists():
        assert resident_bytes() - before < 10e6
