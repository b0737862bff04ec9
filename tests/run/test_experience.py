"""Runs that begin with the experience of an earlier one: data.prefill."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

from dreamer.agent import DreamerAgent
from dreamer.callbacks.interrupt import Interrupted
from dreamer.data.formats import convert
from dreamer.data.settings import DataSettings
from dreamer.replay import stored
from dreamer.replay.buffer import Replay
from dreamer.replay.storage import peek
from dreamer.run.build import make_envs
from dreamer.run.experience import plan_experience, read_headers
from dreamer.run.folder import RunFolder
from dreamer.run.train import train

pytestmark = pytest.mark.slow
QUIET = ("callbacks.evaluate=null",)


@pytest.fixture
def options(trained_run, tmp_path):
    return (f"data.prefill={trained_run}", f"run_dir={tmp_path}/new", *QUIET)


@pytest.fixture
def new(tmp_path):
    return RunFolder(tmp_path / "new")


def lines(folder):
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


def rows(folder, name):
    """A column of a replay with one environment, from its first step on."""
    found = peek(folder.replay)
    assert found is not None
    return found.columns[name][0, found.oldest : found.steps]


def test_a_run_begins_with_the_experience_and_counts_only_its_own(
    compose_tiny, trained_run, options, new, capsys
):
    before = {p: p.read_bytes() for p in trained_run.rglob("*") if p.is_file()}
    summary = train(compose_tiny(*options))
    assert {p: p.read_bytes() for p in trained_run.rglob("*") if p.is_file()} == before
    assert (summary.frames, summary.policy_steps, summary.updates) == (81, 81, 6)
    source = RunFolder(trained_run)
    copied = len(rows(source, "reward"))
    for name in ("obs_image", "reward", "prev_action", "is_first", "is_terminal"):
        assert (rows(new, name)[:copied] == rows(source, name)).all()
    assert Replay.count_stored(new.replay) == (2 * 81, 1)
    assert lines(new)[-1]["replay/policy_steps"] == 2 * 81
    assert lines(new)[-1]["replay/ratio"] == pytest.approx(6 / 81)
    assert "episodes with 81 policy steps from" in capsys.readouterr().out
    assert json.loads((new.path / "copied.json").read_text())["policy_steps"] == 81

    # It resumes without the source, exactly.
    train(compose_tiny(*options, "total_frames=96"))
    out = capsys.readouterr().out
    assert "resumed at frame 81" in out and "Copying" not in out
    assert Replay.count_stored(new.replay) == (81 + 96, 1)


def test_a_resumed_run_does_not_need_the_source(compose_tiny, trained_run, options, new, tmp_path):
    source = shutil.copytree(trained_run, tmp_path / "source")
    options = (*options, f"data.prefill={source}")
    train(compose_tiny(*options))
    shutil.rmtree(source)
    assert train(compose_tiny(*options, "total_frames=96")).updates == 8


@pytest.mark.parametrize("form", ["dreamerv2", "pydreamer", "run"])
def test_a_run_begins_with_episode_files(compose_tiny, trained_run, options, new, tmp_path, form):
    """A replay is exported as files, and these are imported: nothing is lost."""
    files = str(tmp_path / "files")
    convert(str(trained_run), DataSettings(to=files, format=form))
    train(compose_tiny(*options, f"data.prefill={files}"))
    source = RunFolder(trained_run)
    copied = len(rows(source, "reward"))
    for name in ("obs_image", "reward", "prev_action", "is_first", "is_terminal"):
        assert (rows(new, name)[:copied] == rows(source, name)).all()


def test_the_first_update_samples_from_the_copy(compose_tiny, options, monkeypatch, new):
    frames = []
    step = DreamerAgent.training_step

    def look(agent, batch, batch_idx):
        frames.append(agent.frames)
        return step(agent, batch, batch_idx)

    monkeypatch.setattr(DreamerAgent, "training_step", look)
    summary = train(compose_tiny(*options, "prefill_policy_steps=0", "total_frames=25"))
    assert frames == [0, 1, 9, 17, 25]
    assert (summary.frames, summary.updates) == (25, 5)
    state = torch.load(new.last, weights_only=True)
    assert state["counters"] == {"frames": 25, "policy_steps": 25, "updates": 5}


def test_an_interrupted_copy_begins_again(compose_tiny, options, monkeypatch, tmp_path):
    """Stopped in the copy, and after an update."""
    options = (*options, "prefill_policy_steps=0", "total_frames=25")
    monkeypatch.setattr(stored, "CHUNK", 3)
    add, count = Replay.add, []

    def add_and_interrupt(replay, step, prev_action):
        add(replay, step, prev_action)
        count.append(1)
        if len(count) in (40, 40 + 92 + 12):  # in the copy; 12 steps after the second one
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Replay, "add", add_and_interrupt)
    folder = RunFolder(tmp_path / "new")
    with pytest.raises(Interrupted):
        train(compose_tiny(*options))
    assert not folder.last.exists()
    assert 30 < Replay.count_stored(folder.replay)[0] < 81
    with pytest.raises(Interrupted):
        train(compose_tiny(*options))
    assert folder.last.exists()
    assert train(compose_tiny(*options)).frames == 25
    assert Replay.count_stored(folder.replay)[0] == 81 + 25


def test_a_start_killed_in_the_copy_or_the_prefill_begins_again(
    compose_tiny, options, new, monkeypatch, tmp_path
):
    """kill -9 leaves copied steps and no checkpoint."""
    train(compose_tiny(*options))
    for path in (new.checkpoints, new.path / "summary.json", new.path / "metrics.jsonl"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    cfg = compose_tiny(*options)
    with pytest.raises(ValueError, match="162 policy steps, more than a prefill"):
        train(cfg)
    copied = json.loads((new.path / "copied.json").read_text())
    (new.path / "copied.json").write_text(json.dumps(copied | {"policy_steps": 162 - 48}))
    assert train(cfg).frames == 81  # 48 random steps more than were copied
    assert json.loads((new.path / "copied.json").read_text()) == copied
    assert Replay.count_stored(new.replay) == (162, 1)


def test_another_source_does_not_replace_an_interrupted_copy(
    compose_tiny, options, finished_run, new
):
    cfg = compose_tiny(*options)
    train(cfg)
    for path in (new.checkpoints, new.path / "summary.json", new.path / "metrics.jsonl"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    copied = json.loads((new.path / "copied.json").read_text())
    (new.path / "copied.json").write_text(json.dumps(copied | {"policy_steps": 162}))
    with pytest.raises(ValueError, match=r"different in data\.prefill \(there .*, here .*seed0\)"):
        train(compose_tiny(*options, f"data.prefill={finished_run}"))


def test_parallel_environments_share_the_episodes(compose_tiny, options, new, capsys):
    train(compose_tiny(*options, "env.count=3", "prefill_policy_steps=0", "total_frames=30"))
    out = capsys.readouterr().out
    assert "; left out: " in out and " steps at the ends of episodes" in out
    found = peek(new.replay)
    assert found is not None
    assert found.columns["is_first"][:, 0].all()


def test_a_smaller_replay_gets_the_newest(compose_tiny, options, new, trained_run, capsys):
    train(compose_tiny(*options, "replay.capacity_policy_steps=60", "total_frames=60"))
    assert "older episodes (replay.capacity_policy_steps)" in capsys.readouterr().out


def test_what_cannot_be_copied_is_refused_before_anything_is_written(
    compose_tiny, options, trained_run, tmp_path, new
):
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(trained_run / "config.yaml", empty)
    cases = {
        f"data.prefill={tmp_path}/nowhere": "must be the address of .* does not exist",
        f"data.prefill={trained_run}/config.yaml": "must be the .*config.yaml: it is no npz file",
        f"data.prefill={trained_run}/checkpoints": "must be the .*got 5 skipped, the first is",
        f"data.prefill={empty}": "must be the .* 1 skipped, the first is config.yaml",
        "task=point": r"image \(there 1 x 64 x 64 uint8, here none\), vector \(there none, here 4",
        "env.count=50": r"an episode for each of the 50 environments \(`env.count`\).*got 11 in",
        "replay.capacity_policy_steps=1": "fits into `replay.capacity_policy_steps`, got 0 in",
    }
    for override, message in cases.items():
        with pytest.raises(ValueError, match=f"`data.prefill` .*{message}") as caught:
            train(compose_tiny(*options, override))
        assert "\n" not in str(caught.value)
        assert not new.path.exists()


def test_actions_of_another_kind_are_refused(compose_tiny, options, trained_run, tmp_path, new):
    source = shutil.copytree(trained_run, tmp_path / "source")
    spaces = json.loads((source / "spaces.json").read_text())
    spaces["actions"]["discrete"] = False
    (source / "spaces.json").write_text(json.dumps(spaces))
    with pytest.raises(ValueError, match="must have the actions of this run, got there .*False"):
        train(compose_tiny(*options, f"data.prefill={source}"))
    (source / "spaces.json").unlink()  # of an older version: the sizes must do
    cfg = compose_tiny(*options, f"data.prefill={source}")
    envs = make_envs(cfg, seed=0)
    assert plan_experience(read_headers(cfg, new, envs), cfg, envs) is not None


def test_a_run_cannot_begin_with_itself(compose_tiny, finished_run):
    cfg = compose_tiny(f"data.prefill={finished_run}")
    with pytest.raises(ValueError, match="`data.prefill` must be .* which is that of this run"):
        read_headers(cfg, RunFolder(finished_run), make_envs(cfg, seed=0))


def test_weights_and_experience_come_together(compose_tiny, options, trained_run, new, capsys):
    train(compose_tiny(*options, f"init_from={trained_run}", "init_weights=world_model"))
    out = capsys.readouterr().out
    names = [line[:13].strip() for line in out.splitlines()]
    start = names.index("parameters")
    assert names[start : start + 5] == [
        *("parameters", "weights", "loaded", "not loaded", "experience"),
    ]
    assert np.isfinite(lines(new)[-1]["world_model/loss"])
