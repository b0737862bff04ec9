"""`python sweep.py`: what is run, what is left alone, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import lock_descriptor
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from dreamer.run.folder import RunFolder
from dreamer.run.train import train
from experiments.sweep import command as sweep
from experiments.sweep import jobs
from experiments.sweep.grid import Choice, Grid
from experiments.sweep.plan import make_plan
from experiments.sweep.record import read_jobs
from experiments.sweep.state import read_state

STUB = Path(__file__).parent / "stub_train.py"
GRID = ("grid=ablations", "env=dummy", "task=memory", "variant=dreamerv2,no_layer_norm", "seeds=2")
NAMES = [
    f"dummy/memory/{variant}/seed{seed}"
    for variant in ("dreamerv2", "no_layer_norm")
    for seed in (0, 1)
]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Sweep in this process with a stand-in for train.py; returns exit status, stdout, stderr."""
    monkeypatch.setattr(jobs, "TRAIN", (str(STUB),))
    monkeypatch.chdir(tmp_path)

    def sweep_with(
        *words: str, fates: dict[str, str] | None = None, grid=GRID, check_folders: bool = False
    ):
        monkeypatch.setenv("STUB", json.dumps(fates or {}))
        with monkeypatch.context() as patch:
            if not check_folders:  # the stand-in leaves no configuration
                for name in ("check_same_run", "check_may_begin"):
                    patch.setattr(RunFolder, name, lambda *_: None)
            status = sweep.main([*grid, "total_frames=600", *words])
        return status, *capsys.readouterr()

    return sweep_with


@pytest.fixture
def starts(tmp_path):
    """The jobs that were started, in their order."""

    def read() -> list[str]:
        path = tmp_path / "runs" / "starts"
        return path.read_text().splitlines() if path.exists() else []

    return read


# ------------------------------------------------------------------------------ what is to be done


@pytest.mark.slow
def test_a_dry_run_tells_jobs_commands_and_cost_and_does_nothing(run, tmp_path):
    status, out, _ = run("dry_run=true")
    assert status == 0
    assert re.search(r"dummy/memory +no_layer_norm +1 +missing +600", out)
    command = "python train.py env=dummy task=memory variant=no_layer_norm seed=1 root=runs"
    assert f"{command} total_frames=600 experiment=no_layer_norm\n" in out
    assert "4 jobs: 4 missing; 0 of 2,400 frames" in out
    # 601 slots of 64 x 64 pixels and 22 bytes beside: 2 actions, reward, flags, episode
    disk = 4 * 601 * (64 * 64 + 22) / 2**30
    assert f"To do: 4 jobs, 2,400 frames; their replay needs {disk:.2f} GiB on disk" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_dry_run_prints_is_what_runs_land_by(tmp_path, repository):
    """Every job's folder is where `python train.py` with these words puts its run."""
    choice = Choice(["pong", "dummy/memory"], ["dreamerv2", "no_layer_norm"], [7], ("debug=fast",))
    planned = make_plan(Grid.read("ablations", choice).jobs(tmp_path))
    assert len(planned) == 4
    with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
        for one in planned:
            cfg = compose("train", overrides=list(one.job.words))
            assert RunFolder.of(cfg).path == one.folder == tmp_path / one.job.name
            assert cfg.total_frames == one.total_frames == 3000


@pytest.mark.slow
def test_a_sweep_runs_every_job_once_however_often_it_is_started(run, starts, tmp_path):
    status, out, _ = run()
    assert status == 0
    assert starts() == NAMES
    assert "4 jobs: 4 finished; 2,400 of 2,400 frames" in out
    assert "Tables and figures: python -m experiments.report runs" in out
    assert run()[0] == 0
    assert starts() == NAMES
    assert "To do: 0 jobs, 0 frames" in run("dry_run=true")[1]
    assert run("total_frames=700")[0] == 0  # the later word wins: more is asked of all
    assert starts() == 2 * NAMES
    assert len(read_jobs(tmp_path / "runs")) == len(NAMES)  # so that a report can miss one


# ------------------------------------------------------------------------------------- failures


