"""What a run is built of where the machine has a say in it."""

import json
import subprocess
import sys

import pytest
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from tiny import IMAGE, VECTORS, make_agent

from dreamer.models.observations import Decoder
from dreamer.run.build import (
    apply_kernels,
    choose_accelerator,
    choose_precision,
    make_envs,
    make_loggers,
    make_trainer,
    with_rendering,
)
from dreamer.run.compose import compose
from dreamer.run.folder import RunFolder
from dreamer.run.overrides import explain
from dreamer.run.train import train


def test_a_run_on_a_cpu_uses_kernels_unless_it_is_told_to_be_plain(compose_tiny):
    agent = make_agent(obs_shapes=IMAGE | VECTORS)
    assert apply_kernels(compose_tiny("kernels=plain"), agent) == []
    assert type(agent.world_model.decoder) is Decoder
    assert "ChunkedDecoder" in apply_kernels(compose_tiny("kernels=auto"), agent)
    assert type(agent.world_model.decoder) is not Decoder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernels", "expected"), [("auto", "kernels CpuConv2d, "), ("plain", "plain models")]
)
def test_run_says_which_kernels_it_uses(compose_tiny, capsys, kernels, expected):
    train(compose_tiny(f"kernels={kernels}"))
    device = next(x for x in capsys.readouterr().out.splitlines() if x.strip().startswith("device"))
    assert expected in device


def test_debug_presets_run_the_plain_models(repository):
    for path in (repository / "conf" / "debug").glob("*.yaml"):
        assert OmegaConf.load(path)["kernels"] == "plain", path


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("reward_head.layers", "heads.reward"),
        ("discount_head", "heads.discount"),
        ("discount_gradients", "heads.discount.gradients"),
    ],
)
def test_old_keys_of_heads_tell_of_the_new_ones(compose_tiny, key, new):
    sentence = f"`model.world_model.{key.split('.')[0]}` was replaced by `model.world_model.{new}`."
    with pytest.raises(ValueError) as caught:
        compose({f"model.world_model.{key}": 1})
    assert str(caught.value) == sentence
    with pytest.raises(HydraException) as caught:
        compose_tiny(f"model.world_model.{key}=1")
    assert explain(caught.value) == sentence


@pytest.mark.slow
def test_old_key_compile_tells_of_the_new_one(repository, tiny_overrides, tmp_path):
    end = subprocess.run(
        [sys.executable, str(repository / "train.py"), *tiny_overrides, "compile=true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert end.returncode == 2
    first, error = end.stderr.splitlines()
    assert first.startswith("Starting a run: ")
    assert error.startswith("error: `compile` was replaced by `kernels`: kernels=auto ")
    with pytest.raises(ValueError, match="^`compile` was replaced by `kernels`"):
        compose({"compile": "auto"})


def on_device(monkeypatch, *, cuda: bool, bf16: bool = False, mps: bool = False) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported",
        lambda including_emulation=True: bf16 or (cuda and including_emulation),
    )
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ({"cuda": False}, "32-true"),
        ({"cuda": True, "bf16": True}, "bf16-mixed"),
        ({"cuda": True, "bf16": False}, "16-mixed"),  # it would only emulate bfloat16
    ],
)
def test_precision_auto_asks_the_device(compose_tiny, monkeypatch, device, precision):
    on_device(monkeypatch, **device)
    assert choose_precision(compose_tiny("precision=auto", "trainer.accelerator=auto")) == precision
    assert choose_precision(compose_tiny("precision=32-true")) == "32-true"
    assert choose_precision(compose_tiny("precision=auto", "trainer.accelerator=cpu")) == "32-true"


def test_mps_is_used_on_request_only(compose_tiny, monkeypatch):
    on_device(monkeypatch, cuda=False, mps=True)
    assert choose_accelerator(compose_tiny("trainer.accelerator=auto")) == "cpu"
    assert choose_accelerator(compose_tiny("trainer.accelerator=mps")) == "mps"
    on_device(monkeypatch, cuda=True)
    assert choose_accelerator(compose_tiny("trainer.accelerator=auto")) == "cuda"
    assert choose_accelerator(compose_tiny("trainer.accelerator=cpu")) == "cpu"


def test_float16_needs_the_trainers_plugins_for_itself(compose_tiny):
    trainer = make_trainer(compose_tiny("precision=16-mixed"), logger=False)
    assert trainer.precision == "16-mixed"
    assert make_trainer(compose_tiny("precision=32-true"), logger=False).precision == "32-true"
    cfg = compose_tiny("precision=16-mixed", "+trainer.plugins=[{_target_: my.Plugin}]")
    with pytest.raises(ValueError, match="`trainer.plugins` must be null with precision=16-mixed"):
        make_trainer(cfg)


@pytest.mark.slow
def test_a_run_in_float16_resumes_with_the_scales_that_it_had(compose_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamer.loss_scaling.FIRST_SCALE", 2.0)  # nothing overflows
    half = "precision=16-mixed", "task=point", "callbacks.evaluate=null", "callbacks.video=null"
    for frames in (65, 81):
        train(compose_tiny(*half, f"run_dir={tmp_path / 'run'}", f"total_frames={frames}"))
    checkpoint = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    updates = checkpoint["counters"]["updates"]
    names = ("world_model", "actor", "critic")
    assert checkpoint["loss_scaling"] == dict.fromkeys(names, [2.0, updates, 0])
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    scales = [json.loads(line).get("grad_scale/actor") for line in lines]
    assert 2.0 in scales and set(scales) <= {2.0, None}


def test_environments_that_play_for_a_video_render_at_their_best():
    atari = OmegaConf.create({"env": {"task": "pong", "native_render": False}, "seed": 1})
    assert with_rendering(atari) == {"env": {"task": "pong", "native_render": True}, "seed": 1}
    assert not atari.env.native_render
    other = OmegaConf.create({"env": {"task": "memory"}})
    assert with_rendering(other) is other


def test_no_run_starts_at_wandb_if_another_logger_cannot_be_made(compose_tiny, monkeypatch):
    cfg, started = compose_tiny("logger=[wandb,mlflow]"), []
    monkeypatch.setattr("dreamer.loggers.make_wandb", lambda *given, **options: started.append(1))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no MLflow
    with pytest.raises(ImportError, match="requirements-mlflow"):
        make_loggers(cfg, RunFolder.of(cfg), make_envs(cfg, seed=0), None, lambda *failure: None)
    assert not started
