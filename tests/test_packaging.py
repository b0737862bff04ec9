"""What `pip install .` installs: the package, its configuration and its commands."""

import os
import shutil
import subprocess
import sys
import tomllib

import pytest

from dreamer.run.paths import CONF


@pytest.fixture
def project(repository) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def test_every_package_is_installed(project, repository):
    on_disk = {p.parent for p in (repository / "dreamer").rglob("__init__.py")}
    names = {".".join(p.relative_to(repository).parts) for p in on_disk}
    assert set(project["tool"]["setuptools"]["packages"]) == names | {"dreamer.conf"}


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
    file = project["tool"]["setuptools"]["dynamic"]["dependencies"]["file"]
    lines = (repository / file).read_text().splitlines()
    assert not [line for line in lines if line.startswith("-")]  # setuptools reads no options


@pytest.mark.slow
def test_an_installed_copy_trains_in_an_empty_folder(repository, tmp_path):
    """Built, installed and started as a user does; the dependencies are those of this test."""
    checkout, target, work = (tmp_path / name for name in ("checkout", "target", "work"))
    leave_out = shutil.ignore_patterns(".*", "runs", "build", "tests", "*.egg-info")
    shutil.copytree(repository, checkout, ignore=leave_out)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(checkout)], check=True)
    shutil.rmtree(checkout)
    work.mkdir()
    words = ["env=dummy", "task=memory", "debug=fast", "logger=jsonl", "total_frames=500"]
    environment = os.environ | {"PYTHONPATH": str(target)}
    command = [str(target / "bin" / "dreamer-train"), *words]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (work / "runs/dummy/memory/debug/seed0/summary.json").exists()
