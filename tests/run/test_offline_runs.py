"""Runs that learn from stored data: without collection, without an environment, and beside one."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import dreamer
from dreamer.callbacks.interrupt import Interrupted
from dreamer.data.formats import convert
from dreamer.data.settings import DataSettings
from dreamer.replay.storage import peek
from dreamer.run.config import checked
from dreamer.run.evaluate import evaluate
from dreamer.run.train import train

OFFLINE = ("collect=none", "logger=[jsonl,csv]", "total_updates=6")
QUIET = ("callbacks.evaluate=null",)
SLOW = pytest.mark.slow


@pytest.fixture
def offline(compose_tiny, trained_run, tmp_path):
    """Compose a tiny run that learns from the replay of another one."""
    words = [*OFFLINE, f"data.train={trained_run}", f"run_dir={tmp_path}/new"]
    return lambda *overrides: compose_tiny(*words, *overrides)


@pytest.fixture
def absent(compose_any, trained_run, tmp_path):
    """The same, as if the environment were not installed."""
    words = [
        *("env=offline", "debug=fast", *OFFLINE, "callbacks.video=null"),
        *(f"data.train={trained_run}", f"root={tmp_path}", "callbacks.checkpoint.every_updates=2"),
    ]
    return lambda *overrides: compose_any(*words, f"run_dir={tmp_path}/new", *overrides)


def lines(run_dir):
    return [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]


def losses(run_dir):
    """The lines with losses, without what depends on the clock."""
    found = [line for line in lines(run_dir) if "world_model/loss" in line]
    return [{k: x for k, x in line.items() if not k.startswith("perf/")} for line in found]


def checkpoint(run_dir):
    return torch.load(Path(run_dir, "checkpoints", "last.ckpt"), weights_only=True)


def rows(directory, name):
    found = peek(Path(directory))
    assert found is not None
    return found.columns[name][0, found.oldest : found.steps]


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


# ------------------------------------------------------------------------------ without collection


@SLOW
def test_a_run_learns_from_another_ones_replay_and_counts_updates(offline, trained_run, capsys):
    before = {p: p.read_bytes() for p in trained_run.rglob("*") if p.is_file()}
    summary = train(offline("callbacks.metrics.every_updates=2"))
    assert {p: p.read_bytes() for p in trained_run.rglob("*") if p.is_file()} == before
    assert (summary.frames, summary.policy_steps, summary.updates) == (0, 0, 6)
    run_dir = Path(summary.run_dir)
    for name in ("obs_image", "reward", "prev_action", "is_first", "is_terminal"):
        assert (rows(run_dir / "replay", name) == rows(trained_run / "replay", name)).all()
    assert [line["updates"] for line in losses(run_dir)] == [2, 4, 6]
    assert not any("frames" in line or "perf/frames_per_second" in line for line in lines(run_dir))
    scores = [line for line in lines(run_dir) if "eval/return_mean" in line]
    assert [line["updates"] for line in scores] == [2, 4, 6]  # every 16 frames: two updates
    table = (run_dir / "metrics.csv").read_text().splitlines()
    assert table[0].startswith("updates,") and table[-1].startswith("6,")
    out = capsys.readouterr().out
    assert "6 updates of 4 x 16 steps from stored data" in out
    assert "Finished after" in out and "s: 6 updates, evaluation return" in out

    train(offline())
    assert "is finished: 6 updates. Nothing to do." in capsys.readouterr().out
    train(offline("total_updates=7"))
    assert "(resumed at update 6)" in capsys.readouterr().out
    assert dreamer.load(run_dir).frames == 0
    options = {"episodes": 1, "checkpoint": "last", "seed": 0, "sample_actions": False}
    scores = evaluate(run_dir, **options, video_policy_steps=4, video_fps=5)
    assert scores["returns"] and (scores["frames"], scores["updates"]) == (0, 7)
    assert Path(scores["video"]).name == "evaluation_0000000007.mp4"


@SLOW
@pytest.mark.parametrize("several", [False, True])
def test_an_interrupted_run_equals_an_uninterrupted_one(
    offline, trained_run, after_update, tmp_path, several
):
    """With evaluations and, in the middle of an interval, interruptions; bit by bit."""
    options = ["callbacks.metrics.every_updates=3"]
    if several:
        source = shutil.copytree(trained_run, tmp_path / "source")
        options += [
            f"data.train=[{{address:{trained_run},weight:2}},{{address:{source},weight:0.5}}]"
        ]
    whole = train(offline(*options, f"run_dir={tmp_path}/whole")).run_dir
    for updates in (1, 2, 5):
        with after_update(updates, interrupt), pytest.raises(Interrupted):
            train(offline(*options))
        if several and updates == 1:
            shutil.rmtree(source)  # a resumed run does not need it
    resumed = train(offline(*options)).run_dir
    a, b = checkpoint(whole), checkpoint(resumed)
    assert a["counters"] == b["counters"] == {"frames": 0, "policy_steps": 0, "updates": 6}
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(a[part], b[part], rtol=0, atol=0)
    assert a["ReplayDataModule"] == b["ReplayDataModule"]
    assert losses(whole) == losses(resumed)


@SLOW
@pytest.mark.parametrize("moment", ["copy", "update"])
def test_a_run_killed_at_any_moment_equals_an_uninterrupted_one(
    offline, after_update, monkeypatch, tmp_path, moment
):
    """What lies on the disk at that moment is what SIGKILL leaves behind."""
    from dreamer.replay.buffer import Replay

    copy, add, count = tmp_path / "copy", Replay.add, []

    def snapshot():
        shutil.copytree(tmp_path / "new", copy)

    def add_and_look(replay, step, prev_action):
        add(replay, step, prev_action)
        count.append(1)
        if moment == "copy" and len(count) == 20:
            snapshot()

    with monkeypatch.context() as patch, after_update(3 if moment == "update" else -1, snapshot):
        patch.setattr(Replay, "add", add_and_look)
        whole = train(offline()).run_dir
    resumed = train(offline(f"run_dir={copy}")).run_dir
    a, b = checkpoint(whole), checkpoint(resumed)
    torch.testing.assert_close(a["state_dict"], b["state_dict"], rtol=0, atol=0)
    assert a["ReplayDataModule"] == b["ReplayDataModule"]
    assert losses(whole) == losses(resumed)


@SLOW
def test_sources_give_their_share_of_every_batch(
    offline, trained_run, tmp_path, monkeypatch, capsys
):
    convert(str(trained_run), DataSettings(to=str(tmp_path / "files"), format="pydreamer"))
    seen = []
    from dreamer.replay.buffer import Replay

    sample = Replay.sample
    monkeypatch.setattr(
        Replay,
        "sample",
        lambda replay, size, length: (
            seen.append((replay._files.directory.name, size)) or sample(replay, size, length)
        ),
    )
    both = f"[{{address:{trained_run},weight:3}},{{address:{tmp_path}/files,weight:1}}]"
    summary = train(offline(f"data.train={both}", "total_updates=2", *QUIET))
    assert seen == [("0", 3), ("1", 1)] * 2
    assert f"GiB on disk when full, in {summary.run_dir}/stored\n" in capsys.readouterr().out
    a, b = (rows(Path(summary.run_dir, "stored", n), "reward") for n in "01")
    assert (a == b).all() and len(a) == len(rows(trained_run / "replay", "reward"))
    copied = json.loads(Path(summary.run_dir, "copied.json").read_text())
    assert copied["policy_steps"] == 2 * 81 and len(copied["source"]) == 2


def test_what_is_not_set_is_as_in_an_online_run(compose_tiny, trained_run):
    """An online run of the same length makes 6 updates."""
    cfg = checked(compose_tiny("collect=none", f"data.train={trained_run}", "total_updates=null"))
    assert cfg.total_updates == 6
    assert cfg.callbacks.metrics.every_updates == 1  # 8 frames
    assert cfg.callbacks.checkpoint.every_updates == 2
    preset = ("env=atari", "task=pong", "collect=none", f"data.train={trained_run}")
    cfg = checked(compose_tiny(*preset, "total_frames=1e6", "train_every_policy_steps=16"))
    assert cfg.total_updates == 1 + -(-(250_000 - 48 - 1) // 16) + 1
    assert cfg.callbacks.evaluate.every_updates == 1  # of 16 frames, less than an update


def test_schedules_move_as_in_an_online_run():
    from tiny import make_agent

    agent = make_agent()
    agent.updates, agent.steps_per_update = 7, 5
    assert agent.time == 35
    agent.policy_steps, agent.steps_per_update = 9, 0
    assert agent.time == 9


# ---------------------------------------------------------------------------- without environment


@SLOW
def test_a_run_without_an_environment_has_the_spaces_of_its_data(
    absent, trained_run, after_update, tmp_path
):
    with after_update(3, interrupt), pytest.raises(Interrupted):
        train(absent())
    summary = train(absent())
    run_dir = Path(summary.run_dir)
    assert summary.updates == 6
    assert checked(absent("run_dir=null")).task == "memory"  # of the run that the data are from
    spaces = [json.loads((x / "spaces.json").read_text()) for x in (run_dir, trained_run)]
    assert spaces[0] == spaces[1]
    agent = dreamer.load(run_dir)
    assert agent.policy(np.zeros((1, 64, 64), np.uint8))[0] in (0, 1)
    options = {"episodes": 1, "checkpoint": "last", "seed": 0, "sample_actions": False}
    with pytest.raises(ValueError, match="`env` must be an installed environment .* got offline"):
        evaluate(run_dir, **options, video_policy_steps=0, video_fps=5)


@SLOW
def test_images_of_files_get_the_size_that_agents_see(absent, write_files, tmp_path):
    """The authors' files of another size, with a vector."""
    write_files(tmp_path / "small", image=(8, 8, 3), vector=(5,))
    summary = train(absent(f"data.train={tmp_path}/small", "total_updates=1"))
    assert rows(Path(summary.run_dir, "replay"), "obs_image").shape[1:] == (3, 64, 64)
    agent = dreamer.load(summary.run_dir)
    observation = {"image": np.zeros((3, 64, 64), np.uint8), "vector": np.zeros(5)}
    assert agent.policy(observation)[0] in (0, 1)


