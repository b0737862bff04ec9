"""The run folder: its name, whose it is, and what may lie in it."""

import fcntl
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import socket
import sys
import threading
from collections import namedtuple

import pytest
import torch
from filelock import lock_descriptor, unlock_descriptor
from omegaconf import OmegaConf

from dreamer.callbacks.interrupt import Interrupted
from dreamer.checkpoint_file import read_checkpoint
from dreamer.envs.dummy import MemoryEnvs
from dreamer.replay.buffer import Replay
from dreamer.run.config import checked
from dreamer.run.folder import FolderInUse, RunFolder
from dreamer.run.migrate import FORMAT
from dreamer.run.train import train

SWITCHES = {
    "kl_balance": (True, False, 0.3),
    "image_gradients": (True, False),
    "reward_gradients": (True, False),
    "layer_norm": (True, False),
    "actor_gradient": ("auto", "reinforce", "dynamics", "both"),
    "collect_policy": ("actor", "random"),
}


@pytest.fixture
def folder_name(compose_any):
    """The folder of a configuration, without its root."""

    def name(*overrides):
        path = RunFolder.of(compose_any("root=top", *overrides)).path
        return path.relative_to(os.getcwd()).as_posix()

    return name


# ------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("task=pong", "top/atari/pong/dreamerv2/seed0"),
        ("task=pong seed=3", "top/atari/pong/dreamerv2/seed3"),
        ("env=dummy task=memory", "top/dummy/memory/tiny/seed0"),
        ("task=pong kl_balance=false", "top/atari/pong/dreamerv2-kl_balance_false/seed0"),
        ("task=pong kl_balance=0.3", "top/atari/pong/dreamerv2-kl_balance_0.3/seed0"),
        ("task=pong latents=gaussian", "top/atari/pong/dreamerv2-latents_gaussian/seed0"),
        ("task=pong experiment=no_kl_balancing", "top/atari/pong/no_kl_balancing/seed0"),
        ("task=pong experiment=no_discrete_latents", "top/atari/pong/no_discrete_latents/seed0"),
        (
            "task=pong experiment=no_kl_balancing kl_balance=true",
            "top/atari/pong/no_kl_balancing-kl_balance_true/seed0",
        ),
        (
            "task=pong experiment=no_discrete_latents layer_norm=false",
            "top/atari/pong/no_discrete_latents-layer_norm_false/seed0",
        ),
        ("task=pong kl_balance=false run_dir=here", "here"),
        ("task=pong kl_balance=false variant=plain_kl", "top/atari/pong/plain_kl/seed0"),
        ("env=dummy task=memory variant=dreamerv2", "top/dummy/memory/dreamerv2/seed0"),
    ],
)
def test_the_folder_says_what_run_it_is(folder_name, overrides, name):
    assert folder_name(*overrides.split()) == name


@pytest.mark.parametrize(
    ("overrides", "variant"),
    [
        ("collect_policy=random", "dreamerv2-collect_policy_random"),
        ("experiment=random_collection", "random_collection"),
        (
            "experiment=random_collection collect_policy=actor",
            "random_collection-collect_policy_actor",
        ),
        ("collect_policy._target_=mine.Bold +collect_policy.x=1", "dreamerv2-collect_policy_bold"),
        ("latents._target_=mine.Mixed collect=overlap", "dreamerv2-latents_mixed"),
        ("switches=[seed,layer_norm] seed=2 kl_balance=false", "dreamerv2-seed_2"),
    ],
)
def test_the_switches_name_the_variant(compose_any, tmp_path, monkeypatch, overrides, variant):
    (tmp_path / "mine.py").write_text(
        "class Bold:\n    def __init__(self, context, x): ...\n"
        "class Mixed:\n    def __init__(self, variables, classes): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    cfg = checked(compose_any("task=pong", *overrides.split()))
    assert RunFolder.of(cfg).variant == variant


def test_switches_that_are_no_keys_are_refused(compose_any):
    with pytest.raises(ValueError, match="`switches` must name keys of the config.*, got wings"):
        RunFolder.of(compose_any("task=pong", "switches=[wings]"))


@pytest.mark.parametrize(
    "changes",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.long)],
)
def test_two_different_ablations_never_share_a_folder(compose_any, changes):
    paper = tuple(values[0] for values in SWITCHES.values())
    ablations = [
        values
        for values in itertools.product(*SWITCHES.values())
        if sum(a != b for a, b in zip(values, paper, strict=True)) <= changes
    ]
    paths = set()
    for latents in ("categorical", "gaussian"):
        cfg = compose_any("task=pong", f"latents={latents}")
        for values in ablations:
            for key, value in zip(SWITCHES, values, strict=True):
                cfg[key] = value
            paths.add(RunFolder.of(cfg).path)
    assert len(paths) == 2 * len(ablations) > {1: 12, 2: 60}[changes]


