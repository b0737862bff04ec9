"""Runs whose episodes and checkpoints are copied to an address, and that go on elsewhere."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from dreamer.agent import DreamerAgent
from dreamer.data import uploads
from dreamer.data.address import Place
from dreamer.data.formats import convert, summarize
from dreamer.data.settings import DataSettings
from dreamer.data.store import parse
from dreamer.replay.storage import peek
from dreamer.run import places
from dreamer.run.folder import RunFolder
from dreamer.run.train import train

pytestmark = pytest.mark.slow
QUIET = ("callbacks.evaluate=null", "callbacks.progress=null")
OWN = ("perf/", "store/", "mirror/")  # metrics that tell of the machine


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No long waits; `train` has bound the function that ends uploads."""
    monkeypatch.setattr(uploads, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(uploads, "LAST_DELAY", 0.02)
    wait = uploads.finish_uploads
    monkeypatch.setattr("dreamer.run.train.finish_uploads", lambda parts: wait(parts, 10.0))


@pytest.fixture(scope="module")
def stored(compose_any, tiny_words, tmp_path_factory):
    """A finished run of two environments, its store and its mirror; to be copied."""
    root = tmp_path_factory.mktemp("stored")
    words = [*tiny_words, *QUIET, f"root={root}/runs", *addresses(root), "total_frames=82"]
    train(compose_any(*words))
    return root


def addresses(root):
    return f"replay.store={root}/store", f"callbacks.checkpoint.mirror={root}/mirror"


@pytest.fixture
def moved(stored, tmp_path):
    """Its store and mirror, and no run folder: a new machine."""
    for name in ("store", "mirror"):
        shutil.copytree(stored / name, tmp_path / name)
    return tmp_path


def folder_of(root):
    return RunFolder(Path(root, "dummy", "memory", "debug", "seed0"))


def episodes_in(root):
    names = [parse(str(path)) for path in Path(root).rglob("*.npz")]
    assert all(names)
    return sorted(names, key=lambda name: (name.start, name.env))


def lines(root):
    text = (folder_of(root).path / "metrics.jsonl").read_text().splitlines()
    return [
        {key: x for key, x in json.loads(line).items() if not key.startswith(OWN)} for line in text
    ]


def last(root, prefix):
    line = (folder_of(root).path / "metrics.jsonl").read_text().splitlines()[-1]
    return {k.removeprefix(prefix): x for k, x in json.loads(line).items() if k.startswith(prefix)}


def at_update(monkeypatch, number, act):
    """Do something before an update."""
    step = DreamerAgent.training_step

    def training_step(agent, batch, batch_idx):
        if agent.updates == number:
            act()
        return step(agent, batch, batch_idx)

    monkeypatch.setattr(DreamerAgent, "training_step", training_step)


def test_every_episode_is_stored_and_the_run_is_mirrored(stored):
    found = episodes_in(stored / "store")
    assert [(x.env, x.start, x.policy_steps) for x in found][:3] == [
        (0, 0, 8),
        (0, 9, 8),
        (0, 18, 8),
    ]
    assert len({name.run for name in found}) == 1
    summary, walk = summarize(f"{stored}/store")
    assert (summary.steps, walk.skipped) == (82, {})
    # The last line is written while the last episodes are on their way.
    counts = last(stored / "runs", "store/")
    assert counts["written"] + counts["waiting"] >= summary.episodes - 1
    assert (counts["dropped"], counts["failed"]) == (0, 0)
    run, copy = folder_of(stored / "runs"), folder_of(stored / "mirror")
    for name in (
        "config.yaml",
        "spaces.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints/last.ckpt",
    ):
        assert (copy.path / name).read_bytes() == (run.path / name).read_bytes()
    assert copy.previous.exists()
    names = {path.name for path in run.checkpoints.iterdir()}
    assert names == {"last.ckpt", "previous.ckpt", "config.yaml", "spaces.json"}


def test_a_run_goes_on_exactly_on_another_machine(stored, moved, compose_tiny, capsys):
    shutil.copytree(stored / "runs", moved / "here")
    train(compose_tiny(*QUIET, f"root={moved}/here", "total_frames=120"))
    capsys.readouterr()
    words = (*QUIET, f"root={moved}/there", *addresses(moved), "total_frames=120")
    train(compose_tiny(*words))
    out = capsys.readouterr().out
    assert "Fetching the run from" in out and "resumed at frame 82" in out
    assert "93 of 93 steps of the checkpoint" in out
    assert lines(moved / "there") == lines(moved / "here")
    replays = [peek(folder_of(moved / name).replay) for name in ("here", "there")]
    for one, other in zip(*(x.columns.items() for x in replays if x), strict=True):
        np.testing.assert_array_equal(one[1][:, :138], other[1][:, :138], err_msg=one[0])
    # The store has the rest of the run, too, nothing twice.
    found = episodes_in(moved / "store")
    assert sum(name.policy_steps for name in found) == 120
    assert len({name.key for name in found}) == len(found)
    assert summarize(f"{moved}/store")[0].steps == 120
    # Nothing is fetched where the run is already.
    train(compose_tiny(*words))
    assert "is finished" in capsys.readouterr().out


def test_a_finished_run_is_not_repeated_on_another_machine(moved, compose_tiny, capsys):
    summary = train(
        compose_tiny(*QUIET, f"root={moved}/there", *addresses(moved), "total_frames=82")
    )
    assert "is finished: 82 frames" in capsys.readouterr().out
    assert summary.updates == 7


def test_a_run_goes_on_with_what_the_store_has(moved, compose_tiny, capsys):
    paths = sorted((moved / "store").rglob("*.npz"))
    paths[-1].unlink()
    paths[2].write_bytes(b"broken")
    words = (*QUIET, f"root={moved}/there", *addresses(moved))
    with pytest.warns(UserWarning, match="The store has 81 of the 93 steps that the replay held"):
        train(compose_tiny(*words, "total_frames=90"))
    out = capsys.readouterr().out
    assert f"1 files are broken, {paths[2].name}" in out
    # From its own disk it goes on as usual, and as numbered in the whole run.
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(compose_tiny(*words, "total_frames=106"))
    found = episodes_in(moved / "store")
    new = [name for name in found if name.start >= 93]
    assert new[0].start == 93 and sum(name.policy_steps for name in new) == 106 - 82
    assert len({name.run for name in found}) == 1


def test_without_any_episode_the_run_cannot_go_on(moved, compose_tiny):
    shutil.rmtree(moved / "store")
    words = (*QUIET, f"root={moved}/there", *addresses(moved), "total_frames=90")
    with pytest.raises(ValueError, match="`replay.store` must hold the episodes of the run"):
        train(compose_tiny(*words))
    assert not folder_of(moved / "there").replay.exists()


def test_several_environments_go_on(compose_tiny, tmp_path, capsys):
    words = (*QUIET, "env.count=3", *addresses(tmp_path))
    train(compose_tiny(*words, f"root={tmp_path}/a"))
    summary = train(compose_tiny(*words, f"root={tmp_path}/b", "total_frames=100"))
    assert "steps of the checkpoint, in" in capsys.readouterr().out
    assert summarize(f"{tmp_path}/store")[0].steps == summary.policy_steps


def test_streams_start_anew_if_steps_are_missing(compose_tiny, tmp_path):
    words = (*QUIET, "replay/sampling=sequential", "replay.carry_state=true", *addresses(tmp_path))
    words = (*words, "replay.across_episodes=false", "batch.length=4")
    train(compose_tiny(*words, f"root={tmp_path}/a"))
    next(iter(sorted((tmp_path / "store").rglob("*.npz")))).unlink()
    with pytest.warns(UserWarning, match="of the 92 steps"):
        summary = train(compose_tiny(*words, f"root={tmp_path}/b", "total_frames=100"))
    assert summary.frames == 100


def test_a_resumed_run_stores_what_the_last_process_could_not(stored, compose_tiny, tmp_path):
    for name in ("runs", "store"):
        shutil.copytree(stored / name, tmp_path / name)
    gone = sorted((tmp_path / "store").rglob("*.npz"))[3:6]
    keys = {name.key for name in map(parse, map(str, gone)) if name}
    for path in gone:
        path.unlink()
    words = (f"root={tmp_path}/runs", f"replay.store={tmp_path}/store", "total_frames=90")
    train(compose_tiny(*QUIET, *words))
    found = episodes_in(tmp_path / "store")
    assert keys <= {name.key for name in found}
    assert len({name.key for name in found}) == len(found)


def test_experience_of_an_earlier_run_is_stored_too(trained_run, compose_tiny, tmp_path):
    words = (
        f"data.prefill={trained_run}",
        f"replay.store={tmp_path}/store",
        "prefill_policy_steps=0",
    )
    train(compose_tiny(*QUIET, *words, "total_frames=25"))
    assert summarize(f"{tmp_path}/store")[0].steps == 81 + 25


def test_a_run_with_mixed_data_stores_its_own_episodes_and_goes_on_elsewhere(
    trained_run, compose_tiny, tmp_path, capsys
):
    mixed = (*QUIET, "variant=debug", f"data.prefill={trained_run}", "data.mix=0.5")
    words = (*mixed, "total_frames=82")
    train(compose_tiny(*words, *addresses(tmp_path), f"root={tmp_path}/there"))
    assert summarize(f"{tmp_path}/store")[0].steps == 82
    shutil.copytree(tmp_path / "there", tmp_path / "here")
    shutil.rmtree(tmp_path / "there")
    longer = (*mixed, "total_frames=106")
    train(compose_tiny(*longer, f"root={tmp_path}/here"))
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(compose_tiny(*longer, *addresses(tmp_path), f"root={tmp_path}/there"))
    out = capsys.readouterr().out
    assert "93 of 93 steps of the checkpoint" in out
    assert f"episodes with 81 policy steps from {trained_run}" in out
    assert lines(tmp_path / "there") == lines(tmp_path / "here")
    assert sum(name.policy_steps for name in episodes_in(tmp_path / "store")) == 106


@pytest.mark.parametrize("changed", [False, True])
def test_a_run_that_collects_nothing_goes_on_elsewhere_with_its_data(
    trained_run, compose_tiny, tmp_path, changed
):
    """An address that has other data by then is a warning."""
    data = shutil.copytree(trained_run / "replay", tmp_path / "data" / "replay").parent
    words = (*QUIET, "variant=debug", "collect=none", f"data.train={data}", "total_updates=2")
    mirrored = (*words, f"callbacks.checkpoint.mirror={tmp_path}/mirror")
    train(compose_tiny(*mirrored, f"root={tmp_path}/there"))
    shutil.copytree(tmp_path / "there", tmp_path / "here")
    shutil.rmtree(tmp_path / "there")
    train(compose_tiny(*words, f"root={tmp_path}/here", "total_updates=4"))
    words = (*mirrored, f"root={tmp_path}/there", "total_updates=4")
    if changed:
        convert(str(data), DataSettings(to=str(tmp_path / "files")))
        shutil.rmtree(data / "replay")
        for path in sorted((tmp_path / "files").glob("*.npz"))[:2]:
            shutil.copy(path, data)
        with pytest.warns(UserWarning, match="data has 18 steps, and had 92 when the run began"):
            train(compose_tiny(*words))
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(compose_tiny(*words))
    assert lines(tmp_path / "there") == lines(tmp_path / "here")


def test_runs_may_share_a_store(compose_tiny, tmp_path):
    words = (*QUIET, f"replay.store={tmp_path}/store", "total_frames=50")
    train(compose_tiny(*words, f"run_dir={tmp_path}/a"))
    train(compose_tiny(*words, f"run_dir={tmp_path}/b"))
    found = episodes_in(tmp_path / "store")
    assert len({name.run for name in found}) == 2
    assert sum(name.policy_steps for name in found) == 2 * 50


def test_the_mirror_of_another_run_is_refused(moved, compose_tiny):
    before = {path: path.read_bytes() for path in (moved / "mirror").rglob("*") if path.is_file()}
    words = (*QUIET, f"root={moved}/there", f"callbacks.checkpoint.mirror={moved}/mirror")
    with pytest.raises(ValueError, match=r"mirror` must be an address of this run .*batch\.size"):
        train(compose_tiny(*words, "batch.size=5"))
    assert not (moved / "there").exists()
    assert before == {p: p.read_bytes() for p in (moved / "mirror").rglob("*") if p.is_file()}


def test_an_interrupted_fetch_begins_again(moved, compose_tiny, monkeypatch):
    words = (*QUIET, f"root={moved}/there", *addresses(moved), "total_frames=90")
    download = Place.download

    def fail(place, name, file):
        if name == "checkpoints/last.ckpt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        download(place, name, file)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "download", fail)
        with pytest.raises(OSError, match="No space left"):
            train(compose_tiny(*words))
    assert not folder_of(moved / "there").is_saved
    assert train(compose_tiny(*words)).updates == 8


def test_an_interrupted_refill_begins_again(moved, compose_tiny, monkeypatch):
    from dreamer.callbacks.interrupt import Interrupted
    from dreamer.replay.buffer import Replay

    words = (*QUIET, f"root={moved}/there", *addresses(moved), "total_frames=90")
    add, count = Replay.add, []

    def add_and_interrupt(replay, step, prev_action):
        add(replay, step, prev_action)
        count.append(1)
        if len(count) == 40:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Replay, "add", add_and_interrupt)
        with pytest.raises(Interrupted):
            train(compose_tiny(*words))
    assert train(compose_tiny(*words)).updates == 8
    assert sum(name.policy_steps for name in episodes_in(moved / "store")) == 90