@pytest.fixture
def write_files():
    """Write two episodes of twenty steps in the authors' format."""

    def write(folder, actions=2, action=None, drop=(), episodes=2, **shapes):
        folder.mkdir(exist_ok=True)
        n = 21
        for number in range(episodes):
            chosen = np.eye(actions, dtype=np.float32)[np.arange(n) % actions]
            arrays = {
                "is_first": np.arange(n) == 0,
                "is_last": np.arange(n) == n - 1,
                "is_terminal": np.arange(n) == n - 1,
                "reward": np.ones(n, np.float32),
                "action": chosen if action is None else np.full((n, actions), action, np.float32),
            }
            for name, shape in shapes.items():
                dtype = np.float32 if len(shape) == 1 else np.uint8
                arrays[name] = np.full((n, *shape), 7, dtype)
            arrays = {k: x for k, x in arrays.items() if k not in drop}
            np.savez(folder / f"20260101T0000{number:02}-{number:032x}-20.npz", **arrays)
        return folder

    return write


# ------------------------------------------------------------------------- foreign data, and errors


@SLOW
def test_foreign_names_are_renamed_and_what_is_not_needed_is_left_out(
    offline, write_files, tmp_path
):
    folder = write_files(tmp_path / "files", screen=(64, 64, 1), other=(3,))
    words = [f"data.train={folder}", "total_updates=1", *QUIET]
    with pytest.raises(ValueError, match=r"got screen \(there 1 x 64 x 64.*data.rename gives"):
        train(offline(*words))
    summary = train(offline(*words, "data.rename={screen:image}"))
    assert (rows(Path(summary.run_dir, "replay"), "obs_image") == 7).all()