# ------------------------------------------------------------------------- whose folder it is


@pytest.fixture
def finished(finished_run):
    """A folder with a finished run in it."""
    return RunFolder(finished_run)


@pytest.mark.slow
def test_a_folder_of_another_configuration_is_refused_by_the_keys_that_differ(
    compose_tiny, finished
):
    other = compose_tiny("batch.size=7", "model.horizon=9", f"run_dir={finished.path}")
    message = (
        r"different in batch.size \(there 4, here 7\), model.horizon \(there 5, here 9\)\. "
        r"Choose another run_dir="
    )
    with pytest.raises(ValueError, match=message):
        train(other)
    assert finished.summary() is not None  # left as it was


@pytest.mark.slow
def test_another_class_is_one_difference(compose_tiny, finished):
    other = compose_tiny("explore=plan2explore", f"run_dir={finished.path}")
    message = (
        r"different in explore._target_ \(there None, here dreamer.exploration.Plan2Explor\w*\)\. "
    )
    with pytest.raises(ValueError, match=message):
        train(other)


@pytest.mark.parametrize(
    "override",
    [
        "callbacks.metrics.every_frames=3",
        "logger=none",
        "precision=32-true",
        "kernels=plain",
        "cuda_graphs=true",
        "replay.device=cuda",
        "+env.processes=true",
    ],
)
def test_how_a_run_is_watched_and_on_what_may_change(compose_tiny, finished, override):
    finished.check_same_run(compose_tiny(override))


