"""What every test shares: quiet threads, and whole runs that take half a second."""

import copy
import functools
import gc
import io
import os
import shutil
import signal

# Before torch starts its threads: spinning ones slow a busy machine tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any, TextIO

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

# What imports torch is imported within fixtures: the process that hands out the tests needs none of
# it, and its workers wait for it.

# MuJoCo's tools log through absl. Its handler closes the stream that it found at its import when
# Hydra sets up logging anew: let that not be the one into which pytest captures.
with suppress(ImportError), redirect_stderr(sys.__stderr__):
    import absl.logging  # noqa: F401

REPOSITORY = Path(__file__).parent.parent

# Imports and the collection of the tests make half a million objects that stay: Python is not to
# look for garbage among them again and again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A long test is a slow one, too: `-m "not slow"` selects the fast ones."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")


# 48 frames, all policy steps: six random episodes of the memory world, then updates. No film.
TINY = (
    "env=dummy",
    "task=memory",
    "debug=fast",
    "logger=jsonl",
    "total_frames=81",
    "prefill_policy_steps=48",
    "train_every_policy_steps=8",
    "replay.capacity_policy_steps=1000",
    "callbacks.metrics.every_frames=8",
    "callbacks.checkpoint.every_frames=16",
    "callbacks.evaluate.every_frames=16",
    "callbacks.evaluate.video_policy_steps=0",
    "callbacks.video=null",
)


@pytest.fixture(scope="session")
def tiny_words() -> tuple[str, ...]:
    """Command line of a tiny run without its root."""
    return TINY


@pytest.fixture(autouse=True)
def started_commands_change_nothing() -> Iterator[None]:
    """A command that ends during its start leaves a handler, and no search for garbage."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)
    gc.enable()


@pytest.fixture(autouse=True)
def measure_no_machine(monkeypatch):
    """Counting and timing the arithmetic takes as long as a tiny run; test_cost.py tests it."""
    from dreamer.run.cost import Cost

    monkeypatch.setattr("dreamer.run.train.estimate_cost", lambda *_: Cost(1e6, 1e-3, updates=10))


@pytest.fixture(scope="session")
def renderer() -> str:
    """What draws for MuJoCo here; a test that needs it is skipped where nothing can."""
    from dreamer.envs.opengl import NoRenderer, choose_renderer

    pytest.importorskip("mujoco")
    try:
        return choose_renderer()
    except NoRenderer as problem:
        pytest.skip(str(problem))


@pytest.fixture(params=["plain", "kernels"])
def optimized(request, monkeypatch) -> Callable[[Any], Any]:
    """Takes a network as it is defined, and as kernels compute it, whatever its size."""
    if request.param == "plain":
        return lambda network: network
    import torch

    from dreamer import kernels

    monkeypatch.setattr("dreamer.kernels.chunked.CHUNK", 8)

    def optimize(network: Any) -> Any:
        kernels.optimize(network, torch.device("cpu"))
        return network

    return optimize


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session", autouse=True)
def parse_configs_once() -> Iterator[None]:
    """Hydra parses twenty files whenever it composes, which is half of its time."""
    load, parsed = OmegaConf.load, {}

    def load_once(file: Path | str | TextIO):
        if isinstance(file, Path | str):  # our own code, not Hydra
            return load(file)
        text = file.read()
        if text not in parsed:
            parsed[text] = load(io.StringIO(text))
        return copy.deepcopy(parsed[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load_once)
        yield


@pytest.fixture(scope="session")
def compose_any() -> Callable[..., DictConfig]:
    """Compose conf/train.yaml with overrides, as `python train.py` does."""

    @functools.cache
    def compose_once(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            return compose("train", overrides=list(overrides))

    def compose_with(*overrides: str) -> DictConfig:
        places = [o.partition("=")[2] for o in overrides if o.startswith("root=")]
        composed = compose_once(*(o for o in overrides if not o.startswith("root=")))
        cfg = copy.deepcopy(composed)
        if places:  # each test's own, but all that is composed is the same
            cfg.root = places[-1]
        return cfg

    return compose_with


@pytest.fixture(scope="session")
def trained_run(compose_any, tmp_path_factory) -> Path:
    """The folder of a finished tiny run, to be read only."""
    from dreamer.run.train import train

    root = tmp_path_factory.mktemp("trained")
    return Path(train(compose_any(*TINY, f"root={root}")).run_dir)


@pytest.fixture(scope="session")
def explored_run(compose_any, tmp_path_factory) -> Path:
    """The same of a run whose explorer collected the first frames after the prefill."""
    from dreamer.run.train import train

    root = tmp_path_factory.mktemp("explored")
    words = "explore=plan2explore", "explore.until_frames=60", "explore.ensemble.members=3"
    return Path(train(compose_any(*TINY, *words, f"root={root}")).run_dir)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    """A real S3 server on this machine."""
    from s3 import Server

    server = Server()
    yield server
    server.kill()


@pytest.fixture
def s3(s3_server, monkeypatch) -> Any:
    """The same, running, and the one that s3:// addresses lead to; failures are quick."""
    import s3fs

    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    s3_server.empty()
    yield s3_server
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def tiny_overrides(tmp_path: Path) -> list[str]:
    """The command line of a run of half a second in the test's own folder."""
    return [*TINY, f"root={tmp_path}"]


@pytest.fixture
def finished_run(trained_run, tmp_path) -> Path:
    """The same, copied to where `compose_tiny()` expects it, to go on with."""
    return shutil.copytree(trained_run, tmp_path / "dummy" / "memory" / "debug" / "seed0")


@pytest.fixture
def compose_tiny(compose_any, tiny_overrides) -> Callable[..., DictConfig]:
    """Compose a run of half a second; later overrides win."""
    return lambda *overrides: compose_any(*tiny_overrides, *overrides)
