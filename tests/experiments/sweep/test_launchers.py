"""Launchers: what each job may take of a machine, and what a cluster is told."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus

from experiments.sweep import jobs, launchers
from experiments.sweep.grid import Choice, Grid
from experiments.sweep.jobs import Planned, Share
from experiments.sweep.plan import make_plan
from experiments.sweep.state import read_state

STUB = Path(__file__).parent / "stub_train.py"
CHOICE = Choice(["dummy/memory"], ["dreamerv2"], [0, 1], ("total_frames=600",))
# sbatch keeps the script that it gets, srun runs what it gets, scontrol notes what it is told.
CLUSTER = {
    "sbatch": 'cp "$1" "$CLUSTER/script.sh"; echo Submitted batch job 7',
    "srun": """
        while [ "${1#--}" != "$1" ]; do
            case "$1" in --output|--error) shift;; esac
            shift
        done
        exec "$@"
        """,
    "scontrol": 'echo "$@" >> "$CLUSTER/told"',
}

# Environments that are there once two processes have asked for some: a job alone waits in vain.
MEET = "env._target_=meeting.make_envs"
MEETING = """
import os, sys, time
from pathlib import Path
from dreamer.envs.dummy import make_dummy

def make_envs(**kwargs):
    if sys.argv[0].endswith("sweep.py"):  # which looks at the environments of its jobs first
        return make_dummy(**kwargs)
    folder, deadline = Path(__file__).parent, time.time() + 60
    (folder / f"{os.getpid()}.here").touch()
    while len(list(folder.glob("*.here"))) < 2:
        if time.time() > deadline:
            raise TimeoutError("The other job did not come.")
        time.sleep(0.01)
    return make_dummy(**kwargs)
"""


@pytest.fixture
def plan(tmp_path) -> list[Planned]:
    return [
        Planned(job, tmp_path / job.name, 600, 0)
        for job in Grid.read("ablations", CHOICE).jobs(tmp_path)
    ]


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """The commands of SLURM, on this machine."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, script in CLUSTER.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("CLUSTER", str(folder))
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = "ran"
    monkeypatch.setattr("submitit.slurm.slurm.SlurmJob.results", lambda self: [done])
    return folder


@pytest.mark.slow
def test_one_after_the_other_each_job_has_the_whole_machine(plan, monkeypatch):
    monkeypatch.setattr(jobs, "TRAIN", (str(STUB),))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert launchers.launch(plan, (), plan[0].folder.parents[3], ["0", "1"]) == ["ran", "ran"]
    variables = json.loads((plan[1].folder / "variables.json").read_text())
    assert variables == {"OMP_NUM_THREADS": None, "CUDA_VISIBLE_DEVICES": None}


@pytest.mark.parametrize(
    ("words", "due", "at_once", "threads"),
    [
        (("hydra/launcher=joblib", "hydra.launcher.n_jobs=3"), 9, 3, 4),
        (("hydra/launcher=joblib", "hydra.launcher.n_jobs=3"), 2, 2, 6),
        (("hydra/launcher=joblib", "hydra.launcher.n_jobs=-1"), 99, 12, 1),
        (("hydra/launcher=submitit_local",), 5, 5, 2),
    ],
)
def test_jobs_beside_each_other_share_cores_and_devices(
    monkeypatch, tmp_path, words, due, at_once, threads
):
    shares = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.setattr(
        launchers.Plugins, "instantiate_launcher", lambda self, **kw: Recorder(kw, shares)
    )
    launchers.launch([None] * due, words, tmp_path, ["0", "1"])
    assert shares == [Share(at_once, threads, ("0", "1"))]


class Recorder:
    """A launcher that runs nothing."""

    def __init__(self, options, shares):
        shares.append(options["task_function"].keywords["share"])

    def launch(self, job_overrides, initial_job_idx):
        return []


