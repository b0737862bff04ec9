"""Random values for every key: each is accepted, or refused in one line that names the key."""

import math
import random

import pytest
from omegaconf import OmegaConf

from dreamer.run.compose import compose, known_keys
from dreamer.run.config import checked, reasons

VALUES = (
    *(-1, 0, 1, 3, 10**12, -0.5, 0.3, 1e39, math.inf, math.nan),
    *(True, False, None, "", "abc", "../x", "a=b", "1e400", "${oc.env:HOME}", "${nothing}"),
    *([], [1, 2], ["jsonl"], {}, {"a": 1}, {"_target_": "os.system"}),
)
ENVS = (("dummy", "memory"), ("atari", "pong"), ("gym", "CartPole-v1"), ("crafter", "reward"))
KEYS = [key for key in known_keys() if not key.startswith("hydra")]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(200))
def test_any_value_is_accepted_or_refused_by_name(seed, tmp_path):
    draw = random.Random(seed)
    env, task = draw.choice(ENVS)
    key, value = draw.choice(KEYS), draw.choice(VALUES)
    words = {"env": env, "task": task, "root": str(tmp_path), key: value}
    try:
        with reasons():
            cfg = checked(compose(words))
    except (ValueError, ImportError) as error:
        assert key.split(".")[-1] in str(error), f"{key}={value!r}: {error}"
        assert "\n" not in str(error).strip()
    else:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert list(tmp_path.iterdir()) == []