IMPOSSIBLE = {
    "no such folder": ({}, "the address of stored episodes, got .*, which does not exist"),
    "empty": ({"episodes": 0}, "must hold episodes, got no files"),
    "rewards missing": ({"drop": ("reward",)}, "must have the arrays is_first, .*reward"),
    "another image": ({"image": (64, 64, 3)}, r"image \(there 3 x 64 x 64 uint8, here 1 x 64 x"),
    "another size of actions": ({"actions": 3}, r"the action \(there 3 numbers, here 2\)"),
    "numbers for choices": ({"action": 0.5}, "actions that choose one of 2 options, got numbers"),
}


@SLOW
@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_data_that_do_not_fit_are_refused_before_anything_is_written(
    offline, write_files, tmp_path, what
):
    changes, message = IMPOSSIBLE[what]
    folder = tmp_path / "files"
    if what != "no such folder":
        write_files(folder, **{"image": (64, 64, 1)} | changes)
    with pytest.raises(ValueError, match=f"`data.train` must .*{message}") as caught:
        train(offline(f"data.train={folder}"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


@SLOW
def test_shapes_that_differ_between_episodes_are_refused(offline, write_files, tmp_path):
    write_files(tmp_path / "files", image=(64, 64, 1))
    write_files(tmp_path / "files" / "below", image=(64, 64, 1), actions=3)
    with pytest.raises(ValueError, match="All episodes must have the same observations and act"):
        train(offline(f"data.train={tmp_path}/files"))


@SLOW
def test_choices_and_numbers_out_of_range_do_not_fit_continuous_actions(
    compose_tiny, write_files, tmp_path
):
    words = ("task=point", "collect=none", "total_updates=1", *QUIET)
    folder = write_files(tmp_path / "choices", vector=(4,))
    with pytest.raises(ValueError, match="actions that are 2 numbers, got choices among 2"):
        train(compose_tiny(*words, f"data.train={folder}"))
    folder = write_files(tmp_path / "large", vector=(4,), action=1.5)
    with pytest.raises(ValueError, match=r"must have actions in \[-1, 1\], got 1.5 to 1.5"):
        train(compose_tiny(*words, f"data.train={folder}"))
    folder = write_files(tmp_path / "fine", vector=(4,), action=0.5)
    assert train(compose_tiny(*words, f"data.train={folder}")).updates == 1


@SLOW
def test_missing_credentials_are_named(offline, monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="s3://bucket/data cannot be reached: ") as caught:
        train(offline("data.train='s3://bucket/data'"))
    assert "\n" not in str(caught.value)


@SLOW
def test_data_in_memory_are_read_by_their_address(offline, trained_run):
    convert(str(trained_run), DataSettings(to="memory://stored/files"))
    summary = train(offline("data.train='memory://stored/files'", "total_updates=1", *QUIET))
    assert (
        len(rows(Path(summary.run_dir, "replay"), "reward"))
        == len(rows(trained_run / "replay", "reward"))
    )  # fmt: skip


REFUSED = {
    "collect=none": "`data.train` must be the address .* with collect=none, got null",
    "data.train=x": "`data.train` must be null unless collect=none, got .*begins with data.prefill",
    "total_updates=3": "`total_updates` must be null unless collect=none, got 3: .*total_frames",
    "callbacks.metrics.every_updates=3": "every_updates` must be null unless collect=none, got 3",
    "data.mix=0.5": "`data.mix` must be null without data.prefill, got 0.5",
    "data.mix=1 data.prefill=x": r"`data.mix` must be a number in \(0, 1\) or null, got 1",
    "data.mix=0.5 data.prefill=x prefill_policy_steps=0": "at least 1 with data.mix, got 0",
    "data.rename={a:b}": "`data.rename` must be null without data.train or data.prefill",
    "data.rename={a:b,c:b} data.prefill=x": "`data.rename` must give different names, got b twice",
    "collect=none data.train=x data.prefill=y": "`data.prefill` must be null with collect=none",
    "collect=none data.train=x replay.store=y": "nothing is collected. The data stay at data.train",
    "collect=none data.train=[]": "`data.train` must be an address, .* got an empty list",
    "collect=none data.train=[x]": r"`data.train\[0\]` must be one of a list of mappings",
    "collect=none data.train=[{address:x,weight:0}]": "weight` must be a number above 0, got 0",
    "collect=none data.train=''": "`data.train` must be an address or null, got ''",
    "env=offline collect=local data.train=x": "`collect` must be none with env=offline, .* local",
}


@pytest.mark.parametrize("words", REFUSED)
def test_combinations_that_cannot_work_are_refused(compose_tiny, words):
    with pytest.raises(ValueError, match=REFUSED[words]):
        checked(compose_tiny(*words.split()))


def test_an_evaluation_that_is_asked_for_needs_an_environment(absent):
    cfg = absent()
    assert checked(cfg).callbacks.evaluate is None  # debug=fast has set a part of it
    cfg.callbacks.evaluate = {
        **{"_target_": "dreamer.callbacks.evaluate.Evaluate", "episodes": 1, "every_frames": 9},
        **{"video_policy_steps": 0, "video_fps": 9, "max_episode_policy_steps": 9},
    }
    with pytest.raises(ValueError, match="`callbacks.evaluate` must be null with env=offline"):
        checked(cfg)


# ------------------------------------------------------------------------------- beside a run's own


@SLOW
def test_a_mix_keeps_the_share_of_stored_data(
    compose_tiny, trained_run, tmp_path, monkeypatch, capsys
):
    from dreamer.replay.mixture import MixedReplay

    counts, draw = [], MixedReplay.counts
    monkeypatch.setattr(
        MixedReplay, "counts", lambda mix, size: counts.append(draw(mix, size)) or counts[-1]
    )
    options = (f"data.prefill={trained_run}", "data.mix=0.75", *QUIET, f"run_dir={tmp_path}/new")
    summary = train(compose_tiny(*options))
    assert (summary.frames, summary.updates) == (81, 6)
    assert counts == [[1, 3]] * 6
    assert f"in {tmp_path}/new/replay and {tmp_path}/new/stored\n" in capsys.readouterr().out
    stored = Path(summary.run_dir, "stored", "0")
    assert (rows(stored, "reward") == rows(trained_run / "replay", "reward")).all()
    own = peek(Path(summary.run_dir, "replay"))
    assert own is not None and own.columns["is_first"].shape[1] == 1001
    assert summary.metrics["replay/policy_steps"] == 2 * 81
    assert train(compose_tiny(*options, "total_frames=96")).updates == 8
    assert len(counts) == 8
