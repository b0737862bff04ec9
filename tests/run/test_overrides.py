"""Words of a command line, made ready for Hydra, and explained where it refuses them."""

import hydra
import pytest
from hydra.errors import HydraException

from dreamer.run.compose import known_keys
from dreamer.run.overrides import explain, prepared
from dreamer.run.paths import CONF


def compose(*words):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(words))


@pytest.mark.parametrize(
    "path",
    [
        *("a=b", "a,b", "a#b", "a(b", "a)b", "~b", "a~b", "übung", "日本", "a b", "a[b", "{a}"),
        *("it's", 'say "so"', "a\\", "a\\'b", "a&b;c!", "[a]", "", "runs/x-1_2.3@4%5:6"),
    ],
)
def test_a_path_is_read_as_it_is_typed(path):
    assert compose(*prepared([f"root={path}"])).root == path


def test_a_path_that_is_quoted_or_interpolated_stays_so():
    words = ["root='a,b'", 'run_dir="c d"']
    assert prepared(words) == words
    assert compose(*prepared(["root=a b/${seed}"])).root == "a b/0"
    assert prepared(["-m", "run_dir=a,b"]) == ["-m", "run_dir=a,b"]  # two runs


def test_the_sampler_of_a_name_has_the_keys_of_its_file():
    words = ["replay.sampling=sequential", "replay.sampling.reset_interval=40"]
    cfg = compose(*prepared(words))
    assert cfg.replay.sampling.reset_interval == 40
    assert not cfg.replay.sampling.piece_policy_steps  # from the file
    assert "replay.sampling.reset_interval" in known_keys(prepared(words))
    assert prepared(["-m", "replay.sampling=steps,episodes"])[1] == "replay/sampling=steps,episodes"
    assert prepared(["replay.sampling=best"]) == ["replay.sampling=best"]  # explained elsewhere


def test_null_stays_null_where_a_path_has_a_default():
    assert compose(*prepared(["run_dir=null"])).run_dir is None


def test_groups_need_no_plus_and_no_logger_is_a_choice():
    assert prepared(["+experiment=cpu", "+debug=fast", "logger=null", "debug=null"]) == [
        *("experiment=cpu", "debug=fast", "logger=none", "debug=null")
    ]
    assert prepared(["+trainer.profiler=simple"]) == ["trainer.profiler=simple"]
    with pytest.raises(ValueError, match="^`model` must be the name of a file in conf/model, got"):
        prepared(["model=null"])
    with pytest.raises(ValueError, match="^`explore` must be .* in conf/explore, got `3`"):
        prepared(["explore=3"])


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("seed", "Arguments must be key=value, got `seed`"),
        ("task=a(b", "Hydra cannot parse `task=a(b`. Quote the value: \"task='a(b'\""),
        ("task=it's", "Hydra cannot parse `task=it's`. Quote the value: 'task=\"it'\"'\"'s\"'"),
        (
            "task=a,b",
            "`task=a,b` has several values, which need -m, a run for each. If the comma is part of "
            "the value, quote it: \"task='a,b'\"",
        ),
        (
            "logger=[csv,foo]",
            "`logger` must be the name of a file in conf/logger, got `foo`. The nearest: csv,",
        ),
        ("qqq=1", "Unknown key `qqq`. None of the known keys is similar; --help lists them"),
        ("batch.sise=1", "Unknown key `batch.sise`. The nearest: batch.size"),
        ("latents.share=1", "Unknown key `latents.share`. The nearest: latents._target_"),
        (
            "env=dumy",
            "`env` must be the name of a file in conf/env, got `dumy`. The nearest: dummy",
        ),
        ("compile=true", "`compile` was replaced by `kernels`"),
        ("search=cartpole", "`search` is a key of sweep.py"),
    ],
)
def test_what_hydra_refuses_is_one_line_that_says_what_to_type(word, told):
    with pytest.raises(HydraException) as error:
        compose(word)
    assert explain(error.value, known_keys).startswith(told)


@pytest.mark.slow
def test_the_keys_are_those_of_the_files_that_the_words_choose():
    assert "env.flat_keys" in known_keys(["env=gym", "seed=1"])
    assert "env.flat_keys" not in known_keys(["env=dummy"])
    assert "env.sticky_action_prob" in known_keys(["env=nothing"])  # as if it were not there