@pytest.mark.slow
def test_a_failed_job_stops_no_other_and_is_run_again_on_request_only(run, starts):
    status, out, err = run(fates={NAMES[1]: "fail"})
    assert status == 1
    assert starts() == NAMES
    assert (
        f"failed: {NAMES[1]} ({Path('runs', NAMES[1]).absolute()}); retry=true runs it again" in out
    )
    assert "    RuntimeError: the door is stuck" in out
    assert "1 of 4 jobs are not finished." in err
    status, out, _ = run()
    assert (status, starts()) == (1, NAMES)
    assert out.count("RuntimeError: the door is stuck") == 1
    assert run("retry=true")[0] == 0
    assert starts() == [*NAMES, NAMES[1]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fate", "last"),
    [
        ("SIGSEGV", ["about to go", "The process was killed by SIGSEGV."]),
        ("reject", ["error: this value cannot be", "The process ended with exit code 1."]),
    ],
)
def test_a_process_that_dies_without_a_word_is_given_one(run, starts, tmp_path, fate, last):
    assert run(fates={NAMES[0]: fate})[0] == 1
    assert (tmp_path / "runs" / NAMES[0] / "failure.txt").read_text().splitlines() == last
    assert len(starts()) == 4


@pytest.mark.parametrize("fate", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_job_killed_from_outside_has_not_failed_and_goes_on_next_time(run, starts, fate):
    status, out, _ = run(fates={NAMES[0]: fate})
    assert status == 1
    assert "1 interrupted" in out
    assert run()[0] == 0
    assert starts() == [*NAMES, NAMES[0]]


# ---------------------------------------------------------------------------------- two at a time


@pytest.mark.slow
def test_a_job_that_another_process_runs_is_waited_for_and_not_run_twice(run, starts, tmp_path):
    folder = tmp_path / "runs" / NAMES[0]
    folder.mkdir(parents=True)
    lock = (folder / "lock").open("w")
    lock_descriptor(lock.fileno())

    def finish():
        while len(starts()) < 3:  # the others are done meanwhile
            time.sleep(0.05)
        (folder / "summary.json").write_text('{"frames": 600}')
        lock.close()

    other = threading.Thread(target=finish)
    other.start()
    assert run()[0] == 0
    other.join()
    assert starts() == NAMES[1:]


@pytest.mark.slow
def test_a_job_that_another_process_gives_up_is_taken_over(run, starts, tmp_path):
    folder = tmp_path / "runs" / NAMES[0]
    folder.mkdir(parents=True)
    lock = (folder / "lock").open("w")
    lock_descriptor(lock.fileno())
    threading.Timer(1, lock.close).start()
    assert run()[0] == 0
    assert sorted(starts()) == NAMES


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grid=ablation"], r"Unknown grid .*`ablation`\. The nearest: ablations"),
        (["task=memori"], r"Unknown dummy task `memori`\. The nearest: `memory`"),
        (["env=atari", "task=pnog"], r"seed0: Unknown Atari task `pnog`\. The nearest: `pong`"),
        (["env=dumy"], r"conf/env, got `dumy`"),
        (["variant=no_layernorm"], r"`no_layernorm`\. The nearest: no_layer_norm"),
        (["seeds=0"], r"`seeds` must be at least 1, got 0"),
        (["seeds=[1,1]"], r"Seeds must be unique, got 1 twice"),
        (["seeds=1,2,1"], r"Seeds must be unique, got 1 twice"),
        (["seeds=some"], r"`seeds` must be a number of seeds .*got some"),
        (["seed=1"], r"Unknown key `seed`\. The nearest: seeds"),
        (["tasks=pong"], r"Unknown key `tasks`\. The nearest: task"),
        (["dryrun=true"], r"Unknown key `dryrun`\. The nearest: dry_run"),
        (["model.horzon=3"], r"Unknown key `model\.horzon`\. The nearest: model\.horizon"),
        (["+kl_balanse=1"], r"Unknown key `kl_balanse`\. The nearest: kl_balance"),
        (["retry=yes"], r"`retry` must be true or false, got `yes`"),
        (["run_dir=x"], r"`run_dir` must not be set in the command line: use root="),
        (["kl_balance=2"], r"dreamerv2/seed0: `kl_balance` must be true, false or a number in"),
        (["again"], r"Arguments must be key=value, got `again`"),
        (["hydra/launcher=job"], r"Unknown launcher: `job`\. The nearest: joblib"),
    ],
)
def test_bad_input_is_one_line_before_any_job_starts(run, tmp_path, words, message):
    replaced = {word.partition("=")[0] for word in words}
    kept = [word for word in GRID if word.partition("=")[0] not in replaced]
    status, _, err = run(*words, grid=kept)
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_launcher_is_told_with_what_to_install(run, monkeypatch):
    Plugins.instance()  # which lets every launcher that is installed enter its configuration
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "joblib.yaml")
    status, _, err = run("hydra/launcher=joblib")
    assert status == 2
    assert "hydra/launcher=joblib needs `pip install -r requirements-launchers.txt`" in err