def test_a_full_disk_stops_nothing_and_is_made_up_for(compose_tiny, tmp_path, monkeypatch):
    write, full = Path.write_bytes, [True]

    def write_or_fail(path, content):
        if full and "store" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_or_fail)
    at_update(monkeypatch, 4, full.clear)
    with pytest.warns(UserWarning) as caught:
        train(compose_tiny(*QUIET, f"replay.store={tmp_path}/store"))
    texts = [str(one.message) for one in caught if "episodes" in str(one.message)]
    assert len(texts) == 1 and f"{tmp_path}/store" in texts[0] and "No space left" in texts[0]
    assert sum(name.policy_steps for name in episodes_in(tmp_path / "store")) == 81
    assert last(tmp_path, "store/")["failed"] >= 1
    assert not list((tmp_path / "store").rglob(".*"))


@pytest.mark.long
def test_a_disk_that_is_really_full(compose_tiny, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        grow = ["mount", "-o", "remount,size=10m", str(disk)]
        at_update(monkeypatch, 4, lambda: subprocess.run(grow, check=True))
        with pytest.warns(UserWarning, match="No space left on device"):
            train(compose_tiny(*QUIET, *addresses(disk)))
        assert sum(name.policy_steps for name in episodes_in(disk / "store")) == 81
        assert folder_of(disk / "mirror").last.exists()
        assert last(tmp_path, "store/")["failed"] >= 1
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_server_that_is_killed_and_started_again(compose_tiny, tmp_path, monkeypatch, s3):
    """It forgets what it had; all that comes later arrives, and the run goes on elsewhere."""
    words = (
        *QUIET,
        "replay.store=s3://bucket/runs",
        "callbacks.checkpoint.mirror=s3://bucket/runs",
    )
    s3.kill()
    with pytest.raises(OSError, match="must be reachable at the start of a run"):
        train(compose_tiny(*words, f"root={tmp_path}/a"))
    at_update(monkeypatch, 4, s3.start)
    with pytest.warns(UserWarning, match="s3://bucket/runs.*cannot be reached"):
        train(compose_tiny(*words[:-1], f"root={tmp_path}/a"))
    assert summarize("s3://bucket/runs")[0].steps == 81


def test_an_address_of_both_is_asked_once(compose_tiny, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(places, "check_place", lambda key, place: asked.append(key) or False)
    folder = RunFolder(tmp_path / "run", "tiny")
    here, there = (f"{tmp_path}/{name}" for name in ("here", "there"))
    words = (f"replay.store={here}", f"callbacks.checkpoint.mirror={here}")
    found = places.find_places(compose_tiny(*words), folder)
    assert found.store == found.mirror and not found.mirror_answers
    assert asked == ["replay.store` and `callbacks.checkpoint.mirror"]
    places.find_places(compose_tiny(words[0], f"callbacks.checkpoint.mirror={there}"), folder)
    assert asked[1:] == ["replay.store", "callbacks.checkpoint.mirror"]
    found = places.find_places(compose_tiny(words[0]), folder)
    assert found.mirror is None and found.mirror_answers


def test_a_server_that_does_not_answer_delays_only_the_end(compose_tiny, tmp_path, monkeypatch, s3):
    wait = uploads.finish_uploads
    monkeypatch.setattr("dreamer.run.train.finish_uploads", lambda parts: wait(parts, 0.5))
    at_update(monkeypatch, 1, lambda: s3.send(signal.SIGSTOP))
    try:
        start = time.monotonic()
        with pytest.warns(UserWarning, match="episodes did not reach s3://bucket/runs.* in time"):
            train(compose_tiny(*QUIET, "replay.store=s3://bucket/runs"))
        assert time.monotonic() - start < 60  # each episode would take 15 s or more
    finally:
        s3.send(signal.SIGCONT)
    assert last(tmp_path, "store/")["waiting"] >= 1
