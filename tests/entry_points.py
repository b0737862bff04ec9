"""Packages with entry points, as pip leaves them; without pip."""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore


def read(pyproject: str) -> dict[str, str]:
    """The suites that a pyproject.toml declares, by name."""
    return tomllib.loads(pyproject)["project"]["entry-points"]["dreamer.envs"]


@contextmanager
def installed(
    folder: Path, package: str, points: Mapping[str, str], *, group: str = "dreamer.envs"
) -> Iterator[None]:
    """Let a folder hold what pip writes of a package; its modules may lie there, too."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    nodes = ConfigStore.instance().repo.get("env", {})
    for name in [name for name, node in nodes.items() if node.provider == package]:
        del nodes[name]
