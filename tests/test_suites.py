"""Environments of other packages: declared as entry points, chosen by name like ours."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import entry_points
import pytest

import dreamer
from dreamer.envs.faults import EnvironmentFault
from dreamer.envs.user import make_suite
from dreamer.run.compose import compose, register_suites
from dreamer.run.evaluate import evaluate

OPTIONS = dict(
    count=2,
    seed=0,
    action_repeat=1,
    time_limit_frames=None,
    grayscale=False,
    flat_keys="$^",
    processes=False,
    hang_seconds=60,
    max_restarts=0,
    kwargs={},
)
SMALL = {
    "debug": "fast",
    "logger": "jsonl",
    "total_frames": 250,
    "prefill_policy_steps": 200,
    "callbacks": {"video": None, "evaluate": None},
}


@pytest.fixture
def install(tmp_path) -> Iterator[Callable[..., None]]:
    """Install a package with suites, for the time of a test."""
    with ExitStack() as stack:
        yield lambda package, **points: stack.enter_context(
            entry_points.installed(tmp_path, package, points)
        )


@pytest.mark.slow
def test_a_suite_is_trained_in_and_evaluated_by_its_name(install, tmp_path):
    install("lamps", lamps="extensions:make_one_of")
    changes = {"env": "lamps", "task": "lamp", "root": str(tmp_path / "runs")}
    run = dreamer.train(overrides={**SMALL, **changes})
    assert run.run_dir == tmp_path / "runs/lamps/lamp/debug/seed0"
    assert run.summary.frames == 250
    options = dict(checkpoint="last", seed=0, sample_actions=False)
    scores = evaluate(run.run_dir, episodes=2, video_policy_steps=0, video_fps=5, **options)
    assert len(scores["returns"]) == 2


def test_keys_of_a_suite_are_those_of_gym(install):
    install("lamps", lamps="extensions:make_one_of")
    suite = compose({"env": "lamps", "task": "lamp"})
    gym = compose({"env": "gym", "task": "lamp"})
    assert suite.env._target_ == "dreamer.envs.user.make_suite"
    assert suite.env.factory == "extensions:make_one_of"
    assert suite.env_name == "lamps"
    assert suite.env.keys() == gym.env.keys() | {"factory"}
    assert suite.model == gym.model


def test_an_unknown_environment_lists_suites_among_ours(install):
    install("lamps", lamps="extensions:make_one_of")
    with pytest.raises(ValueError, match="file in conf/env, got `lamp`. The nearest: .*lamps"):
        compose({"env": "lamp"})


@pytest.mark.parametrize(
    ("points", "taken"), [({"gym": "a:b"}, "this program"), ({"lamps": "a:b"}, "lamps")]
)
def test_a_suite_with_a_name_that_is_taken_is_refused(install, points, taken):
    install("lamps", lamps="extensions:make_one_of")
    install("others", **points)
    name = next(iter(points))
    message = f"must have .* names, got `{name}` from ({taken} and others|others and lamps)"
    with pytest.raises(ValueError, match=message):
        register_suites()


def test_a_function_of_a_suite_is_given_the_task_and_kwargs():
    options = OPTIONS | {"kwargs": {"length": 3}}
    envs = make_suite("lamp", factory="extensions:make_one_of", **options)
    assert (envs.count, envs.obs_shapes) == (2, {"vector": (2,)})
    with pytest.raises(EnvironmentFault, match="make_one_of cannot be built: .*Unknown task pump"):
        make_suite("pump", factory="extensions:make_one_of", **OPTIONS)


def test_a_function_of_seed_and_count_makes_the_whole_group():
    kwargs = dict(rounds=1, corridor=1, length=1, speed=0.5, maze_length=1)
    envs = make_suite(
        "memory", factory="extensions:make_memory", **OPTIONS | {"count": 3, "kwargs": kwargs}
    )
    assert (envs.count, envs.obs_shapes) == (3, {"image": (1, 64, 64)})


def test_a_suite_whose_package_is_gone_is_told():
    with pytest.raises(ImportError, match="No module named 'nowhere'"):
        make_suite("lamp", factory="nowhere:make", **OPTIONS)