def test_without_a_word_the_words_are_explained(run, capsys):
    for words, status in (([], 2), (["--help"], 0)):
        assert sweep.main(words) == status
        printed = capsys.readouterr().out
        assert "  python sweep.py grid=ablations task=pong,boxing seeds=3" in printed
        assert "  dry_run=false                     Only print the jobs" in printed


@pytest.mark.slow
def test_a_folder_of_another_configuration_is_told_before_any_job_starts(
    run, starts, compose_tiny, tiny_overrides, tmp_path
):
    train(compose_tiny(f"root={tmp_path / 'runs'}", "variant=dreamerv2", "seed=1"))
    status, _, err = run(check_folders=True)
    assert status == 2
    assert re.search(r"error: .*dreamerv2/seed1: .*holds a run of another configuration, diff", err)
    assert starts() == []


def test_a_folder_of_somebody_else_is_told_before_any_job_starts(run, starts, tmp_path):
    mine = tmp_path / "runs" / NAMES[1] / "metrics.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    status, _, err = run(check_folders=True)
    assert status == 2
    assert re.search(r"error: dummy/memory/dreamerv2/seed1: .* but holds metrics.jsonl\. To ", err)
    assert starts() == []
    assert mine.read_text() == "mine"


# --------------------------------------------------------------------------- real jobs, and signals


@pytest.fixture
def start(tmp_path, repository, tiny_overrides):
    """Start a sweep of four real jobs as a process of its own, which leads a process group."""
    kept = [w for w in tiny_overrides if not w.startswith(("env=", "task=", "root=", "total"))]
    processes = []

    def start_sweep(*words: str) -> subprocess.Popen:
        own = {word.partition("=")[0] for word in words}
        grid = [word for word in GRID if word.partition("=")[0] not in own]
        process = subprocess.Popen(
            [
                *(sys.executable, str(repository / "sweep.py"), *grid, *kept),
                *("total_frames=1000", "callbacks.evaluate=null", *words),
            ],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start_sweep
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(process: subprocess.Popen, path: Path):
    deadline = time.time() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.05)


def summaries(tmp_path: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("summary.json")}


@pytest.mark.long
def test_a_sweep_killed_in_the_middle_does_nothing_twice_and_loses_nothing(
    start, tmp_path, repository
):
    runs = tmp_path / "runs"
    process = start()
    wait_for(process, runs / NAMES[1] / "checkpoints" / "last.ckpt")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = summaries(tmp_path)
    assert [path.parent for path in done] == [runs / NAMES[0]]
    two = start(), start()  # which share what is left
    outputs = [process.communicate(timeout=300)[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], outputs
    assert summaries(tmp_path).items() > done.items()
    for name in NAMES:
        lines = (runs / name / "metrics.jsonl").read_text().splitlines()
        frames = [json.loads(line)["frames"] for line in lines]
        assert frames == sorted(set(frames))  # none twice
        assert frames[-1] == json.loads((runs / name / "summary.json").read_text())["frames"]
        logs = (runs / name / "log.txt").read_text()
        assert logs.count("Finished after") == 1
    assert "(resumed at frame" in (runs / NAMES[1] / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)],
)
@pytest.mark.parametrize(
    "launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")], ids=["basic", "joblib"]
)
def test_a_signal_lets_the_jobs_save_before_the_sweep_ends(start, tmp_path, launcher, number, code):
    folder = tmp_path / "runs" / NAMES[0]
    process = start("seeds=1", "total_frames=4000", *launcher)
    wait_for(process, folder / "metrics.jsonl")
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert "jobs on this machine save first" in output
    assert "The same command continues the sweep." in output
    assert "Stopped by SIGTERM; everything is saved" in (folder / "log.txt").read_text()
    assert read_state(folder, 4000).phase == "interrupted"
