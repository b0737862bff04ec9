"""`python sweep.py search=...`: what is asked, stopped, told and continued."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import optuna
import pytest
import yaml

from dreamer.run.folder import RunFolder
from experiments.search import command, study, trials
from experiments.sweep import command as sweep
from experiments.sweep import jobs
from experiments.sweep.grid import Job

STUB = Path(__file__).parent / "stub_trial.py"
SEARCH = {
    "tasks": ["dummy/memory"],
    "space": {"model.horizon": {"low": 2, "high": 40, "int": True}},
    "overrides": {"logger": ["jsonl"], "total_frames": 500},
    "trials": 6,
    "pruner": "none",
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a file of a search, my.yaml, into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(**content) -> str:
        (tmp_path / "my.yaml").write_text(yaml.safe_dump(SEARCH | content, sort_keys=False))
        return "search=my.yaml"

    return write


@pytest.fixture
def run(written, monkeypatch, capsys):
    """Search in this process with a stand-in for train.py; returns exit status, stdout, stderr."""
    monkeypatch.setattr(jobs, "TRAIN", (str(STUB),))
    for module in (command, trials, jobs):
        monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0.02)
    for name in ("check_same_run", "check_may_begin"):  # the stand-in leaves no configuration
        monkeypatch.setattr(RunFolder, name, lambda *_: None)

    def search(*words: str, fates: dict | None = None, **content):
        monkeypatch.setenv("STUB", json.dumps(fates or {}))
        status = sweep.main([written(**content), *words])
        return status, *capsys.readouterr()

    return search


def trials_of(root: str = "searches/my") -> list[optuna.trial.FrozenTrial]:
    found = study.read_study(Path(root))
    assert found is not None
    return found.get_trials()


def lines(name: str) -> list[str]:
    path = Path("searches/my") / name
    return path.read_text().splitlines() if path.exists() else []


# ---------------------------------------------------------------------------------- whole searches


@pytest.mark.slow
def test_a_search_finds_better_values_and_its_command_runs_only_what_is_left(run):
    status, out, _ = run("trials=3")
    assert status == 0
    assert len(lines("starts")) == 3
    status, out, _ = run("trials=7")
    values = [trial.value for trial in trials_of()]
    assert len(values) == len(lines("starts")) == 7
    assert values == [5 * trial.params["model.horizon"] for trial in trials_of()]
    assert max(values) > values[0]
    assert len({trial.params["model.horizon"] for trial in trials_of()}) > 4  # none drawn again
    best = max(trials_of(), key=lambda trial: trial.value)
    assert f"7 trials: 7 finished; best value {best.value:g}, of trial {best.number}" in out
    command = "best: python train.py env=dummy task=memory 'logger=[jsonl]' total_frames=500"
    assert f"{command} model.horizon={best.params['model.horizon']}\n" in out
    assert run("trials=7")[0] == 0
    assert len(lines("starts")) == 7
    _, out, _ = run("trials=8", "dry_run=true")
    assert re.search(rf"^ +{best.number} +finished +{best.value:g} +5 +", out, re.MULTILINE)
    assert "To do: 1 trials of 1 job(s), at most 500 frames" in out
    assert command in out
    assert len(lines("starts")) == 7


@pytest.mark.slow
def test_a_dry_run_of_a_new_search_writes_nothing(run, tmp_path):
    status, out, _ = run("dry_run=true")
    assert status == 0
    assert "6 trials: 6 missing" in out
    assert "To do: 6 trials of 1 job(s), at most 3,000 frames; their replay needs" in out
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


@pytest.mark.slow
def test_a_grid_runs_every_combination_once(run):
    space = {"model.horizon": [3, 9], "batch.size": [4, 6]}
    assert run("workers=3", space=space, sampler="grid", trials=None)[0] == 0
    found = {tuple(trial.params.values()) for trial in trials_of()}
    assert len(trials_of()) == 4
    assert found == {(3, 4), (3, 6), (9, 4), (9, 6)}


@pytest.mark.slow
def test_the_value_is_the_mean_of_normalised_scores_over_tasks_and_seeds(run):
    tasks = {"dummy/memory": {"low": 0, "high": 5}, "dummy/point": {"low": -5, "high": 5}}
    assert run("seeds=2", "trials=2", tasks=tasks)[0] == 0
    for trial in trials_of():
        horizon = trial.params["model.horizon"]
        last = 5 * horizon
        assert trial.value == pytest.approx((last / 5 + (last + 5) / 10) / 2)
        assert len(trial.intermediate_values) == 4 * 5
    assert len(lines("starts")) == 2 * 4


# -------------------------------------------------------------------------- pruning and failures


@pytest.mark.slow
def test_a_trial_that_is_worse_is_stopped_and_saves_first(run):
    pruner = {"name": "median", "startup_trials": 2, "warmup": 1}
    status, out, _ = run("trials=8", fates={"SLOW": 0.1}, pruner=pruner)
    assert status == 0
    stopped = [trial for trial in trials_of() if trial.state == optuna.trial.TrialState.PRUNED]
    assert stopped
    for trial in stopped:
        name = f"dummy/memory/trial{trial.number:03}/seed0"
        assert name in lines("stopped")  # it got the signal on which runs save
        assert 2 <= len(trial.intermediate_values) < 5  # not before the warm-up
        assert not (Path("searches/my") / name / jobs.STOP_REQUEST).exists()
    assert f"{len(stopped)} pruned" in out


@pytest.mark.slow
def test_a_failed_trial_is_told_and_ends_no_search(run):
    content = {"space": {"model.horizon": [3, 4, 5]}, "sampler": "grid", "trials": None}
    status, out, _ = run(fates={"FAIL": [4]}, **content)
    assert status == 0
    states = {trial.params["model.horizon"]: trial.state.name for trial in trials_of()}
    assert states == {3: "COMPLETE", 4: "FAIL", 5: "COMPLETE"}
    number = next(t.number for t in trials_of() if t.params["model.horizon"] == 4)
    assert (
        f"failed: trial {number}: dummy/memory/trial{number:03}/seed0: RuntimeError: the door is "
        "stuck" in out
    )
    assert run(**content)[0] == 0
    assert len(lines("starts")) == 3  # it is not repeated


@pytest.mark.slow
def test_values_that_no_run_may_have_together_are_a_failed_trial(run):
    space = {"batch.length": [8, 60], "explore.offset": [1, 15]}
    added = {"explore": "plan2explore", "model.horizon": 3}  # with sequences of 16 steps
    overrides = SEARCH["overrides"] | added
    content = {"space": space, "sampler": "grid", "trials": None, "overrides": overrides}
    status, out, _ = run(**content)
    assert status == 0
    failed = [trial for trial in trials_of() if trial.state.name == "FAIL"]
    assert {tuple(trial.params.values()) for trial in failed} == {(8, 15)}
    assert "`explore.offset` must be less than batch.length, 8, got 15" in out


@pytest.mark.slow
def test_a_trial_whose_run_is_killed_goes_on_next_time(run):
    content = {"space": {"model.horizon": [3, 4, 5]}, "sampler": "grid", "trials": None}
    status, out, err = run(fates={"KILL": [4]}, **content)
    assert status == 1
    assert "1 interrupted" in out
    assert "1 trial(s) were killed from outside; the same command continues them." in err
    assert run(**content)[0] == 0
    assert {trial.state.name for trial in trials_of()} == {"COMPLETE"}
    assert len(lines("starts")) == 4


@pytest.mark.slow
def test_a_trial_without_all_its_values_is_told_as_failed(run, written):
    written(trials=2)
    search = command.Search.read(sweep.parse(["search=my.yaml"]))
    with study.open_study(search, Path("searches/my")) as opened:
        opened.ask()  # and the process dies
    assert run("trials=2")[0] == 0
    assert [trial.state.name for trial in trials_of()] == ["FAIL", "COMPLETE"]
    assert "killed as it chose the values" in trials_of()[0].user_attrs[study.REASON]


def test_a_pruned_job_of_an_earlier_process_is_stopped_too(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "SECONDS_BETWEEN_LOOKS", 0.02)
    names = {"env": "dummy", "task": "memory", "variant": "trial000", "seed": 0, "root": tmp_path}
    words = [f"{key}={value}" for key, value in names.items()]
    job = Job("dummy", "memory", "trial000", 0, (*words, "model.horizon=3", "total_frames=500"))
    planned = jobs.Planned(job, tmp_path / job.name, 500, 0)
    process = subprocess.Popen(
        [sys.executable, str(STUB), *job.words],
        env=os.environ | {"STUB": json.dumps({"SLOW": 60})},
        start_new_session=True,
    )
    try:
        wait_for(process, planned.folder / "metrics.jsonl")
        running = trials.RunningTrial([planned], lambda due: due, Event())
        time.sleep(0.2)
        assert not running.is_over
        running.stop()
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
    finally:
        process.kill()


@pytest.mark.long
def test_a_launcher_runs_the_jobs_of_a_trial_together(run):
    words = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seeds=2", "trials=1")
    # The launcher's process imports its own modules, and so the real train.py.
    small = {
        **SEARCH["overrides"],
        **{"debug": "fast", "total_frames": 120, "prefill_policy_steps": 80},
        **{"callbacks.video": None, "callbacks.evaluate.episodes": 1},
        "callbacks.evaluate.video_policy_steps": 0,
    }
    space = {"model.horizon": [3, 4]}
    status, out, err = run(*words, overrides=small, space=space)
    assert status == 0, out + err
    (trial,) = trials_of()
    assert trial.state.name == "COMPLETE"
    folders = [Path(f"searches/my/dummy/memory/trial000/seed{seed}") for seed in (0, 1)]
    scores = [json.loads((x / "summary.json").read_text())["metrics"] for x in folders]
    assert trial.value == pytest.approx(sum(x["eval/return_mean"] for x in scores) / 2)


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["trail=3"], {}, r"Unknown key `trail`\. The nearest: trials"),
        (["env=dummy", "task=memori"], {}, r"Unknown dummy task `memori`"),
        (
            [],
            {"space": {"model.horzon": [2, 3]}},
            r"Unknown key `model\.horzon`\. .* model\.horizon",
        ),
        ([], {"space": {"model.horizon": [2, 0]}}, r"`model\.horizon` must be at least 2, got 0"),
        (
            [],
            {"space": {"batch.size": {"low": 0, "high": 4, "int": True}}},
            r"`batch\.size` must be at least 1, got 0",
        ),
        ([], {"space": {"latents": ["gaussian", "gausian"]}}, r"conf/latents, got `gausian`"),
        (["logger=csv"], {}, r"`logger` must include jsonl"),
        (["callbacks.evaluate=null"], {}, r"`callbacks\.evaluate` must not be null"),
        (["hydra/launcher=job"], {}, r"Unknown launcher: `job`"),
        (["search=cartpoll"], {}, r"`search` must be given once"),
    ],
)
def test_bad_input_is_one_line_before_any_trial(run, tmp_path, words, content, message):
    status, _, err = run(*words, **content)
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert re.search(message, err)
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_a_missing_optuna_is_told_with_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    status, _, err = run()
    assert status == 2
    assert err == "error: search= needs `pip install -r requirements-search.txt`\n"


@pytest.mark.slow
def test_a_folder_of_another_search_or_of_another_process_is_refused(run):
    assert run("trials=1")[0] == 0
    status, _, err = run("trials=2", "batch.size=7")
    assert status == 2
    assert "searches/my holds a search that differs in overrides. Choose another root=" in err
    with study.open_study(
        command.Search.read(sweep.parse(["search=my.yaml"])), Path("searches/my")
    ):
        status, _, err = run("trials=2")
    assert status == 2
    assert f"searches/my is in use by another process ({os.uname().nodename} {os.getpid()})" in err
    assert len(trials_of()) == 1


def test_the_end_of_a_journal_that_was_being_written_is_removed(tmp_path):
    journal = tmp_path / study.JOURNAL
    journal.write_bytes(b'{"a": 1}\n{"a": 2}\n{"b')
    study._cut_torn_line(journal)
    assert journal.read_bytes() == b'{"a": 1}\n{"a": 2}\n'


# -------------------------------------------------------------------------------------- signals

WITH_STUB = """
import sys
from dreamer.run.folder import RunFolder
from experiments.sweep import jobs
from experiments.sweep.grid import Job
from experiments.sweep.entry import run
RunFolder.check_same_run = RunFolder.check_may_begin = lambda *_: None
jobs.TRAIN = (sys.argv.pop(1),)
run()
"""


@pytest.fixture
def start(written, repository, tmp_path):
    """Start a search as a process of its own, which leads a process group."""
    processes = []

    def begin(program: list[str], fates: dict | None = None, **content) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *program, written(**content)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(repository), "STUB": json.dumps(fates or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(process: subprocess.Popen, path: Path) -> None:
    deadline = time.time() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.02)


def stop(process: subprocess.Popen, number: int) -> str:
    """Send a signal to a search, or to all of its processes; returns what it printed."""
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    return process.communicate(timeout=60)[0]


@pytest.mark.slow
def test_a_search_goes_on_after_ctrl_c_and_after_a_kill(start):
    program = ["-c", WITH_STUB, str(STUB)]
    content = {"space": {"model.horizon": [3, 4]}, "trials": 2}
    for number in (signal.SIGINT, signal.SIGKILL):
        process = start(program, fates={"SLOW": 20}, **content)
        before = len(lines("starts"))
        while len(lines("starts")) == before:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        output = stop(process, number)
        assert len(trials_of()) == 1
        assert trials_of()[0].state == optuna.trial.TrialState.RUNNING
        if number == signal.SIGINT:
            assert process.returncode == 130, output
            assert "The same command continues the search." in output
            assert lines("stopped") == ["dummy/memory/trial000/seed0"]
    process = start(program, **content)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "2 trials: 2 finished" in output
    assert lines("starts") == 3 * ["dummy/memory/trial000/seed0"] + ["dummy/memory/trial001/seed0"]


@pytest.mark.long
def test_real_runs_of_a_search_are_resumed_and_find_a_better_value(start, repository):
    content = {
        "overrides": {
            **SEARCH["overrides"],
            **{"debug": "fast", "total_frames": 300, "prefill_policy_steps": 48},
            **{"callbacks.video": None, "callbacks.checkpoint.every_frames": 16},
            "callbacks.evaluate": {"every_frames": 100, "episodes": 1, "video_policy_steps": 0},
        },
        "space": {"model.world_model_optimizer.learning_rate": [1e-6, 1e-4, 1e-2]},
        "objective": {"metric": "world_model/loss", "direction": "minimize"},
        "sampler": "grid",
        "trials": 3,
    }
    program = [str(repository / "sweep.py")]
    folders = [Path(f"searches/my/dummy/memory/trial{n:03}/seed0") for n in range(3)]
    for folder, number in zip(folders, (signal.SIGINT, signal.SIGKILL), strict=False):
        process = start(program, **content)
        wait_for(process, folder / "checkpoints/last.ckpt")
        stop(process, number)
    assert "everything is saved" in (folders[0] / "log.txt").read_text()
    process = start(program, **content)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert [trial.state.name for trial in trials_of()] == 3 * ["COMPLETE"]
    for trial, folder in zip(trials_of(), folders, strict=True):
        summary = json.loads((folder / "summary.json").read_text())
        assert trial.value == summary["metrics"]["world_model/loss"]
        assert (folder / "log.txt").read_text().count("Finished after") == 1
    assert "(resumed at frame" in (folders[1] / "log.txt").read_text()
    values = [trial.value for trial in trials_of()]
    assert min(values) == values[2] < values[0]  # the loss falls with the largest rate only
