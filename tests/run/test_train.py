"""Whole runs: begin, stop anywhere, go on, finish; the same every time."""

import ctypes
import json
import os
import re
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamer.agent import DreamerAgent, NonFiniteError
from dreamer.callbacks.interrupt import Interrupted
from dreamer.envs.dummy import MemoryEnvs
from dreamer.replay.buffer import Replay, ReplayConfig
from dreamer.run.train import Summary, train

SLOW = pytest.mark.slow
QUIET = ("callbacks.evaluate=null",)
FRAMES, UPDATES = 81, 6  # of a whole tiny run: 1 update on the prefill, 5 at 49, 57, ... 81 frames


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def after_step(monkeypatch):
    """Do something once an environment has made so many steps, resets included."""

    @contextmanager
    def after(number, action):
        step, made = MemoryEnvs.step, []

        def step_and_act(envs, prev_action):
            made.append(1)
            if len(made) == number:
                action()
            return step(envs, prev_action)

        with monkeypatch.context() as patch:
            patch.setattr(MemoryEnvs, "step", step_and_act)
            yield

    return after


def run_folder(cfg) -> Path:
    """Where the tiny run lies."""
    return Path(cfg.root) / "dummy" / "memory" / "debug" / "seed0"


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def checkpoint(run_dir, name="last"):
    return torch.load(Path(run_dir) / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_same_agent(a, b):
    """Two checkpoints with the same weights, optimisers and random states, bit by bit."""
    assert a["counters"] == b["counters"]
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(a[part], b[part], rtol=0, atol=0)
    assert a["ReplayDataModule"] == b["ReplayDataModule"]
    assert a["callbacks"]["Checkpoint"]["torch"].equal(b["callbacks"]["Checkpoint"]["torch"])


def assert_whole(
    summary: Summary,
    frames: int = FRAMES,
    updates: int = UPDATES,
    frames_at_last_update: int | None = None,
):
    """What a finished run leaves behind, however often it was stopped."""
    run_dir = Path(summary.run_dir)
    assert (summary.frames, summary.policy_steps, summary.updates) == (frames, frames, updates)
    assert json.loads((run_dir / "summary.json").read_text())["frames"] == frames
    frames_of_losses = [
        record["frames"] for record in lines(run_dir) if "world_model/loss" in record
    ]
    assert frames_of_losses == sorted(set(frames_of_losses)), "a frame was written twice"
    assert frames_of_losses[-1] == (frames_at_last_update or frames)
    replay = Replay(
        run_dir / "replay",
        obs_shapes={"image": (1, 64, 64)},
        action_size=2,
        env_count=1,
        config=ReplayConfig(1000, "episodes", True),
        seed=0,
    )
    assert replay.policy_steps == frames


def lines(run_dir):
    return [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


# -------------------------------------------------------------------------- the same command


@pytest.mark.slow
def test_a_run_makes_its_frames_and_updates(compose_tiny):
    assert_whole(train(compose_tiny()))


@pytest.mark.slow
def test_the_same_seed_is_the_same_run_and_another_seed_another(compose_tiny):
    first, again, other = (
        checkpoint(train(compose_tiny(f"seed={seed}", f"run_dir={name}", *QUIET)).run_dir)
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert_same_agent(first, again)
    weights = [next(iter(state["state_dict"].values())) for state in (first, other)]
    assert not weights[0].equal(weights[1])


@pytest.mark.slow
def test_watching_a_run_does_not_change_it(compose_tiny):
    watched = train(compose_tiny("callbacks.evaluate.every_frames=1", "run_dir=a"))
    alone = train(compose_tiny("run_dir=b", *QUIET))
    assert len(lines(watched.run_dir)) > len(lines(alone.run_dir))
    assert_same_agent(checkpoint(watched.run_dir), checkpoint(alone.run_dir))


def test_a_finished_run_is_left_alone(compose_tiny, finished_run, capsys):
    first = Summary(**json.loads((finished_run / "summary.json").read_text()))
    first = first._replace(run_dir=str(finished_run))  # a copy of the run
    files = {p: p.stat().st_mtime_ns for p in finished_run.rglob("*") if p.is_file()}
    assert train(compose_tiny()) == first
    assert "is finished: 81 frames. Nothing to do." in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in files} == files
    known = first._asdict() | {"of_a_later_version": 1}
    del known["run_dir"]
    (finished_run / "summary.json").write_text(json.dumps(known))
    assert train(compose_tiny()) == first


@pytest.mark.slow
def test_a_finished_run_goes_on_to_a_larger_budget(compose_tiny, finished_run, capsys):
    longer = train(compose_tiny("total_frames=112"))
    assert longer.run_dir == str(finished_run)
    assert "(resumed at frame 81)" in capsys.readouterr().out
    assert_whole(longer, frames=112, updates=10)


@pytest.mark.slow
def test_the_budget_holds_inside_a_collection_and_may_grow(compose_tiny):
    budgets = "train_every_policy_steps=500", "total_frames=77"
    assert_whole(train(compose_tiny(*budgets)), frames=77, updates=3)
    longer = train(compose_tiny(*budgets, "total_frames=600"))
    assert_whole(longer, frames=600, updates=4)


# ------------------------------------------------------------------------------ stop and go on


@pytest.mark.slow
@pytest.mark.parametrize(
    "updates", [pytest.param(1, marks=SLOW), 3, pytest.param(UPDATES, marks=SLOW)]
)
def test_a_run_interrupted_while_learning_goes_on(compose_tiny, after_update, updates, capsys):
    with after_update(updates, interrupt), pytest.raises(Interrupted, match="SIGINT"):
        train(compose_tiny())
    assert checkpoint(run_folder(compose_tiny()))["counters"]["updates"] == updates
    assert not (Path(run_folder(compose_tiny())) / "summary.json").exists()
    assert_whole(train(compose_tiny()))
    assert "(resumed at frame " in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_interrupted_in_the_prefill_goes_on_with_it(compose_tiny, after_step):
    with after_step(20, interrupt), pytest.raises(Interrupted):
        train(compose_tiny())
    counters = checkpoint(run_folder(compose_tiny()))["counters"]
    assert 0 < counters["policy_steps"] < 20
    assert counters["updates"] == 0
    assert_whole(train(compose_tiny()))


@pytest.mark.slow
def test_a_run_interrupted_in_an_evaluation_goes_on(compose_tiny, monkeypatch):
    from dreamer.callbacks import evaluate

    def interrupted(*args, on_step, **kwargs):
        interrupt()
        on_step()

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(evaluate, "play", interrupted)
        train(compose_tiny())
    assert_whole(train(compose_tiny()))


@SLOW
def test_a_run_interrupted_again_and_again_finishes(compose_tiny, after_update):
    for updates in range(1, UPDATES):
        with after_update(updates, interrupt), pytest.raises(Interrupted):
            train(compose_tiny())
    assert_whole(train(compose_tiny()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "updates"),
    [
        pytest.param(20, 0, marks=SLOW),
        pytest.param(54, 0, marks=SLOW),
        pytest.param(59, 0, marks=SLOW),
        pytest.param(0, 1, marks=SLOW),
        (0, 3),
        pytest.param(0, UPDATES, marks=SLOW),
    ],
)
def test_a_run_killed_at_any_moment_goes_on(
    compose_tiny, tmp_path, after_step, after_update, steps, updates
):
    """What lies on the disk at that moment is what SIGKILL leaves behind."""
    run_dir, copy = run_folder(compose_tiny()), tmp_path / "copy"

    def snapshot():
        shutil.copytree(run_dir, copy)
        if (copy / "metrics.jsonl").exists():
            with (copy / "metrics.jsonl").open("a") as file:
                file.write('{"frames": 7')  # the line that it died in

    with after_step(steps, snapshot), after_update(updates, snapshot):
        train(compose_tiny())
    assert_whole(train(compose_tiny(f"run_dir={copy}")))


@pytest.mark.slow
def test_updates_after_a_resume_equal_those_of_an_uninterrupted_run(compose_tiny, after_update):
    """On the same experience, for a resume begins a new episode: here none is collected."""
    runs = {"whole": (6,), "resumed": (2, 3, 6)}
    for name, stops in runs.items():
        for updates in stops:
            with after_update(updates, interrupt), pytest.raises(Interrupted):
                train(compose_tiny("pretrain_updates=6", f"run_dir={name}", *QUIET))
    whole, resumed = checkpoint("whole"), checkpoint("resumed")
    assert whole["counters"]["updates"] == 6
    assert_same_agent(whole, resumed)


@pytest.mark.slow
def test_a_resumed_run_does_not_repeat_its_first_episodes(compose_tiny, after_update, monkeypatch):
    seeds = []
    begin = MemoryEnvs.__init__
    monkeypatch.setattr(
        MemoryEnvs,
        "__init__",
        lambda self, count, seed, **kw: seeds.append(seed) or begin(self, count, seed, **kw),
    )
    with after_update(3, interrupt), pytest.raises(Interrupted):
        train(compose_tiny(*QUIET))
    train(compose_tiny(*QUIET))
    assert len(set(seeds)) == len(seeds) == 2


@SLOW
def test_the_best_score_survives_a_resume(compose_tiny, after_update, monkeypatch):
    from dreamer.evaluation import Evaluation

    def score(value):
        monkeypatch.setattr(Evaluation, "summary", lambda self: {"eval/return_mean": value})

    score(5.0)
    with after_update(UPDATES, interrupt), pytest.raises(Interrupted):
        train(compose_tiny())
    best = checkpoint(run_folder(compose_tiny()), "best")
    score(4.0)
    train(compose_tiny())
    assert_same_agent(checkpoint(run_folder(compose_tiny()), "best"), best)
    score(6.0)
    longer = train(compose_tiny("total_frames=96"))
    assert checkpoint(longer.run_dir, "best")["counters"]["frames"] > best["counters"]["frames"]


# -------------------------------------------------------------------- acting beside the update

BESIDE = "collect.overlap=true"


@pytest.mark.slow
def test_acting_beside_the_update_makes_the_same_frames_and_updates(compose_tiny):
    assert_whole(train(compose_tiny(BESIDE)))


@SLOW
def test_acting_beside_the_update_repeats_with_its_seed_watched_or_not(compose_tiny):
    options = {"a": (), "b": QUIET}
    first, again = (
        checkpoint(train(compose_tiny(BESIDE, f"run_dir={name}", *watching)).run_dir)
        for name, watching in options.items()
    )
    assert_same_agent(first, again)


@pytest.mark.slow
@pytest.mark.parametrize(
    "updates", [3, pytest.param(1, marks=SLOW), pytest.param(UPDATES, marks=SLOW)]
)
def test_a_run_interrupted_beside_an_update_goes_on(compose_tiny, after_update, updates):
    with after_update(updates, interrupt), pytest.raises(Interrupted, match="SIGINT"):
        train(compose_tiny(BESIDE))
    assert checkpoint(run_folder(compose_tiny()))["counters"]["updates"] == updates
    assert_whole(train(compose_tiny(BESIDE)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [68, pytest.param(62, marks=SLOW), pytest.param(75, marks=SLOW), pytest.param(89, marks=SLOW)],
)
def test_a_run_interrupted_by_a_step_beside_an_update_goes_on(compose_tiny, after_step, step):
    with after_step(step, interrupt), pytest.raises(Interrupted, match="SIGINT"):
        train(compose_tiny(BESIDE, *QUIET))
    saved = checkpoint(run_folder(compose_tiny()))
    counters, unwritten = saved["counters"], saved["callbacks"]["Metrics"]["sums"]
    assert counters["frames"] == counters["policy_steps"] > 48
    # Of the last update, if no line was due in the frame that its collection had come to.
    is_written = counters["updates"] == UPDATES and "world_model/loss" not in unwritten
    last = counters["frames"] if is_written else FRAMES
    assert_whole(train(compose_tiny(BESIDE, *QUIET)), frames_at_last_update=last)


@pytest.mark.slow
@pytest.mark.parametrize("step", [68, pytest.param(75, marks=SLOW)])
def test_a_run_killed_beside_an_update_goes_on(compose_tiny, tmp_path, after_step, step):
    run_dir, copy = run_folder(compose_tiny()), tmp_path / "copy"
    with after_step(step, lambda: shutil.copytree(run_dir, copy)):
        train(compose_tiny(BESIDE, *QUIET))
    assert_whole(train(compose_tiny(BESIDE, f"run_dir={copy}", *QUIET)))


@pytest.mark.slow
def test_a_run_may_change_to_acting_beside_the_update(compose_tiny, after_step):
    with after_step(68, interrupt), pytest.raises(Interrupted):
        train(compose_tiny(BESIDE, *QUIET))
    assert_whole(train(compose_tiny(*QUIET)))


@pytest.mark.slow
def test_an_environment_that_fails_beside_an_update_ends_the_run(compose_tiny, after_step):
    def fail():
        raise ValueError("the emulator is gone")

    with after_step(68, fail), pytest.raises(ValueError, match="the emulator is gone"):
        train(compose_tiny(BESIDE, *QUIET))
    run_dir = run_folder(compose_tiny())
    assert "in step_and_act" in (run_dir / "failure.txt").read_text()
    counters = checkpoint(run_dir)["counters"]
    assert counters["frames"] > 48 and counters["updates"] >= 2
    assert_whole(train(compose_tiny(BESIDE, *QUIET)))


# ------------------------------------------------------------------------------------ long runs


def private_memory() -> int:
    """Bytes of this process without the pages of files, which the system may drop at any time."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(x.split()[1]) for x in status if x.startswith("RssAnon:"))


@SLOW
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    "beside",
    ["collect.overlap=false", pytest.param("collect.overlap=true", marks=pytest.mark.long)],
)
def test_the_memory_of_a_run_stays_flat_while_its_ring_fills_and_wraps(
    compose_tiny, monkeypatch, beside
):
    step, memory, libc = DreamerAgent.training_step, [], ctypes.CDLL(None)

    def step_and_weigh(agent, batch, batch_idx):
        result = step(agent, batch, batch_idx)
        libc.malloc_trim(0)  # else memory that is free, but kept, comes and goes by megabytes
        memory.append(private_memory())
        return result

    monkeypatch.setattr(DreamerAgent, "training_step", step_and_weigh)
    train(
        compose_tiny(
            *("total_frames=20_000", "train_every_policy_steps=200"),
            *("callbacks.metrics.every_frames=1000", "callbacks.checkpoint.every_frames=5000"),
            *(beside, *QUIET),
        )
    )
    # The least of many: how much an update holds at its end differs by a megabyte or two.
    first, last = (min(memory[at : at + 30]) for at in (10, 70))  # 12,000 steps apart
    assert last - first < 5e5, memory  # a ring in memory takes 4 MB, a small object a step 1 MB


# ------------------------------------------------------------------------------- what goes wrong


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_with_the_weights_from_before(
    compose_tiny, after_update
):
    run_dir = run_folder(compose_tiny())

    def poison():
        reward = np.memmap(run_dir / "replay" / "reward", np.float32, mode="r+")
        reward[:] = 1e30

    cfg = compose_tiny("model.world_model.reward_transform=identity", *QUIET)
    message = r"The world_model loss or its .* in update 3, frame 65\. .* learning rate"
    with after_update(3, poison), pytest.raises(NonFiniteError, match=message):
        train(cfg)
    state = checkpoint(run_dir)
    assert state["counters"] == {"frames": 65, "policy_steps": 65, "updates": 3}
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    assert not (run_dir / "summary.json").exists()


@pytest.mark.slow
def test_a_run_whose_replay_is_gone_is_told_so(compose_tiny, finished_run):
    shutil.rmtree(finished_run / "replay")
    with pytest.raises(
        ValueError, match=r"replay is missing.* Restore it\. To start a new run, .*run_dir="
    ):
        train(compose_tiny("total_frames=112"))


def test_a_corrected_command_begins_anew_after_a_prefill_without_a_whole_sequence(compose_tiny):
    # An episode of this world has 9 steps, its reset included.
    with pytest.raises(ValueError, match="at least 16 steps .`batch.length`., got at most 9"):
        train(compose_tiny("replay.across_episodes=false"))
    assert_whole(train(compose_tiny("replay.across_episodes=false", "batch.length=9")))


@pytest.mark.parametrize("profiler", ["simple", None])
def test_a_profile_is_printed_at_the_end_if_it_is_asked_for(compose_tiny, capsys, profiler):
    words = ("callbacks.evaluate=null", f"trainer.profiler={profiler or 'null'}")
    assert train(compose_tiny(*words)).frames == 81
    printed = capsys.readouterr().out
    assert printed.rstrip().splitlines()[-1].startswith("Finished after ")
    assert ("FIT Profiler Report" in printed) == (profiler is not None)
    assert bool(re.search(r"\|  run_training_epoch +\t\|  \d", printed)) == (profiler is not None)