def content(folder):
    """Every file and what is in it."""
    return {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def refuse(cfg, folder, message):
    """Such a run is refused, and nothing in the folder changes."""
    before = content(folder)
    with pytest.raises(ValueError, match=message):
        train(cfg)
    assert content(folder) == before


@pytest.mark.slow
def test_a_run_that_has_lost_its_last_checkpoint_is_kept_and_goes_on_from_its_best(
    compose_tiny, finished
):
    (finished.path / "summary.json").unlink()
    last, best = (finished.checkpoints / name for name in ("last.ckpt", "best.ckpt"))
    last.unlink()
    finished.previous.unlink()
    message = (
        r"seed0 has no checkpoints/last\.ckpt .*, but holds checkpoints/best.ckpt, metrics.jsonl, "
        rf"replay \(81 policy steps, .*`cp {best} {last}` and repeat the command\. "
        r"To start a new run, choose another run_dir=, or `mv .*seed0 .*seed0\.old`"
    )
    refuse(compose_tiny(), finished, message)
    shutil.copy(best, last)
    assert train(compose_tiny()).frames == 81


@pytest.mark.slow
def test_a_run_without_any_checkpoint_is_kept(compose_tiny, finished):
    shutil.rmtree(finished.checkpoints)
    assert train(compose_tiny()).frames == 81  # it is finished
    refuse(compose_tiny("total_frames=96"), finished, "holds summary.json, metrics.jsonl, replay")
    refuse(compose_tiny("batch.size=7"), finished, "another configuration, different in batch.size")
    (finished.path / "summary.json").unlink()
    refuse(compose_tiny(), finished, r"holds metrics.jsonl, replay \(81 policy .*more than a pref")
    (finished.path / "metrics.jsonl").unlink()
    refuse(
        compose_tiny(), finished, r"last.ckpt to resume from, but holds replay \(81 policy steps"
    )


@pytest.fixture
def killed(compose_tiny, monkeypatch):
    """A folder as it is when its process is killed in the prefill, and no word is left."""

    def kill(envs, action):
        if killed_at.pop():
            return step(envs, action)
        shutil.copytree(folder.path, copy.path)
        raise KeyboardInterrupt

    step, killed_at = MemoryEnvs.step, [False] + 30 * [True]
    folder, copy = RunFolder.of(compose_tiny()), RunFolder.of(compose_tiny("variant=copy"))
    monkeypatch.setattr(MemoryEnvs, "step", kill)
    with pytest.raises(BaseException):  # noqa: B017 -- whatever Lightning makes of it
        train(compose_tiny())
    monkeypatch.setattr(MemoryEnvs, "step", step)
    assert Replay.count_stored(copy.replay)[0] > 10 and not copy.is_saved
    return copy


@pytest.mark.slow
def test_a_run_killed_in_its_prefill_begins_anew(compose_tiny, killed):
    summary = train(compose_tiny(f"run_dir={killed.path}"))
    assert (summary.frames, summary.updates) == (81, 6)
    assert Replay.count_stored(killed.replay) == (81, 1)


@pytest.mark.slow
def test_a_run_killed_while_it_made_its_replay_begins_anew(compose_tiny, killed):
    for name in ("config.yaml", "spaces.json"):
        (killed.path / name).unlink()
    (killed.replay / "layout.json").rename(killed.replay / "layout.draft")
    for path in killed.replay.iterdir():
        if path.name != "layout.draft":
            size = path.stat().st_size
            path.write_bytes(b"")
            os.truncate(path, size)
    (killed.replay / "journal").unlink()
    assert train(compose_tiny(f"run_dir={killed.path}")).frames == 81


@pytest.mark.slow
def test_the_prefill_of_another_configuration_is_kept(compose_tiny, killed):
    cfg = compose_tiny(f"run_dir={killed.path}", "batch.size=7")
    refuse(cfg, killed, r"holds the prefill of .*different in batch.size \(there 4, here 7\)")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", "{}\n", "holds metrics.jsonl"),
        ("metrics.csv", "frames\n", "holds metrics.csv"),
        ("replay/notes.txt", "mine", r"holds replay \(.*replay must hold a replay"),
        ("replay/layout.json", '{"columns": {}}', r"holds replay \(.*replay must hold a replay"),
        ("config.yaml", "task: mine\n", "holds config.yaml"),
        ("config.yaml", "a: {b", "holds config.yaml"),
        ("summary.json", '{"frame', "holds summary.json"),
        ("spaces.json", "[]", "holds spaces.json"),
        ("failure.txt", "I failed.", "holds failure.txt"),
        ("videos/mine.mp4", "film", "holds videos"),
        ("checkpoints/best.ckpt", "weights", "holds checkpoints/best.ckpt"),
    ],
)
def test_what_belongs_to_somebody_else_is_kept(compose_tiny, tmp_path, name, text, message):
    folder = RunFolder(tmp_path / "mine")
    (folder.path / name).parent.mkdir(parents=True)
    (folder.path / name).write_text(text)
    refuse(compose_tiny(f"run_dir={folder.path}"), folder, message)


@pytest.mark.slow
def test_something_else_in_the_replay_is_kept(compose_tiny, killed):
    (killed.replay / "notes.txt").write_text("mine")
    cfg = compose_tiny(f"run_dir={killed.path}")
    refuse(cfg, killed, "must hold a replay and nothing else: notes.txt is not part of a replay")