def test_every_job_gets_a_device_to_itself_while_there_are_enough(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    share = Share(at_once=3, threads=1, devices=("4", "6"))
    with jobs._device(share) as first, jobs._device(share) as second:
        assert (first, second) == ("4", "6")
        with jobs._device(share) as third, jobs._device(share) as fourth:
            assert third == "4"  # the first one's second place
            assert fourth == "6"
            with jobs._device(share) as fifth:
                assert fifth in ("4", "6")  # beyond all places
    with jobs._device(share) as again:
        assert again == "4"


def test_slurm_is_told_to_requeue_and_to_warn_before_time_is_up(plan, cluster, tmp_path):
    words = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu")
    assert launchers.launch(plan, words, tmp_path, []) == ["ran", "ran"]
    script = (cluster / "script.sh").read_text()
    for line in ("--partition=gpu", "--requeue", "--signal=USR2@120", "--array=0-1%2"):
        assert f"#SBATCH {line}\n" in script
    assert re.search(r"^srun .* -u -m submitit.core._submit ", script, re.MULTILINE)
    submitted = sorted((tmp_path / ".submitit").rglob("*_submitted.pkl"))
    assert len(submitted) == 2
    for path in submitted:
        assert pickle.loads(path.read_bytes())._timeout_countdown == 1000


@pytest.mark.slow
def test_a_preempted_job_saves_is_requeued_and_goes_on(cluster, tmp_path, tiny_overrides):
    """The script that SLURM would get, run twice: warned once, and then left to finish."""
    common = [w for w in tiny_overrides if not w.startswith(("env=", "task=", "root=", "total"))]
    choice = CHOICE._replace(seeds=1, words=(*common, "callbacks.evaluate=null"))
    words = ("total_frames=1500", *choice.words)
    plan = make_plan(Grid.read("ablations", choice._replace(words=words)).jobs(tmp_path))
    launchers.launch(plan, ("hydra/launcher=submitit_slurm",), tmp_path, [])
    environment = os.environ | {
        **{"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
    }

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(cluster / "script.sh")], env=environment, start_new_session=True
        )

    job = start()
    deadline = time.time() + 120
    last = plan[0].folder / "checkpoints" / "last.ckpt"
    while not (last.exists() and read_state(plan[0].folder).frames):
        assert job.poll() is None and time.time() < deadline
        time.sleep(0.1)
    before = read_state(plan[0].folder).frames
    children = subprocess.check_output(["ps", "-o", "pid=,args=", "-g", str(job.pid)], text=True)
    for line in children.splitlines():  # as SLURM does: to every process of the step
        process, arguments = line.split(maxsplit=1)
        if "bash" not in arguments:
            os.kill(int(process), signal.SIGUSR2)
    job.wait(60)
    assert (cluster / "told").read_text() == "requeue 7\n"
    state = read_state(plan[0].folder)
    assert state.phase == "interrupted"
    assert state.frames >= before > 0
    log = (plan[0].folder / "log.txt").read_text()
    assert "Stopped by SIGTERM; everything is saved" in log
    assert start().wait(300) == 0
    assert read_state(plan[0].folder, 1500).phase == "finished"
    assert "(resumed at frame" in (plan[0].folder / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ("hydra/launcher=submitit_local",),
    ],
    ids=["joblib", "submitit_local"],
)
def test_two_real_jobs_at_once(launcher, tmp_path, repository, tiny_overrides):
    common = [w for w in tiny_overrides if not w.startswith(("env=", "task=", "root="))]
    grid = ("grid=ablations", "task=dummy/memory", "variant=dreamerv2", "seeds=2", "root=runs")
    (tmp_path / "meeting.py").write_text(MEETING)
    end = subprocess.run(
        [sys.executable, repository / "sweep.py", *grid, *common, *launcher, MEET],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert end.returncode == 0
    folders = [tmp_path / "runs/dummy/memory/dreamerv2" / f"seed{seed}" for seed in (0, 1)]
    assert [read_state(folder, 80).phase for folder in folders] == ["finished"] * 2
    assert len(list(tmp_path.glob("*.here"))) == 2
