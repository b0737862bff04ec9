"""Does it learn? Whole runs on worlds whose optimum is known; minutes, hence slow."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from dreamer.build import make_envs
from dreamer.runner import train

CONF = str(Path(__file__).parent.parent / "conf")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "switches"),
    [
        ("memory", ["latents=categorical"]),
        ("memory", ["latents=gaussian"]),
        ("point", ["actor_gradient=dynamics"]),
    ],
    ids=["pixels-categorical", "pixels-gaussian", "continuous-dynamics"],
)
def test_agent_gets_nine_tenths_of_the_way_from_random_to_optimal(task, switches, tmp_path):
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose(
            "train",
            ["env=dummy", f"task={task}", *switches, "logger=jsonl", f"root={tmp_path}"]
            + ["callbacks.evaluate.episodes=100", "callbacks.evaluate.every_frames=4000"],
        )
    envs = make_envs(cfg, seed=0)

    result = train(cfg)

    progress = (result.metrics["eval/return_mean"] - envs.random_return) / (
        envs.optimum - envs.random_return
    )
    assert progress >= 0.9
