"""Configurations from dictionaries: the same as from a command line, and without traces."""

import hydra
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.version import getbase
from omegaconf import OmegaConf

from dreamer.run.compose import compose
from dreamer.run.overrides import prepared
from dreamer.run.paths import CONF


def test_a_dictionary_means_what_a_command_line_means(compose_any):
    words = [
        "env=dummy",
        "task=memory",
        "model=tiny",
        "latents=gaussian",
        "logger=[jsonl,tensorboard]",
        "total_frames=10000",
        "batch.size=8",
        "replay.sampling=steps",
        "callbacks.video=null",
        "model.world_model.encoder.vector.layers=[16,8]",
    ]
    expected = compose_any(*prepared(words))
    actual = compose(
        {"env": "dummy", "task": "memory", "model": "tiny", "latents": "gaussian"},
        {
            "logger": ["jsonl", "tensorboard"],
            "total_frames": np.int64(10_000),
            "batch.size": 8,
            "replay": {"sampling": "steps"},
            "callbacks": {"video": None},
            "model.world_model": {"encoder.vector.layers": [16, 8]},
        },
    )
    assert OmegaConf.to_yaml(actual) == OmegaConf.to_yaml(expected)


def test_the_sampler_of_a_name_has_the_keys_of_its_file():
    cfg = compose({"replay": {"sampling": "sequential"}, "replay.sampling.reset_interval": 40})
    assert cfg.replay.sampling.reset_interval == 40


def test_later_overrides_win():
    assert compose({"task": "a", "seed": 1}, {"seed": 2}).seed == 2


def test_values_need_no_quotes():
    cfg = compose({"task": "it's {a} strange=task, [really]"})
    assert cfg.task == "it's {a} strange=task, [really]"


def test_kwargs_of_an_environment_and_scales_of_losses_may_be_new():
    cfg = compose({"env": "gym", "env.kwargs": {"gravity": 1.6}, "model": "tiny"})
    assert cfg.env.kwargs == {"gravity": 1.6}
    cfg = compose({"model.world_model.loss_scales": {"image": 2.0}})
    assert cfg.model.world_model.loss_scales.image == 2.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"explore.until_frames": 9},
            r"Unknown key `explore\.until_frames`\. Choices that have it: explore=model_loss, "
            r"explore=plan2explore, explore=random$",
        ),
        ({"kl_balanse": 1}, r"Unknown key `kl_balanse`\. The nearest: kl_balance"),
        ({"batch": {"sise": 1}}, r"Unknown key `batch\.sise`\. The nearest: batch\.size"),
        ({"batch.size.more": 1}, r"Unknown key `batch\.size\.more`\. The nearest: batch"),
        ({"model": "tini"}, r"conf/model, got `tini`\. The nearest: tiny"),
        ({"model": 3}, r"`model` must be the name of a file in conf/model, got 3"),
        ({"seed": object}, r"`seed` must be a number, text, .*, got `<class 'object'>`"),
    ],
)
def test_what_cannot_be_composed_is_told(overrides, message):
    with pytest.raises(ValueError, match=message):
        compose(overrides)


def test_a_program_that_uses_hydra_itself_does_not_notice():
    with hydra.initialize_config_dir(str(CONF), version_base="1.2"):
        before = GlobalHydra.instance().hydra
        compose({"env": "dummy"})
        assert GlobalHydra.instance().hydra is before
        assert str(getbase()) == "1.2"
        assert hydra.compose("train", ["task=pong"]).task == "pong"
    compose({"env": "dummy"})
    assert not GlobalHydra.instance().is_initialized()


def test_what_goes_wrong_leaves_no_trace_either():
    with pytest.raises(ValueError, match="conf/model, got `tini`"):
        compose({"model": "tini"})
    assert not GlobalHydra.instance().is_initialized()
