"""What a run is built of where the machine has a say in it."""

import os
import subprocess
import sys

import pytest
import torch
from tiny import make_agent

from dreamer import build
from dreamer.build import (
    LONG,
    compile_if_worth_it,
    make_evaluation_policy,
    make_explorer,
)
from dreamer.cost import Cost
from dreamer.models.activations import ACTIVATIONS
from dreamer.models.mlp import DenseLayer
from dreamer.runner import train

LONG_RUN = Cost(1e9, seconds=0.1, updates=11 * LONG)
SHORT_RUN = LONG_RUN._replace(updates=9 * LONG)


@pytest.fixture
def compiled(monkeypatch) -> list:
    """What was to be compiled; nothing is."""
    parts = []
    monkeypatch.setattr(build, "compile_activations", lambda x: parts.append(x) is None)
    monkeypatch.setattr(build, "compile_sequences", lambda *x: parts.append(x) is None)
    monkeypatch.setattr(build, "compile_dream", lambda *x: parts.append(x) is None)
    monkeypatch.setattr(build, "compile_recurrence", lambda x, device: parts.append((x, device)))
    return parts


@pytest.fixture(params=[RuntimeError, PermissionError])
def no_compiler(request, monkeypatch):
    def fail(agent):
        raise request.param("No working C++ compiler found.\nA second line.")

    monkeypatch.setattr(build, "compile_activations", fail)


@pytest.mark.parametrize(
    ("choice", "precision", "cost", "expected"),
    [
        ("auto", "bf16-mixed", LONG_RUN, ["activations"]),
        ("auto", "32-true", LONG_RUN, ["activations", "sequences", "dreams"]),
        ("auto", "bf16-mixed", SHORT_RUN, []),
        ("auto", "bf16-mixed", None, []),  # on a GPU
        ("true", "32-true", SHORT_RUN, ["activations", "sequences", "dreams"]),
        ("false", "bf16-mixed", LONG_RUN, []),
    ],
)
def test_what_cpus_compile_is_compiled_where_asked_for_or_worth_it(
    compose_tiny, compiled, choice, precision, cost, expected
):
    agent, overrides = make_agent(), ("batch.size=3", "batch.length=5")
    cfg = compose_tiny(f"compile={choice}", f"precision={precision}", *overrides)
    assert compile_if_worth_it(cfg, agent, cost) == expected
    rssm = agent.world_model.rssm
    parts = [agent, (rssm, 3), (rssm, agent.actor_critic, 15)]
    assert compiled == parts[: len(expected)]
    assert bool(agent.dream_step) == ("dreams" in expected)


def test_without_a_compiler_a_run_goes_on_unless_it_asked_for_one(
    compose_tiny, no_compiler, capsys
):
    auto = compose_tiny("compile=auto", "precision=bf16-mixed")
    assert not compile_if_worth_it(auto, object(), LONG_RUN)
    assert capsys.readouterr().out.startswith("Nothing is compiled: No working C++ compiler found.")
    message = r"working C\+\+ compiler .* with compile=true, actually: No working"
    with pytest.raises(ValueError, match=message):
        compile_if_worth_it(compose_tiny("compile=true"), object(), SHORT_RUN)


def test_what_was_compiled_before_the_compiler_failed_is_told(
    compose_tiny, compiled, monkeypatch, capsys
):
    def fail(*_):
        raise RuntimeError("No working C++ compiler found.")

    monkeypatch.setattr(build, "compile_sequences", fail)
    auto = compose_tiny("compile=auto", "precision=32-true")
    assert compile_if_worth_it(auto, make_agent(), LONG_RUN) == ["activations"]
    assert capsys.readouterr().out.startswith("Nothing else is compiled: No working C++ compiler")


def test_on_a_gpu_recurrent_steps_are_compiled_if_asked_for(compose_tiny, compiled):
    agent = object()
    assert compile_if_worth_it(compose_tiny("compile=true", "cuda_graphs=true"), agent, None)
    assert compiled == [(agent, torch.device("cuda"))]


def test_compiling_on_a_gpu_without_recordings_is_refused_before_anything_is_written(
    compose_tiny, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="false on a CUDA device without cuda_graphs=true"):
        train(compose_tiny("compile=true", "trainer.accelerator=gpu"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_run_compiles_the_activations_of_all_its_networks_and_more(
    compose_tiny, monkeypatch, capsys
):
    made = []
    monkeypatch.setattr(
        "dreamer.runner.make_agent", lambda *a: made.append(build.make_agent(*a)) or made[-1]
    )
    train(compose_tiny("compile=true"))
    assert "threads, compiled activations, sequences, dreams" in capsys.readouterr().out
    layers = [m for m in made[0].modules() if isinstance(m, DenseLayer)]
    assert len(layers) >= 8
    assert not any(layer.activation is ACTIVATIONS["elu"] for layer in layers)


@pytest.mark.slow
def test_a_compiler_that_does_not_work_is_told_in_one_line(repository, tiny_overrides, tmp_path):
    nothing_cached = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    end = subprocess.run(
        [sys.executable, str(repository / "train.py"), *tiny_overrides, "compile=true"],
        env=os.environ | nothing_cached | {"CXX": "/bin/false"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert end.returncode == 2
    assert "Expect a working C++ compiler" in end.stderr
    assert "Traceback" not in end.stderr


@pytest.mark.parametrize("overlap", ["false", "true"])
@pytest.mark.parametrize("make_policy", [make_explorer, make_evaluation_policy])
@pytest.mark.parametrize(("graphs", "expected"), [("true", "cuda"), ("false", "trace")])
def test_policies_of_a_run_are_recorded_as_its_updates_are(
    compose_tiny, monkeypatch, make_policy, overlap, graphs, expected
):
    monkeypatch.setattr(build, "CudaTape", lambda: "cuda")
    monkeypatch.setattr(build, "TraceTape", lambda networks: "trace")
    cfg = compose_tiny(f"cuda_graphs={graphs}", f"collect.overlap={overlap}")
    assert make_policy(cfg, make_agent())._make_tape([]) == expected
