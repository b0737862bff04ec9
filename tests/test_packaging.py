"""What `pip install .` installs: the package, its configuration and its commands."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dreamer.run.paths import CONF, PRETRAINED

LOCKED = ("requirements.txt", "requirements-suites.txt", "requirements-launchers.txt")
PYTHONS = ("3.11", "3.12", "3.13")
QUICK = ("debug=fast", "logger=jsonl", "total_frames=450")
# torch is installed first, in a build for the machine at hand, with all that only it needs.
WITH_TORCH = re.compile(r"torch|triton|cuda-.*|nvidia-.*")


@pytest.fixture
def project(repository) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())


class Pin(NamedTuple):
    """A line of the lock file, and the hashes below it."""

    requirement: Requirement
    hashes: list[str]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)


@pytest.fixture
def pins(repository) -> list[Pin]:
    text = (repository / "requirements.lock").read_text().replace(" \\\n", " ")
    lines = [line for line in text.splitlines() if re.match(r"\w", line)]
    split = [re.split(r"\s+--hash=", line) for line in lines]
    return [Pin(Requirement(first), hashes) for first, *hashes in split]


def read_requirements(path: Path) -> list[Requirement]:
    lines = path.read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def applies(requirement: Requirement, python: str) -> bool:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.5",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
    }
    return requirement.marker is None or requirement.marker.evaluate(environment)


def test_every_package_is_installed(project, repository):
    on_disk = {p.parent for top in ("dreamer", "experiments") for p in modules(repository / top)}
    names = {".".join(p.relative_to(repository).parts) for p in on_disk}
    assert {"dreamer", "experiments", "experiments.plots"} < names
    assert set(project["tool"]["setuptools"]["packages"]) == names | {"dreamer.conf"}


def modules(folder: Path) -> list[Path]:
    return list(folder.rglob("__init__.py"))


def test_every_file_beside_a_module_is_installed(project, repository):
    """Data that code reads, such as published scores, and the licences of such data."""
    patterns = project["tool"]["setuptools"]["package-data"]
    for path in repository.glob("experiments/**/*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            package = ".".join(path.parent.relative_to(repository).parts)
            assert any(path.match(pattern) for pattern in patterns[package]), path


def test_every_trained_agent_is_installed(project, repository):
    (pattern,) = project["tool"]["setuptools"]["package-data"]["dreamer"]
    files = {path for path in PRETRAINED.rglob("*") if path.is_file()}
    assert len(files) > 10
    assert set((repository / "dreamer").glob(pattern)) == files


def test_every_file_of_the_configuration_is_installed(project, repository):
    setuptools = project["tool"]["setuptools"]
    folder = repository / setuptools["package-dir"]["dreamer.conf"]
    assert folder == CONF
    (pattern,) = setuptools["package-data"]["dreamer.conf"]
    files = {path for path in folder.rglob("*") if path.is_file()}
    assert len(files) > 20
    assert set(folder.glob(pattern)) == files


def test_the_commands_exist(project, repository):
    scripts = project["project"]["scripts"]
    assert scripts["dreamer-train"] == "dreamer.cli.train:run"
    for target in scripts.values():
        module, _, function = target.partition(":")
        path = repository.joinpath(*module.split(".")).with_suffix(".py")
        assert f"\ndef {function}() -> None:" in path.read_text()


def test_dependencies_are_written_once(project, repository):
    assert "dependencies" in project["project"]["dynamic"]
    dynamic = project["tool"]["setuptools"]["dynamic"]
    extras = dynamic["optional-dependencies"].values()
    files = [entry["file"] for entry in (dynamic["dependencies"], *extras)]
    assert sorted(files) == sorted(LOCKED)
    for file in files:
        lines = (repository / file).read_text().splitlines()
        assert not [line for line in lines if line.startswith("-")]  # setuptools reads no options


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", LOCKED)
def test_the_lock_satisfies_the_requirements(file, python, repository, pins):
    wanted = [r for r in read_requirements(repository / file) if applies(r, python)]
    assert wanted
    for requirement in wanted:
        if canonicalize_name(requirement.name) == "torch":
            continue
        name = canonicalize_name(requirement.name)
        found = [p.requirement for p in pins if p.name == name and applies(p.requirement, python)]
        assert len(found) == 1, f"{requirement}: run `make lock`"
        (version,) = [one.version for one in found[0].specifier]
        assert requirement.specifier.contains(version, prereleases=True), requirement


def test_every_pin_of_the_lock_has_one_version_and_a_hash(pins):
    assert len(pins) > 50
    for pin in pins:
        (specifier,) = pin.requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version, pin.requirement
        assert pin.hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in pin.hashes)


def test_the_lock_leaves_torch_to_the_machine_and_names_no_registry(pins, repository):
    assert not [pin.name for pin in pins if WITH_TORCH.fullmatch(pin.name)]
    assert not [pin.name for pin in pins if pin.requirement.url]
    text = (repository / "requirements.lock").read_text()
    assert not re.search(r"://|^-|index-url|find-links", text, re.MULTILINE)


def test_the_supported_versions_of_python_are_those_of_the_lock(project):
    prefix = "Programming Language :: Python :: "
    classifiers = project["project"]["classifiers"]
    assert tuple(c.removeprefix(prefix) for c in classifiers if c.startswith(prefix)) == PYTHONS
    assert project["project"]["requires-python"] == f">={PYTHONS[0]}"


def test_make_knows_what_ci_does_and_lists_every_target(repository):
    def make(*words: str) -> str:
        done = subprocess.run(
            ["make", *words], cwd=repository, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert make("-n", "check").split() == [".ci/run"]
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (repository / "Makefile").read_text(), re.MULTILINE)
    listed = [line.split()[0] for line in make("help").splitlines()]
    assert listed == targets.split()


@pytest.fixture(scope="module")
def installed(request, tmp_path_factory) -> Path:
    """Where a wheel is installed that was built from a copy of this checkout, now gone."""
    folder = tmp_path_factory.mktemp("installed")
    checkout, target = folder / "checkout", folder / "target"
    leave_out = shutil.ignore_patterns(".*", "runs", "build", "tests", "*.egg-info")
    shutil.copytree(request.config.rootpath, checkout, ignore=leave_out)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(checkout)], check=True)
    shutil.rmtree(checkout)
    return target


@pytest.fixture
def command(installed, tmp_path):
    """Run an installed command in an empty folder; the dependencies are those of this test."""

    def run(name: str, *words: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(installed)}
        done = subprocess.run(
            [str(installed / "bin" / name), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_an_installed_copy_trains_in_an_empty_folder(command, tmp_path):
    command("dreamer-train", *QUICK, "env=dummy", "task=memory")
    assert (tmp_path / "runs/dummy/memory/debug/seed0/summary.json").exists()


@pytest.mark.slow
def test_an_installed_copy_sweeps_and_reports(command, tmp_path):
    """Its jobs are processes of their own, which find the package without a checkout."""
    (tmp_path / "grid.yaml").write_text("variants: [no_layer_norm]\ntasks: [dummy/memory]\n")
    # Modules of the user's own, named like ours and like torch's: none of them is to be loaded.
    for name in ("train.py", "torch.py"):
        (tmp_path / name).write_text("raise RuntimeError('the wrong module')\n")
    words = ("grid=grid.yaml", "hydra/launcher=joblib", *QUICK)
    printed = command("dreamer-sweep", *words, "dry_run=true")
    assert "\ndreamer-train env=dummy task=memory variant=no_layer_norm seed=0" in printed
    assert "1 jobs: 1 finished" in command("dreamer-sweep", *words)
    assert "no_layer_norm" in command("dreamer-report", "runs")
    assert (tmp_path / "runs" / "report" / "report.html").exists()


@pytest.mark.slow
def test_an_installed_copy_carries_the_trained_agents(command, tmp_path):
    command("dreamer-evaluate", "pretrained=memory", "episodes=1")
    assert (tmp_path / "runs" / "pretrained" / "memory" / "evaluation.json").exists()


@pytest.mark.slow
def test_an_installed_copy_carries_the_published_scores(command, tmp_path):
    command("dreamer-report", "source=published", "out=report")
    assert (tmp_path / "report" / "scores.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dreamer-check", "dreamer-evaluate"])
def test_an_installed_command_explains_itself(name, command):
    assert f"or {name}" in command(name, "--help")
