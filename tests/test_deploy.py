"""Dockerfile, compose.yaml and deploy/: they pass their linters, and agree with each other.

No container engine is needed: scripts run here with stand-ins for what they start.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = ("kubernetes-job.yaml", "kubernetes-grid.yaml")
# Notes its words and threads, then waits until it is stopped, if the test wants that.
TRAIN = """
trap 'echo saved >> "$NOTES/starts"; exit 143' TERM
echo "$@" OMP_NUM_THREADS="${OMP_NUM_THREADS:-}" >> "$NOTES/starts"
[ -z "${WAIT:-}" ] || while true; do sleep 0.01; done
exit "${CODE:-0}"
"""
SCONTROL = 'echo "$@" >> "$NOTES/told"'


def run_tool(name: str, *words: str | Path, text: str | None = None) -> None:
    """Run a program that requirements-dev.txt installs, and expect it to be content."""
    program = shutil.which(
        name, path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
    )
    assert program, f"{name} is missing: pip install -r requirements-dev.txt"
    done = subprocess.run([program, *map(str, words)], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def stages(request) -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile, those of its bases included, by name."""
    text = (request.config.rootpath / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in filter(None, text.splitlines()):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            base, _, name = rest.split()
            current = found[name] = list(found.get(base, []))
        else:
            current.append((word, rest))
    return found


@pytest.fixture(scope="module")
def compose_file(request) -> dict[str, Any]:
    return yaml.safe_load((request.config.rootpath / "compose.yaml").read_text())


@pytest.fixture
def manifest(repository):
    def read(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        claim, job = yaml.safe_load_all((repository / "deploy" / name).read_text())
        return claim, job

    return read


@pytest.fixture
def stand_ins(tmp_path, monkeypatch) -> Path:
    """Commands in place of the real ones, and the folder of their notes."""
    for name, script in {"dreamer-train": TRAIN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("NOTES", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


def instructions(stage: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in stage if name == word]


def container(job: dict[str, Any]) -> dict[str, Any]:
    (only,) = job["spec"]["template"]["spec"]["containers"]
    return only


# -------------------------------------------------------------------------------------- linters


def test_hadolint_finds_nothing_in_the_dockerfile(repository):
    run_tool("hadolint", repository / "Dockerfile")


@pytest.mark.slow
def test_compose_yaml_keeps_the_schema_of_compose(repository):
    schema = ("--builtin-schema", "vendor.compose-spec")
    run_tool("check-jsonschema", *schema, repository / "compose.yaml")


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_keep_the_schemas_of_kubernetes(name, repository):
    run_tool("kubernetes-validate", "--strict", "--quiet", repository / "deploy" / name)


@pytest.mark.parametrize("script", ["deploy/slurm.sbatch", ".ci/run"])
def test_shellcheck_finds_nothing_in_a_script(script, repository):
    run_tool(
        "shellcheck", "--exclude=SC1091", repository / script
    )  # .venv/bin/activate is not ours


def test_shellcheck_finds_nothing_in_the_script_of_the_grid(manifest):
    program, flags, script = container(manifest("kubernetes-grid.yaml")[1])["command"]
    assert (program, flags) == ("/bin/sh", "-euc")
    run_tool("shellcheck", "--shell=sh", "-", text=script)


# ----------------------------------------------------------------------------------- Dockerfile


def test_what_the_dockerfile_copies_exists_and_is_not_ignored(stages, repository):
    lines = (repository / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for stage in stages.values()
        for copy in instructions(stage, "COPY")
        for source in copy.split()[:-1]
    }
    assert copied <= sent | {"requirements.txt"}
    for pattern in copied | sent:
        assert list(repository.glob(pattern)), pattern


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_trains_as_a_user_without_rights(target, stages, repository):
    stage = stages[target]
    assert instructions(stage, "USER") == ["1000:1000"]
    assert any("useradd --create-home --uid 1000 " in run for run in instructions(stage, "RUN"))
    assert instructions(stage, "ENTRYPOINT") == ['["dreamer-train"]']
    scripts = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["scripts"]
    assert "dreamer-train" in scripts


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_checks_the_hash_of_each_package_but_torch_and_its_own(target, stages):
    installs = [
        line for line in instructions(stages[target], "RUN") if re.search(r"pip install", line)
    ]
    locked, torch, own = installs
    assert "--require-hashes --no-deps --requirement /build/requirements.lock" in locked
    assert torch.endswith("--constraint /build/requirements.txt torch")
    assert "--no-deps /wheels/*.whl" in own


# --------------------------------------------------------------------------------------- compose


def test_training_and_tensorboard_share_the_runs(compose_file, stages):
    services = compose_file["services"]
    (folder,) = re.findall(r'"(.*)"', *instructions(stages["cpu"], "VOLUME"))
    for service in services.values():
        assert service["volumes"] == [f"runs:{folder}"]
    assert "runs" in compose_file["volumes"]
    home = folder.removesuffix("/runs")
    assert instructions(stages["cpu"], "WORKDIR")[-1] == home  # from which `--logdir runs` counts
    assert services["tensorboard"]["entrypoint"][:3] == ["tensorboard", "--logdir", "runs"]


def test_the_services_build_targets_of_the_dockerfile(compose_file, stages):
    for service in compose_file["services"].values():
        target = service["build"]["target"]
        assert target in stages
        assert service["image"] == f"dreamerv2-lightning:{target}"


def test_everything_that_stops_a_run_leaves_it_a_minute_to_save(compose_file, manifest):
    for name in ("train", "train-cuda"):
        minutes = compose_file["services"][name]["stop_grace_period"].removesuffix("m")
        assert int(minutes) >= 1  # compose's own: 10 seconds
    for name in MANIFESTS:
        pod = manifest(name)[1]["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] >= 60  # Kubernetes' own: 30


# ------------------------------------------------------------------------------------ Kubernetes


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_pod_runs_as_the_user_of_the_image_and_keeps_its_runs(name, manifest, stages):
    claim, job = manifest(name)
    pod, one = job["spec"]["template"]["spec"], container(job)
    user, group = map(int, instructions(stages["cpu"], "USER")[0].split(":"))
    security = pod["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == (user, group)
    assert security["fsGroup"] == group  # may write to the volume
    (volume,), (mount,) = pod["volumes"], one["volumeMounts"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert mount["name"] == volume["name"]
    assert [f'["{mount["mountPath"]}"]'] == instructions(stages["cpu"], "VOLUME")
    assert one["image"].removeprefix("dreamerv2-lightning:") in stages


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_pod_that_was_stopped_counts_as_no_failure(name, manifest):
    _, job = manifest(name)
    rules = job["spec"]["podFailurePolicy"]["rules"]
    codes = {tuple(r["onExitCodes"]["values"]): r["action"] for r in rules if "onExitCodes" in r}
    assert codes[128 + signal.SIGTERM,] == "Ignore"
    assert codes[2,].startswith("Fail")  # the exit code of a wrong command line
    assert {r["onExitCodes"]["containerName"] for r in rules if "onExitCodes" in r} == {"train"}
    assert container(job)["name"] == "train"
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"  # the policy needs it


def test_the_indices_of_the_grid_are_its_tasks_times_its_seeds(manifest, stand_ins):
    _, job = manifest("kubernetes-grid.yaml")
    command, count = container(job)["command"], job["spec"]["completions"]
    for index in range(count):
        environment = os.environ | {"JOB_COMPLETION_INDEX": str(index)}
        subprocess.run(command, env=environment, check=True)
    starts = (stand_ins / "starts").read_text().splitlines()
    runs = {tuple(re.findall(r"(?:task|seed)=(\w+)", line)) for line in starts}
    assert runs == {(t, s) for t in ("pong", "boxing", "breakout") for s in ("0", "1")}
    assert count == len(runs) == 6


def test_the_words_of_the_manifests_compose(manifest, compose_any, stand_ins):
    one = container(manifest("kubernetes-job.yaml")[1])
    assert compose_any(*one["args"]).task == "pong"
    grid = container(manifest("kubernetes-grid.yaml")[1])
    subprocess.run(grid["command"], env=os.environ | {"JOB_COMPLETION_INDEX": "4"}, check=True)
    *words, _ = (stand_ins / "starts").read_text().split()
    cfg = compose_any(*words)
    assert (cfg.task, cfg.seed, cfg.experiment_name) == ("boxing", 1, "cpu")


def test_the_words_of_compose_yaml_compose(compose_file, compose_any):
    (words,) = re.findall(r"\$\{WORDS:-(.*)\}", compose_file["services"]["train"]["command"])
    assert compose_any(*shlex.split(words)).task == "memory"


# ----------------------------------------------------------------------------------------- SLURM


def submit(repository: Path, *words: str, **variables: str) -> subprocess.Popen:
    """Start the script as SLURM does on a node."""
    slurm = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
    command = ["bash", str(repository / "deploy" / "slurm.sbatch"), *words]
    return subprocess.Popen(command, env=os.environ | slurm | variables)


def wait_for_start(notes: Path) -> None:
    deadline = time.monotonic() + 30
    while not (notes / "starts").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("code", [0, 2])
def test_the_script_ends_as_its_run_does(code, repository, stand_ins):
    job = submit(repository, "env=atari", "task=pong", CODE=str(code))
    assert job.wait(30) == code
    assert (stand_ins / "starts").read_text() == "env=atari task=pong OMP_NUM_THREADS=4\n"
    assert not (stand_ins / "told").exists()


@pytest.mark.parametrize(
    ("sent", "told"), [(signal.SIGUSR1, "requeue 7\n"), (signal.SIGTERM, None)]
)
def test_a_run_saves_and_is_requeued_when_its_time_is_up_only(sent, told, repository, stand_ins):
    """Time is up: SIGUSR1. Cancelled or preempted: SIGTERM, after which SLURM decides."""
    job = submit(repository, "task=pong", WAIT="yes")
    wait_for_start(stand_ins)
    job.send_signal(sent)
    assert job.wait(30) == 128 + signal.SIGTERM
    assert (stand_ins / "starts").read_text().splitlines()[-1] == "saved"
    notes = stand_ins / "told"
    assert (notes.read_text() if notes.exists() else None) == told


def test_the_script_asks_for_the_signal_that_it_waits_for(repository):
    text = (repository / "deploy" / "slurm.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert options["signal"] == "B:USR1@180"
    assert "requeue" in options
    assert options["open-mode"] == "append"  # a requeued job keeps what it has printed