@pytest.mark.slow
def test_files_of_other_names_are_left_alone(compose_tiny, tmp_path):
    folder = RunFolder(tmp_path / "mine")
    folder.path.mkdir()
    (folder.path / "notes.txt").write_text("mine")
    assert train(compose_tiny(f"run_dir={folder.path}")).frames == 81
    assert (folder.path / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_folder_in_use_is_refused(compose_tiny, finished):
    cfg = compose_tiny("total_frames=96")
    with finished.lock(), pytest.raises(ValueError, match="seed0 is in use by another process"):
        train(cfg)
    assert train(cfg).frames >= 96  # and is free again afterwards


def test_the_lock_says_who_has_the_folder(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "lock").write_text("another-host 123456789")  # of a process that is gone
    with folder.lock():
        assert (tmp_path / "lock").read_text() == f"{socket.gethostname()} {os.getpid()}"
        with pytest.raises(FolderInUse, match=rf"\({socket.gethostname()} {os.getpid()}\)"):
            folder.lock().__enter__()


def test_a_lock_that_is_held_for_a_moment_only_is_waited_for(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as other:
        lock_descriptor(other.fileno())
        threading.Timer(0.1, unlock_descriptor, (other.fileno(),)).start()
        with folder.lock():
            pass


def test_earlier_versions_and_this_one_keep_each_other_out(tmp_path):
    """They took the lock with flock, and looked at it with a shared one."""
    folder = RunFolder(tmp_path)
    with (tmp_path / "lock").open("a+") as other:
        other.write("host 1")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(FolderInUse, match=r"another process \(host 1\)"):
            folder.lock().__enter__()
        assert (tmp_path / "lock").read_text() == "host 1"
        fcntl.flock(other, fcntl.LOCK_UN)
        with folder.lock():
            for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
                with pytest.raises(BlockingIOError):
                    fcntl.flock(other, kind | fcntl.LOCK_NB)


def test_a_run_that_another_process_went_on_with_meanwhile_is_left_to_it(
    compose_tiny, finished, monkeypatch
):
    """Otherwise the frames since the older checkpoint would be cut off and lost."""
    stale = finished.resume_point()._replace(frames=64)
    answers = [stale]
    read = RunFolder.resume_point
    monkeypatch.setattr(
        RunFolder, "resume_point", lambda self, **_: answers.pop() if answers else read(self)
    )
    before = (finished.path / "metrics.jsonl").read_text()
    with pytest.raises(FolderInUse, match="has continued .*seed0 while this one was starting"):
        train(compose_tiny("total_frames=96"))
    assert (finished.path / "metrics.jsonl").read_text() == before


# ------------------------------------------------------------------------------ a refused start

REFUSED = {
    "callbacks.metrics.every_frames=0": "`callbacks.metrics.every_frames` must be at least 1",
    "callbacks.video.context=0": "`callbacks.video.context` must be at least 1",
    "callbacks.evaluate.episodes=0": "`callbacks.evaluate.episodes` must be at least 1",
    "+callbacks.checkpoint.wings=2": "Unknown key `callbacks.checkpoint.wings`",
    "+logger.jsonl.wings=2": "Unknown key `logger.jsonl.wings`",
    "logger.jsonl._target_=dreamer.loggers.Nothing": "Nothing",
    "replay.sampling=best": "`replay.sampling` must be one of episodes, sequential, steps, or",
    "total_frames=40": "`total_frames` must exceed the prefill",
    "trainer.accelerator=tpus": "tpus",
    "+trainer.wings=2": "Unknown key `trainer.wings`",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_refused_start_leaves_nothing_behind(compose_any, tiny_overrides, tmp_path, override):
    words = [word for word in tiny_overrides if word != "callbacks.video=null"]
    with pytest.raises(Exception, match=REFUSED[override]):
        train(compose_any(*words, override))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("override", [*list(REFUSED)[:6], *list(REFUSED)[-2:]])
def test_a_refused_start_leaves_a_finished_run_as_it_was(
    compose_any, tiny_overrides, finished, override
):
    words = [word for word in tiny_overrides if word != "callbacks.video=null"]
    with (finished.path / "metrics.jsonl").open("a") as file:
        file.write('{"frames": 90, "updates": 7}\n')  # beyond the checkpoint
    before = content(finished)
    with pytest.raises(Exception, match=REFUSED[override]):
        train(compose_any(*words, "total_frames=96", override))
    assert content(finished) == before


@pytest.mark.slow
def test_a_refused_start_leaves_an_unfinished_one_as_it_was(compose_tiny, killed):
    here = f"run_dir={killed.path}"
    refuse(compose_tiny(here, "callbacks.metrics.every_frames=0"), killed, "at least 1")
    assert train(compose_tiny(here)).frames == 81


def test_a_refused_start_takes_wandb_along(compose_tiny, tmp_path, monkeypatch):
    def make_wandb(run_dir, **options):
        (run_dir / "wandb").mkdir()
        (run_dir / "wandb_id").write_text("1234")
        raise ValueError("W&B is not to be had")

    monkeypatch.setattr("dreamer.loggers.make_wandb", make_wandb)
    with pytest.raises(Exception, match="W&B is not to be had"):
        train(compose_tiny("logger=[jsonl,wandb]"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(compose_tiny, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(OSError, match="the disk with 5,000 free bytes"):
        train(compose_tiny())
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_holder_removes_keeps_out_nobody_and_lets_in_one(tmp_path):
    """Who waits for it holds a file without a name; the next one would make another."""
    folder, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    leave = threading.Event()

    def hold():
        with folder.lock():
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    while not (folder.path / "lock").exists():
        pass
    threading.Timer(0.1, leave.set).start()
    with other.lock():
        holder.join()
        assert (other.path / "lock").exists()
        with pytest.raises(FolderInUse):
            RunFolder(tmp_path / "run").lock().__enter__()


# -------------------------------------------------------------------------------- how it ended


@pytest.mark.slow
def test_a_failed_run_leaves_its_traceback_until_it_is_begun_again(
    compose_tiny, tmp_path, monkeypatch
):
    def fail(envs, action):
        raise RuntimeError("the door is stuck")

    cfg = compose_tiny()
    failure = RunFolder.of(cfg).path / "failure.txt"
    with monkeypatch.context() as patch:
        patch.setattr(MemoryEnvs, "step", fail)
        with pytest.raises(RuntimeError):
            train(cfg)
    lines = failure.read_text().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "RuntimeError: the door is stuck"
    train(cfg)
    assert not failure.exists()


def test_an_interrupted_run_has_not_failed(compose_tiny, monkeypatch):
    step = MemoryEnvs.step

    def step_with_signal(envs, action):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(envs, action)

    monkeypatch.setattr(MemoryEnvs, "step", step_with_signal)
    cfg = compose_tiny()
    with pytest.raises(Interrupted):
        train(cfg)
    assert not (RunFolder.of(cfg).path / "failure.txt").exists()


def test_the_folder_describes_itself(compose_tiny, finished):
    cfg = OmegaConf.load(finished.path / "config.yaml")
    assert OmegaConf.to_container(cfg, resolve=False) == OmegaConf.to_container(cfg, resolve=True)
    assert cfg.pop("format") == FORMAT
    assert cfg == finished.config()
    assert cfg.model.world_model.kl.balance == 0.8
    summary = json.loads((finished.path / "summary.json").read_text())
    assert summary["frames"] >= 80
    assert {"eval/return_mean", "collect/return", "world_model/loss"} <= summary["metrics"].keys()


# -------------------------------------------------------------------------------- checkpoints


class Trap:
    """Unpickled, it would leave a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def torn(path, mark):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path, mark):
    data = bytearray(path.read_bytes())
    data[: len(data) // 3] = bytes(len(data) // 3)
    path.write_bytes(data)


DAMAGES = {
    "torn": torn,
    "overwritten": flipped,
    "empty": lambda path, mark: path.write_bytes(b""),
    "text": lambda path, mark: path.write_text("weights, honestly\n"),
    "a list": lambda path, mark: torch.save([1, 2], path),
    "a tensor": lambda path, mark: torch.save(torch.zeros(3), path),
    "nothing": lambda path, mark: torch.save(None, path),
    "other weights": lambda path, mark: torch.save({"state_dict": {"w": torch.zeros(2)}}, path),
    "odd counters": lambda path, mark: torch.save({"counters": 7}, path),
    "code": lambda path, mark: torch.save({"counters": Trap(mark)}, path),
    "a pickle with code": lambda path, mark: path.write_bytes(pickle.dumps(Trap(mark), 2)),
}


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory):
    """One checkpoint that all the damages below are done to, each to a copy."""
    path = tmp_path_factory.mktemp("shared") / "last.ckpt"
    counters, replay = {"frames": 48, "updates": 5}, {"steps": 52}
    weights = {"w": torch.zeros(1000)}
    torch.save({"counters": counters, "ReplayDataModule": replay, "state_dict": weights}, path)
    return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_checkpoint_is_refused_and_runs_no_code(shared_run, tmp_path, damage):
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    folder.replay.mkdir()
    path, mark = folder.checkpoints / "last.ckpt", tmp_path / "mark"
    path.write_bytes(shared_run.read_bytes())
    assert folder.resume_point() == (path, 48, 5, (52,))
    DAMAGES[damage](path, mark)
    with pytest.raises(ValueError, match="last.ckpt is damaged.*`mv "):
        folder.resume_point()
    assert not mark.exists()


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_intact(compose_tiny, finished, capsys):
    last, previous, best = finished.last, finished.previous, finished.best
    (finished.path / "summary.json").unlink()
    torn(last, None)
    frames = {x: read_checkpoint(x)["counters"]["frames"] for x in (previous, best)}
    assert frames[best] <= frames[previous] <= 81
    assert train(compose_tiny("total_frames=81")).frames == 81
    message = f"{last} is damaged: .* {previous}, of frame {frames[previous]}, is used"
    assert re.search(message, capsys.readouterr().err)
    assert read_checkpoint(last)["counters"]["frames"] == 81


def test_a_run_killed_between_two_checkpoints_goes_on(finished):
    finished.last.unlink()  # a file system without links
    assert finished.resume_point().path == finished.previous


def test_if_all_checkpoints_are_damaged_nothing_is_lost(compose_tiny, finished):
    for path in (finished.last, finished.previous, finished.best):
        torn(path, None)
    journal = (finished.replay / "journal").read_bytes()
    with pytest.raises(ValueError, match="last.ckpt is damaged: .*another run_dir=, or `mv "):
        train(compose_tiny("total_frames=96"))
    assert (finished.replay / "journal").read_bytes() == journal


def test_no_checkpoint_is_no_error_until_one_is_wanted(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.resume_point() is None
    with pytest.raises(FileNotFoundError, match="the run has not saved one yet"):
        folder.read_intact(folder.last)


@pytest.mark.parametrize("name", ["..", "../x", "a/../../b", "/x", "", "a//b", ".", "a/."])
@pytest.mark.parametrize("key", ["env_name", "task", "variant"])
def test_no_name_leads_out_of_the_root(compose_any, key, name):
    cfg = compose_any("env=dummy", "task=memory", "root=top")
    cfg[key] = name
    if key == "variant" and not name:
        assert RunFolder.of(cfg).variant == "tiny"
        return
    with pytest.raises(ValueError, match=f"`{key}` must name a folder within `root`, got "):
        RunFolder.of(cfg)
