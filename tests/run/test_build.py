"""What a run is built of where the machine has a say in it."""

import subprocess
import sys

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from tiny import IMAGE, VECTORS, make_agent

from dreamer.models.observations import Decoder
from dreamer.run.build import apply_kernels
from dreamer.run.compose import compose
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
    assert end.stderr.startswith("error: `compile` was replaced by `kernels`: kernels=auto ")
    assert len(end.stderr.splitlines()) == 1
    with pytest.raises(ValueError, match="^`compile` was replaced by `kernels`"):
        compose({"compile": "auto"})
